"""TRL's vLLM modes with a head: refused before anything is loaded where they can't run, and set up where they can.

- Scores come from the training forward. vLLM gives none: the head stays out of the weights that it is sent, so
  it would score with the head of the run's start; and the log-probabilities that the importance correction needs, after
  temperature, are no place for scores to travel in. So this package's plugin leaves the model alone.
- Dtype and seed: vLLM computes in the type that training computes in, and samples from the run's seed.
- On the CPU, vLLM packs its matrices and drops what they were packed from; they are loaded as a whole, and packed
  again. A compiled model would hold on to the old ones, so it is not compiled.

Departure from TRL: a server whose log-probabilities are not those that it sampled from is refused, not warned of.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

import torch
from trl.generation import vllm_generation

from reflective.engines.vllm.engine import CPU_KV_GIB, ENVIRONMENT
from reflective.engines.vllm.plan import WITHOUT_SCORES
from reflective.errors import DependencyError, InputError, ReflectiveError, TrainingError
from reflective.train.joint.config import JointConfig
from reflective.train.joint.scored_model import is_head
from reflective.train.joint.trl.arguments import VLLM_MODES, use_bfloat16

# unless set otherwise; vLLM would bind the trainer's threads, and take most of the memory
CPU_ENVIRONMENT: Final = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": CPU_KV_GIB}
SERVE: Final = (
    "VLLM_PLUGINS='' VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    """--weight-transfer-config '{"backend": "nccl"}'"""
)


def check_vllm(config: JointConfig, device: torch.device) -> None:
    """Raise `InputError` or `DependencyError` where vLLM can't write the trajectories of this run."""
    settings = config.rollouts
    if settings.engine not in VLLM_MODES:
        if settings.vllm:
            raise InputError(f"[rollouts] vllm has settings of vLLM's, and engine is {settings.engine!r}.")
        return
    if find_spec("vllm") is None:
        raise DependencyError(
            f"[rollouts] engine {settings.engine!r} needs vLLM. Install it in the checkout: pip install '.[vllm]', "
            "or leave the engine out."
        )
    if settings.engine == "vllm_server" and device.type != "cuda":
        raise InputError(
            f"the weights reach a vLLM server by NCCL, from a CUDA device, and this run trains on {device.type!r}. "
            'Set [rollouts] engine = "vllm_colocate" or "torch".'
        )
    if device.type == "cpu" and settings.vllm.get("enable_sleep_mode"):
        raise InputError("vLLM does not sleep on the CPU. Leave enable_sleep_mode out of [rollouts] vllm.")


@contextmanager
def vllm_set_up(config: JointConfig, device: torch.device) -> Iterator[None]:
    """While the trainer is made, vLLM gets settings for which TRL has no names. Raises `TrainingError` where vLLM or
    the server refuses."""
    if config.rollouts.engine not in VLLM_MODES:
        yield
        return
    on_cpu = device.type == "cpu"
    for name, value in (ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {})).items():
        os.environ.setdefault(name, value)
    settings: dict[str, Any] = {
        "dtype": "bfloat16" if use_bfloat16(config, device) else "float32",
        "additional_config": WITHOUT_SCORES,
        "disable_log_stats": True,
    }
    if on_cpu:
        settings["enforce_eager"] = True
    own = vllm_generation.LLM

    def with_settings(**given: Any) -> Any:
        # TRL's seed differs between processes; vLLM also seeds this process's random numbers with it
        return own(**{**given, **settings, "seed": config.seed + given["seed"]})

    vllm_generation.LLM = with_settings
    try:
        yield
    except ReflectiveError:
        raise
    except Exception as error:  # vLLM, the connection and TRL's client each have their own classes of errors
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        how = f" A server is started with: {SERVE}" if config.rollouts.engine == "vllm_server" else ""
        raise TrainingError(f"vLLM can't write the trajectories: {reason[:300]}{how}") from error
    finally:
        vllm_generation.LLM = own


def keep_head_out(generation: Any) -> None:
    """Let TRL's `VLLMGeneration` send the backbone's weights and not the head's, which vLLM's loader does not know.

    Raises `InputError` where a server gives log-probabilities that are not those that it sampled from.
    """
    every = generation._iter_named_params
    generation._iter_named_params = lambda: ((name, p) for name, p in every() if not is_head(name))
    if generation.mode == "server":
        if generation.accelerator.is_main_process:
            _check_logprobs(generation)
    elif generation.accelerator.device.type == "cpu":
        generation.sync_weights = functools.partial(_load_whole, generation)


def _check_logprobs(generation: Any) -> None:
    mode = generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
    if mode == "processed_logprobs" or (mode == "raw_logprobs" and generation.temperature == 1.0):
        return
    raise InputError(
        f"the vLLM server runs with --logprobs-mode {mode}: what it returns is not what it sampled from, so the "
        f"importance ratio would be wrong. Start it with: {SERVE}"
    )


def _load_whole(generation: Any) -> None:
    """`sync_weights` on the CPU."""
    generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": generation._iter_named_params()})
    generation.llm.reset_prefix_cache()
