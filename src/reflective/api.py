"""The front door: `Reflective` loads a model once, then solves and scores.

model = Reflective.from_pretrained("nano")
model.solve("Find the Least Common Multiple (LCM) of these numbers: 14, 20", effort="high").answer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from reflective.engines import check_engine, make_engine, serve_engine
from reflective.engines.base import Engine
from reflective.engines.driver import Driver
from reflective.errors import CheckpointError, EngineError, InputError
from reflective.judge.aggregate import aggregate
from reflective.judge.calibrate import Calibration
from reflective.options import Options, plan
from reflective.search import AUTO, Interrupts, SearchEvent, Settings, Strategy, get_strategy, solve, solve_many, stream
from reflective.search.settings import check_text
from reflective.settings import check_least, check_names
from reflective.types import Problem, ScoredResponse, Solution, Step

if TYPE_CHECKING:
    from reflective.models import Checkpoint

Item = TypeVar("Item", str, Problem)
MAX_THREADS = 1024  # more than cores; 100 million end the process
Asked = str | Problem | Sequence[Mapping[str, str]]


class Given(TypedDict, total=False):
    """A response to score, by keyword.

    The prompt is one of `prompt` (raw text, taken as it is), `messages` (for the chat template, with the reasoning
    opened, once also where the response begins with `<think>`) and `prompt_ids`; the response is `response` or
    `response_ids`, token by token as the model would have written it: also the line break that it begins with.
    """

    prompt: str | None
    messages: Sequence[Mapping[str, str]] | None
    prompt_ids: Sequence[int] | None
    response: str | None
    response_ids: Sequence[int] | None


class Reflective:
    """A model with its engine. It may be used from several threads: each call gets its own trajectories' events, and
    what it returns does not depend on what else goes on."""

    def __init__(self, engine: Engine, *, calibration: Calibration | None = None) -> None:
        Driver.of(engine)  # refuses what is no engine
        self.engine = engine
        self.calibration = calibration if calibration is not None else engine.judge.calibration

    @classmethod
    def from_pretrained(
        cls,
        source: str = "nano",
        *,
        engine: str = "torch",
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        require_head: bool = False,
        head: str | None = None,
        check_fingerprint: bool = True,
        **engine_options: Any,
    ) -> Reflective:
        """Load "nano" (it comes with the package), a folder, a GGUF file or a hub id.

        `engine` is torch, vllm, llamacpp (for GGUF files), or the addresses of vLLM servers with commas between them;
        the model is then read for its tokenizer and its head. Addresses may also be of llama.cpp, Ollama, LM Studio or
        SGLang, which send no scores; the model is then its name there. `device` is auto, cpu, cuda or cuda:N;
        `dtype` auto, float32, bfloat16, float16, or int8 or int4 on a CPU; `threads` bounds the CPU threads. A model
        without a head, and servers that send no scores, serve the strategies that need none (majority, logprob,
        single); with `require_head` they are refused. `head` is the folder of a head that lies elsewhere, or "none";
        without `check_fingerprint` it may be that of another model.
        `engine_options` are the engine's own, such as `max_rows`, the trajectories written at once.
        """
        check_engine(engine)
        if not isinstance(source, str | PathLike):
            raise InputError(f"source is {source!r:.60}; it must be 'nano', a folder, a GGUF file or a hub id.")
        if threads is not None:
            _set_threads(threads)
        if engine != "torch":
            if device != "auto":
                raise InputError(f"device is {device!r}; the engine {engine!r} places the model itself. Leave it out.")
            if engine in ("vllm", "llamacpp"):
                engine_options["dtype"] = dtype
            of_head = {"head": head, "check_fingerprint": check_fingerprint}
            return cls(serve_engine(engine, source, require_head=require_head, **of_head, **engine_options))
        from reflective.models import load_checkpoint

        checkpoint = load_checkpoint(
            source,
            device=device,
            dtype=dtype,
            require_head=require_head,
            head=head,
            check_fingerprint=check_fingerprint,
            packed=True,
        )
        return cls.from_checkpoint(checkpoint, **engine_options)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **engine_options: Any) -> Reflective:
        """The embedded engine on a checkpoint that is loaded already; `engine_options` are the engine's own."""
        return cls(make_engine("torch", checkpoint, **engine_options))

    # ---- solving

    def solve(self, problem: Asked, **options: Unpack[Options]) -> Solution:
        """Solve one problem: a text, a `Problem`, or the messages of a conversation.

        See `Options` for what may be set. Ctrl-C returns what is there, marked as interrupted.
        """
        k, strategy, settings = self.plan(**options)
        asked = _problem(problem)
        return solve(self.engine, asked, k, strategy=strategy, settings=settings, calibration=self.calibration)

    def stream(
        self, problem: Asked, *, interrupts: Interrupts | None = None, **options: Unpack[Options]
    ) -> Iterator[SearchEvent]:
        """Solve one problem and tell what happens: `Started`, `Text`, `StepScored`, `Finished`, …, `Solved`."""
        k, strategy, settings = self.plan(**options)
        return stream(
            self.engine,
            _problem(problem),
            k,
            strategy=strategy,
            settings=settings,
            calibration=self.calibration,
            interrupts=interrupts,
        )

    def solve_many(self, problems: Iterable[Item], **options: Unpack[Options]) -> Iterator[tuple[Item, Solution]]:
        """Solve problems, several at a time; each comes with its solution as soon as that is there, in any order."""
        k, strategy, settings = self.plan(**options)
        return solve_many(self.engine, problems, k, strategy=strategy, settings=settings, calibration=self.calibration)

    def plan(self, **options: Unpack[Options]) -> tuple[int, Strategy, Settings]:
        """What `solve` would do with these options: trajectories, strategy, and settings with the model's defaults.

        Raises `InputError` for options that can't be, `EngineError` where the strategy needs scores and there are none.
        """
        scored = self.engine.scored
        k, strategy, settings = plan(
            options, scored=scored, sampling=self.engine.judge.config.sampling, judge=self.engine.judge
        )
        lost = self.engine.judge.scores and options.get("strategy", AUTO) == AUTO  # never without a word
        if not scored and (strategy.needs_scores or lost):
            name = get_strategy(AUTO, whole=self.engine.judge.format.is_whole).name if lost else strategy.name
            raise EngineError(
                f"the strategy {name!r} selects by step scores, and there are none. Without scores: strategy majority, "
                f"logprob or single. {self.engine.unscored}"
            )
        return k, strategy, settings

    # ---- scoring what others wrote

    def score(self, **given: Unpack[Given]) -> ScoredResponse:
        """Score the steps of a given response; see `Given` for how it and its prompt are named."""
        return self.score_many([given])[0]

    def score_many(self, items: Iterable[Given]) -> list[ScoredResponse]:
        """Score several responses, each with the arguments of `score`. A prompt that several share is read once."""
        items = list(items)
        for item in items:
            _check_parts(item)
        engine = self.engine
        if not engine.reads:
            raise EngineError(f"the engine of {engine.name!r} can't score given text; use the engine torch.")
        if not engine.scored:
            raise CheckpointError(f"{engine.name!r} has no SPRM head, so nothing can be scored.")
        pairs = [self._encode(item) for item in items]
        places: dict[tuple[int, ...], list[int]] = {}
        for place, (prompt, _) in enumerate(pairs):
            places.setdefault(prompt, []).append(place)
        found: list[tuple[Step, ...]] = [()] * len(pairs)
        for prompt, here in places.items():
            responses = [pairs[place][1] for place in here]
            scored = Driver.of(engine).call(partial(_score_many, prompt, responses))
            for place, steps in zip(here, scored, strict=True):
                found[place] = steps
        return [
            ScoredResponse(
                step_positions=tuple(step.position for step in steps),
                step_scores=tuple(step.score for step in steps),
                score=aggregate((step.logit for step in steps), engine.judge.aggregation),
            )
            for steps in found
        ]

    def _encode(self, given: Given) -> tuple[tuple[int, ...], list[int]]:
        """The ids of prompt and response of an item to score."""
        engine: Any = self.engine
        messages, response = given.get("messages"), given.get("response")
        if given.get("prompt") is not None:
            ids = _encode_raw(engine.tokenizer, _text("prompt", given["prompt"]))
        elif messages is not None:
            ids = list(engine.encode_messages(_messages(messages)))
        else:
            ids = _ids("prompt_ids", given["prompt_ids"], engine)
        if response is not None:
            answer = list(engine.tokenizer.encode(_text("response", response), add_special_tokens=False, verbose=False))
        else:
            answer = _ids("response_ids", given["response_ids"], engine)
        format = engine.judge.format
        if messages is not None:
            ids = _once_opened(ids, answer, list(format.opening_ids))
        return tuple(ids), list(format.completed(answer))

    # ---- life

    def close(self) -> None:
        """Give back the engine's memory. What is being written in other threads fails."""
        Driver.of(self.engine).close()

    def __enter__(self) -> Reflective:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _score_many(prompt: Sequence[int], responses: Sequence[Sequence[int]], engine: Engine) -> list[tuple[Step, ...]]:
    return engine.score_many(prompt, responses)


def _problem(asked: Asked) -> str | Problem:
    if isinstance(asked, str | Problem):
        return asked
    return Problem.of_messages(_messages(asked))


def _set_threads(threads: Any) -> None:
    check_least(1, threads=threads)
    if not isinstance(threads, Integral) or int(threads) > MAX_THREADS:
        raise InputError(f"threads is {threads!r}; it must be a whole number, at most {MAX_THREADS:,}.")
    import torch

    torch.set_num_threads(int(threads))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text; got {type(value).__name__}.")
    return check_text(value, name)


def _messages(value: Any) -> list[dict[str, str]]:
    fine = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not fine or not all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value):
        raise InputError('messages must be a list such as [{"role": "user", "content": "What is 2 + 2?"}].')
    return [{**message, "content": check_text(message["content"], "a message")} for message in value]


def _ids(name: str, value: Any, engine: Any) -> list[int]:
    size = engine.vocabulary
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{name} must be a list of token ids; got {type(value).__name__}.")
    for token in value:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < size:
            raise InputError(f"{name} holds {token!r}; this model knows the token ids 0 to {size - 1}.")
    return list(value)


def _once_opened(prompt: list[int], response: list[int], opening: list[int]) -> list[int]:
    """The prompt without its last opening mark where the response begins with one."""
    n = len(opening)
    if not n or response[:n] != opening:
        return prompt
    last = max((i for i in range(len(prompt) - n + 1) if prompt[i : i + n] == opening), default=len(prompt))
    return prompt[:last]


def _check_parts(item: Given) -> None:
    """An item to score has one prompt and one response."""
    check_names(item, Given.__annotations__, "argument")
    if sum(item.get(name) is not None for name in ("prompt", "messages", "prompt_ids")) != 1:
        raise InputError("give the prompt as exactly one of prompt, messages and prompt_ids.")
    if (item.get("response") is None) == (item.get("response_ids") is None):
        raise InputError("give the response as either response or response_ids.")


def _encode_raw(tokenizer: Any, text: str) -> list[int]:
    """Raw text as a completion server reads it: the tokenizer's own start token, unless the text begins with it."""
    start = tokenizer.bos_token
    return list(tokenizer.encode(text, verbose=False, add_special_tokens=not (start and text.startswith(start))))
