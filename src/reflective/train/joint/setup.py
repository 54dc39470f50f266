"""What a joint run begins with: the judge, the encoding of prompts, adapters, and checks of the settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from reflective.engines.base import Sampling
from reflective.engines.text import encode_chat
from reflective.errors import InputError
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import DROPOUT
from reflective.judge.judge import Judge, init_judge
from reflective.models import Checkpoint
from reflective.train.joint.config import JointConfig
from reflective.train.joint.scored_model import whole_head
from reflective.train.progress import Note

FILTERS = frozenset(Sampling.__annotations__)  # TRL's settings have the same names


def judge_of(config: JointConfig, checkpoint: Checkpoint, note: Note) -> Judge:
    """The model's own judge, or one with a fresh head where it has none or another is asked for."""
    settings, own = config.head, checkpoint.judge
    if own.head is not None and not settings.fresh:
        _check_kept(config, own.config)
        kept = replace(own.config, calibration=None, probability_exponent=0.0)  # `train head` finds them anew
        if settings.dropout is not None:
            kept = replace(kept, dropout=settings.dropout)
        return Judge(kept, whole_head(kept, own.head.state_dict()).to(checkpoint.model.device))
    detection: dict[str, Any] = {"rule": settings.step_rule, "step_token_ids": settings.step_tokens or None}
    asked = settings.step_tokens or settings.step_rule
    judge = init_judge(
        checkpoint.model,
        checkpoint.tokenizer,
        format=None if asked else own.format,
        detection=detection,
        layer=-2 if settings.layer is None else settings.layer,
        logprob_features=bool(settings.logprob_features),
        seed=config.seed,
        dropout=DROPOUT if settings.dropout is None else settings.dropout,
    )
    note("the head is new")
    return judge


def _check_kept(config: JointConfig, kept: JudgeConfig) -> None:
    """Refuse what can't be asked of a head that is there already."""
    asked = config.head
    for name, wanted, found in (
        ("layer", asked.layer, kept.layer),
        ("step_tokens", frozenset(asked.step_tokens) or None, kept.format.step_ids),
        ("step_rule", asked.step_rule, None),
        ("logprob_features", asked.logprob_features, kept.logprob_features),
    ):
        if wanted is not None and wanted != found:
            raise InputError(
                f"[head] {name} is a new head's, and the head of {config.model!r} is kept. "
                f"Set [head] fresh = true, or leave {name} out."
            )


def prompt_encoder(tokenizer: Any, judge: Judge) -> Callable[[str], list[int]]:
    """From a question to tokens: the chat template, with the reasoning opened."""

    return lambda text: list(encode_chat(tokenizer, judge, [{"role": "user", "content": text}]))


def check_choice(config: JointConfig, judge: JudgeConfig) -> None:
    """Settings that can't go together, known once the head is."""
    engine, settings = config.rollouts.engine, config.rollouts
    distorted = settings.temperature != 1.0 or not FILTERS.isdisjoint(config.trl)
    if judge.logprob_features and (engine == "trl" or (engine != "torch" and distorted)):
        raise InputError(
            "the head reads log-probabilities at temperature 1, without filters, which these rollouts don't bring. Use "
            '[rollouts] engine = "torch", or vLLM at temperature 1, or a fresh head without logprob_features.'
        )
    if judge.feature_position == "mean":
        raise InputError("a head that reads means over steps can't be trained jointly: make a fresh one.")
    if engine == "torch" and judge.feature_position != "before":
        raise InputError(
            "the head reads at the step token, and the embedded engine scores from before it. Use another engine."
        )


def in_pieces() -> str | None:
    """What shards the weights in this launch, by the variables of `accelerate launch`; None: nothing."""
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "").lower() in ("1", "true"):
            return what
    return None


def check_engine(config: JointConfig) -> None:
    """The embedded engine reads whole weights, and adapters are merged into whole ones."""
    if config.lora.rank and (what := in_pieces()):
        raise InputError(
            f"adapters can't be merged where {what} cuts the weights into pieces. "
            "Launch with DDP, or set [lora] rank = 0."
        )
    if config.rollouts.engine == "torch" and (what := in_pieces()):
        raise InputError(
            f"under {what} the weights lie in pieces on all GPUs, where the embedded engine can't read them. "
            'Set [rollouts] engine = "vllm_colocate", "vllm_server" or "trl".'
        )


def with_adapters(model: Any, config: JointConfig) -> Any:
    """The model, with low-rank adapters where the settings ask for them, the same on every rank."""
    if not config.lora.rank:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    settings = config.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.modules),
            task_type="CAUSAL_LM",
        ),
    )
