"""Drives vLLM for its tests, beside the embedded engine that it is compared with. Everything is float32.

vLLM runs in the test's own process where it can: starting processes costs more than these models do.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

GREEDY_TOKENS = 40


NEEDS_VLLM = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make setup installs it on Linux)"
)


@functools.cache
def prepare() -> None:
    """Set the environment, then import vLLM: no sooner than a test needs it, since that takes seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.model_executor.models import registry

    # it looks at a class in a process of its own, ten seconds each, to keep CUDA out of this one; here is no CUDA
    registry._run_in_subprocess = lambda look: look()


def sampling(**settings: Any) -> Any:
    """vLLM's `SamplingParams`."""
    prepare()
    from vllm import SamplingParams

    return SamplingParams(**settings)


@contextmanager
def serving(source: Path | str, **options: Any) -> Iterator[Any]:
    """A `VLLMEngine` for a while; what vLLM leaves in the process is cleaned up behind it."""
    prepare()
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    from reflective.engines.vllm.engine import VLLMEngine

    settings: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_rows": 32, "max_model_len": 512}
    engine = VLLMEngine.from_source(source, **(settings | options))
    try:
        yield engine
    finally:
        engine.close()
        cleanup_dist_env_and_memory()


@functools.cache
def embedded(source: Path | str) -> Any:
    """The embedded engine on the same checkpoint."""
    from reflective.engines.torch import TorchEngine
    from reflective.models import load_checkpoint

    return TorchEngine.from_checkpoint(load_checkpoint(source, dtype="float32", device="cpu"))


def greedy_requests(engine: Any, count: int = 5, tokens: int = GREEDY_TOKENS) -> list[Any]:
    """Prompts of different lengths, all with the thinking opened."""
    from reflective.engines.base import Request, Sampling

    texts = [f"What is {'1 + ' * (3 * i)}{i + 2}?" for i in range(count)]
    greedy = Sampling(temperature=0.0)
    return [Request(engine.encode_prompt(t), greedy, max_tokens=tokens, index=i) for i, t in enumerate(texts)]


def assert_same(got: Sequence[Any], want: Sequence[Any], tolerance: float = 2e-3) -> None:
    """Same tokens, same steps, scores equal up to rounding; and there are scores."""
    assert [t.token_ids for t in got] == [t.token_ids for t in want]
    assert [t.finish_reason for t in got] == [t.finish_reason for t in want]
    assert sum(len(t.steps) for t in want) >= 5
    for ours, theirs in zip(got, want, strict=True):
        assert [s.position for s in ours.steps] == [s.position for s in theirs.steps]
        assert [s.logit for s in ours.steps] == pytest.approx([s.logit for s in theirs.steps], abs=tolerance)


def raw(engine: Any, prompts: Sequence[Sequence[int]], params: Sequence[Any], **options: Any) -> list[list[Any]]:
    """Straight through vLLM: for each prompt the completions, each with tokens, text and values by id."""
    from vllm.sampling_params import RequestOutputKind

    loop = engine._engine
    ids = [f"raw{i}" for i in range(len(prompts))]
    for id, prompt, one in zip(ids, prompts, params, strict=True):
        one.output_kind = RequestOutputKind.FINAL_ONLY  # else several samples would come one by one
        loop.add_request(id, {"prompt_token_ids": list(prompt)}, one, **options)
    done: dict[str, Any] = {}
    while loop.has_unfinished_requests():
        for output in loop.step():
            if output.finished:
                done[output.request_id] = output
    return [list(done[id].outputs) for id in ids]


def step_logits(engine: Any, prompt: Sequence[int], output: Any) -> list[float]:
    """MLP(h) of the steps of a raw completion: what vLLM's own clients compute from the slots."""
    from reflective.engines.vllm.slots import read_logit
    from reflective.judge.format import step_positions

    slots = engine.slots
    positions = step_positions(engine.judge.format, list(output.token_ids), list(prompt))
    rows = [output.logprobs[p] for p in positions]
    return [read_logit(row[slots.score].logprob, row[slots.reference].logprob) for row in rows]


def features_of(source: Path | str, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """The same from Hugging Face."""
    from reflective.engines.vllm.handshake import expected_logits
    from reflective.judge.format import step_positions
    from reflective.models.metadata import read_metadata

    model = read_metadata(source)
    expected = expected_logits(model, list(prompt), list(tokens))
    return [expected[p] for p in step_positions(model.judge.format, list(tokens), list(prompt))]
