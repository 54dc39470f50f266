"""The vLLM engine: trajectories written and scored by vLLM's own engine loop, in this process.

`submit` is vLLM's `add_request`, `cancel` its `abort_request`, `step` its `step`; batching, memory, prefix caching and
parallelism are vLLM's. Scores come by the plugin (`plugin.py` beside this file); the handshake at the start proves that
they do. A continuation is a request whose prompt holds what has been written, found again in the prefix cache.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

from reflective.engines.external import ExternalEngine, draw_seed
from reflective.engines.sampled_token import SampledToken
from reflective.engines.sequence import Running
from reflective.engines.vllm.handshake import PROBLEM, TOKENS, scores_are_right, scores_arrive
from reflective.engines.vllm.plan import WITHOUT_SCORES, head_config, make_plan
from reflective.errors import CheckpointError, DependencyError, EngineError, InputError, ReflectiveError, first_line
from reflective.models.metadata import NO_HEAD, Metadata, read_metadata
from reflective.settings import check_least, check_names
from reflective.types import FinishReason

PLUGIN: Final = "reflective.engines.vllm.plugin"
MAX_ROWS: Final = 64  # trajectories written at once by default
CPU_BLOCK: Final = 32  # positions that the prefix cache shares as one, on the CPU; vLLM's 128 shares few short prompts
CPU_CONTEXT: Final = 8192  # at most, on the CPU: vLLM warms up over the whole context, minutes long where it has 32,768
CPU_KV_GIB: Final = "4"  # for keys and values on the CPU, where vLLM would take most of the memory that there is
ENDS: Final[Mapping[str, FinishReason]] = {"stop": "eos", "length": "length", "repetition": "length"}

# quiet, unless the user said otherwise; stdout belongs to results
ENVIRONMENT: Final = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMEngine(ExternalEngine):
    """Writes scored trajectories with vLLM.

    `options` are vLLM's engine arguments, such as `tensor_parallel_size`, `enforce_eager`, `gpu_memory_utilization`.
    Not given, `logprobs_mode` is raw_logits for a model with a head: the cheaper one, since nothing is normalised;
    `max_model_len` is 8,192 at most on the CPU; and answers are held to a form by llguidance, as in the embedded
    engine.
    """

    constrains = True

    def __init__(self, model: Metadata, *, dtype: str = "auto", max_rows: int = MAX_ROWS, **options: Any) -> None:
        check_least(1, max_rows=max_rows)
        self._broken = ""
        self._engine = _start(model, dtype, max_rows, options)
        config = self._engine.vllm_config.model_config
        super().__init__(model, context_length=int(config.max_model_len))
        self.logprobs_mode = str(config.logprobs_mode)
        self.max_rows = max_rows
        try:
            if self.scored:
                self._shake_hands()
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_source(
        cls,
        source: str | Path,
        *,
        require_head: bool = True,
        head: str | Path | None = None,
        check_fingerprint: bool = True,
        **options: Any,
    ) -> VLLMEngine:
        """An engine on "nano", a folder, a GGUF file or a hub id."""
        model = read_metadata(source, require_head=require_head, head=head, check_fingerprint=check_fingerprint)
        try:
            model.judge.for_generation(model.name, knows_trajectories=False)
        except CheckpointError:
            if not model.shipped or require_head:
                raise
            remark = f"no step scores: vLLM can't compute the head {model.shipped!r} that comes with the package."
            model = replace(read_metadata(source, require_head=False, head=NO_HEAD), remark=remark)
        if model.head_folder is not None:
            options["additional_config"] = {**options.get("additional_config", {}), **head_config(model.head_folder)}
        elif not model.judge.scores:
            options["additional_config"] = {**options.get("additional_config", {}), **WITHOUT_SCORES}
        engine = cls(model, **options)
        engine.remark = " ".join(filter(None, (model.remark, engine.remark)))
        return engine

    def close(self) -> None:
        """Stop vLLM's processes and free its memory."""
        super().close()
        engine, self._engine = getattr(self, "_engine", None), None
        if engine is not None:
            engine.engine_core.shutdown()

    # ---- requests

    def _send(self, sequence: Running) -> None:
        form = sequence.request.constraint
        self._add(
            str(sequence.id),
            [*sequence.prompt_ids, *sequence.token_ids],
            **asdict(sequence.request.sampling),
            seed=draw_seed(sequence.request.seed, len(sequence.token_ids)),
            max_tokens=sequence.limit - len(sequence.token_ids),
            stop_token_ids=self._stop_ids(sequence),
            schema=form.schema if form is not None else None,
        )

    def _add(self, id: str, prompt: list[int], *, schema: dict[str, Any] | None = None, **sampling: Any) -> None:
        if self._broken:
            raise EngineError(self._broken)
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if schema is not None:
            sampling["structured_outputs"] = StructuredOutputsParams(json=schema)
        slots = self.slots
        wanted = {"logprob_token_ids": list(slots.ids)} if slots is not None else {"logprobs": 0}
        params = SamplingParams(
            output_kind=RequestOutputKind.DELTA, detokenize=False, flat_logprobs=True, **wanted, **sampling
        )
        try:
            self._engine.add_request(id, {"prompt_token_ids": prompt}, params)
        except (ValueError, VLLMError) as error:
            raise InputError(f"vLLM refuses a request: {first_line(error)}.") from error

    def _abort(self, sequence: Running) -> None:
        self._engine.abort_request([str(sequence.id)])

    def _receive(self) -> None:
        while self._running and not self._events:
            for id, sampled, end in self._advance():
                sequence = self._running.get(int(id))
                if sequence is not None:
                    self._take(sequence, sampled, end)
                    if end is None and sequence.id not in self._running:  # a mark of several tokens, which vLLM can't
                        self._abort(sequence)  # stop at
            if not self._running or self._events or self._engine.has_unfinished_requests():
                return  # a step without an event is a step
            raise EngineError("vLLM has lost running trajectories. See its messages above.")

    def _advance(self) -> list[tuple[str, list[SampledToken], FinishReason | None]]:
        """One step of vLLM: the new tokens of each request, and why it ended."""
        if self._broken:
            raise EngineError(self._broken)
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever a dying process raises; what it was writing is gone
            self._broken = f"vLLM stopped: {type(error).__name__}: {str(error)[:200]}"
            raise EngineError(self._broken) from error
        found = []
        for output in outputs:
            (one,) = output.outputs
            end = None
            if one.finish_reason is not None:
                end = ENDS.get(one.finish_reason)
                if end is None:
                    raise EngineError(f"vLLM ended a trajectory with {one.finish_reason!r}. See its messages above.")
            found.append((output.request_id, _sampled(one, self.slots is not None), end))
        return found

    # ---- the handshake

    def _shake_hands(self) -> None:
        where = "vLLM in this process"
        prompt = list(self.encode_prompt(PROBLEM))
        self._add("handshake", prompt, temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
        sampled: list[SampledToken] = []
        while self._engine.has_unfinished_requests():
            for _, new, _ in self._advance():
                sampled += new
        logits = scores_arrive(sampled, where=where)
        # in this process, vLLM's Transformers backend has changed the classes that a comparison would load
        changed = hasattr(self._engine, "model_executor") and self._engine.model_config.using_transformers_backend()
        self.verified = not changed and scores_are_right(self.model, prompt, sampled, logits, where=where)


def _sampled(output: Any, with_slots: bool) -> list[SampledToken]:
    """The tokens of an output with their values, which vLLM lists with the drawn token's first."""
    tokens, flat = list(output.token_ids), output.logprobs
    if flat is None or len(flat) != len(tokens):
        if not tokens:
            return []
        raise EngineError("vLLM returned tokens without log-probabilities. See its messages above.")
    found = []
    for token, start, stop in zip(tokens, flat.start_indices, flat.end_indices, strict=True):
        values = flat.logprobs[start:stop]
        found.append(SampledToken(token, values[0], tuple(values[1:4]) if with_slots else ()))
    return found


def _start(model: Metadata, dtype: str, max_rows: int, options: Mapping[str, Any]) -> Any:
    """vLLM's engine with the model loaded."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise DependencyError(
            f"the engine vllm needs vLLM ({error}). Install it in the checkout: pip install '.[vllm]', "
            "or use the engine torch."
        ) from error
    check_names(options, [f.name for f in fields(EngineArgs)], "engine argument of vLLM")
    settings: dict[str, Any] = {
        "model": str(model.folder),
        "dtype": dtype,
        "max_num_seqs": max_rows,
        "logprobs_mode": "raw_logits" if model.judge.scores else "raw_logprobs",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "structured_outputs_config": StructuredOutputsConfig(backend="guidance", disable_any_whitespace=True),
    }
    if current_platform.is_cpu():
        settings["block_size"] = CPU_BLOCK
        if model.context_length > CPU_CONTEXT:
            settings["max_model_len"] = CPU_CONTEXT
        # vLLM 0.32 fails on the CPU where a prompt with a seed of its own is cut: "CPU Generator does not use offset"
        settings["enable_chunked_prefill"] = False
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_KV_GIB)
    args = EngineArgs(**(settings | dict(options)))
    try:
        if model.judge.scores:
            _check(args)
        with _interrupts_held_back():
            return LLMEngine.from_engine_args(args)
    except ReflectiveError:
        raise
    except Exception as error:  # configuration, memory, processes: each with errors of its own
        raise EngineError(f"vLLM can't serve {model.name!r}: {_cause(error)}") from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not end: a search that is stopped still needs them.

    They inherit which signals this thread holds back. Meanwhile another thread takes them, so that a Ctrl-C stops the
    loading.
    """
    resource_tracker.ensure_running()  # a process of Python's own; starting it later would let the signal through
    started = threading.Event()
    threading.Thread(target=started.wait, name="reflective-signals", daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        started.set()


def _check(args: Any) -> None:
    """Refuse here, in one line, what the plugin would refuse in a process of vLLM's."""
    from vllm import ModelRegistry

    config = args.create_engine_config()
    check_loaded()
    stock, _ = ModelRegistry.resolve_model_cls(config.model_config.architectures, config.model_config)
    make_plan(config, stock)


def check_loaded() -> None:
    """Raise `EngineError` where vLLM, which passes over plugins that fail, has not loaded ours."""
    from vllm import ModelRegistry

    if any(type(model).__module__ == PLUGIN for model in ModelRegistry.models.values()):
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "reflective" not in allowed.split(","):
        raise EngineError(f"VLLM_PLUGINS={allowed!r} keeps reflective's plugin out of vLLM. Add reflective to it.")
    raise EngineError(
        "vLLM did not load reflective's plugin: the entry point vllm.general_plugins is not installed. "
        "Install reflective with pip in the environment of vLLM."
    )


def _cause(error: BaseException) -> str:
    """The first error of a chain, in one line: vLLM wraps what a process raised."""
    while error.__cause__ is not None or error.__context__ is not None:
        following = error.__cause__ or error.__context__
        assert following is not None
        error = following
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
