"""Drives the embedded engine for its tests, beside the reference that it is compared with: Hugging Face alone.

Random models seldom draw one given token, so steps end here at every third id and most trajectories have some.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from reflective.engines.base import Event, Finished, Request, Sampling, StepScored, Text
from reflective.engines.torch import TorchEngine
from reflective.judge.config import JudgeConfig
from reflective.judge.format import Format, between_marks
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.types import Trajectory
from tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
THINK, THINK_END, EOS = TOKENIZER.convert_tokens_to_ids(["<think>", "</think>", "<|im_end|>"])
STEP_IDS = frozenset(range(0, 250, 3))
RULE = between_marks(STEP_IDS, THINK, THINK_END)
GREEDY = Sampling(temperature=0.0)


def make_head(model: Any, layer: int = -2, *, logprob_features: bool = False, seed: int = 0) -> SPRMHead:
    """A head whose scores spread over 0..1 for this model: its logits have mean 0 and standard deviation 1.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SPRMHead(64, logprob_features=logprob_features).eval()
        ids = torch.randint(0, 250, (1, 48))
    with torch.no_grad():
        head = head.to(model.device)
        hidden = model(ids.to(model.device), output_hidden_states=True).hidden_states[layer][0].float()
        logits = head.output(torch.relu(head.hidden(hidden)))
        head.output.weight.mul_(1.5 / logits.std())
        head.output.bias.sub_(head.output(torch.relu(head.hidden(hidden))).mean())
        if head.logprob_weight is not None:
            head.logprob_weight.copy_(torch.tensor([0.3, -0.2]))
            head.probability_exponent = 0.2
    return head


def make_engine(
    family: str = "qwen2",
    *,
    config: dict[str, Any] | None = None,
    layer: int = -2,
    aggregation: str = "geometric_mean",
    rule: Format | None = RULE,
    scored: bool = True,
    logprob_features: bool = False,
    eos: int | None = None,
    **options: Any,
) -> TorchEngine:
    """The engine on a fresh tiny model; `config` overrides the model's settings, `eos` is a token that ends, too."""
    model = tiny_model(family, **(config or {}))
    head = make_head(model, layer, logprob_features=logprob_features) if scored else None
    if eos is not None:
        model.generation_config.eos_token_id = [EOS, eos]
    judge = judge_of(head, rule, layer=layer, aggregation=aggregation) if rule is not None else None
    return TorchEngine(model, tiny_tokenizer(), judge, name="tiny", **options)


def judge_of(head: SPRMHead | None, format: Format = RULE, **settings: Any) -> Judge:
    """The judge with this head; `settings` are further fields of its config."""
    if head is not None:
        settings |= {"logprob_features": head.uses_logprobs, "probability_exponent": head.probability_exponent}
    return Judge(JudgeConfig(64, format, **settings), head)


def count_calls(object: Any, method: str) -> list[tuple[Any, ...]]:
    """The positional arguments of every call of `object.method` from now on."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(object, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    setattr(object, method, counted)
    return calls


@functools.cache
def _reference(family: str, config: str) -> Any:
    model = tiny_model(family, **json.loads(config))
    model.set_attn_implementation("eager")
    return model


def reference(family: str = "qwen2", config: dict[str, Any] | None = None) -> Any:
    """The same model as `make_engine`'s in Hugging Face's own hands. Read it, don't change it."""
    return _reference(family, json.dumps(config or {}))


def prompts(*lengths: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Random prompts that leave the thinking open."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(0, 250, (length - 1,), generator=generator).tolist() for length in lengths]
    return [(*ids, THINK) for ids in made]


def run(engine: TorchEngine) -> list[Event]:
    """Step until there is no work."""
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    return events


def finished(events: Iterable[Event]) -> dict[int, Trajectory]:
    """Trajectories by id."""
    return {event.id: event.trajectory for event in events if isinstance(event, Finished)}


def text(events: Iterable[Event], id: int) -> str:
    """What was streamed of a trajectory."""
    return "".join(event.delta for event in events if isinstance(event, Text) and event.id == id)


def step_scores(events: Iterable[Event], id: int) -> list[tuple[int, float]]:
    """Index and score of each step as it was streamed."""
    return [(event.index, event.score) for event in events if isinstance(event, StepScored) and event.id == id]


def write(engine: TorchEngine, requests: Sequence[Request]) -> list[Trajectory]:
    """The trajectories of all requests, in their order."""
    ids = [engine.submit(request) for request in requests]
    done = finished(run(engine))
    return [done[id] for id in ids]


@torch.inference_mode()
def hf_greedy(model: Any, prompt: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Hugging Face's own greedy continuation."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return tuple(out[0, len(prompt) :].tolist())


@torch.inference_mode()
def hf_step_scores(
    model: Any, head: SPRMHead, prompt: Sequence[int], trajectory: Trajectory, layer: int = -2
) -> list[float]:
    """Scores of the trajectory's steps from a separate full forward."""
    out = model(torch.tensor([[*prompt, *trajectory.token_ids]]), output_hidden_states=True)
    hidden = out.hidden_states[layer][0]
    at = [len(prompt) + step.position - 1 for step in trajectory.steps]
    scores: list[float] = head(hidden[at]).sigmoid().tolist()
    return scores


@torch.inference_mode()
def hf_logprobs(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of `tokens` after `prompt`, from a separate full forward."""
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
