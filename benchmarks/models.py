"""The two shapes with random weights, and the ways to write with them. Imported by the sides, which do need torch.

Speed does not depend on the weights' values, so they are random; nothing is downloaded. Everything is float32, as on
every CPU without bfloat16 instructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import torch
from common import Setting
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from reflective.engines.base import Finished, Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.judge.config import JudgeConfig
from reflective.judge.format import Format, between_marks
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge

NANO: Mapping[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 1088,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
HALF: Mapping[str, Any] = {  # Qwen2.5-0.5B
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
QUICK: Mapping[str, Any] = {"num_hidden_layers": 2, "vocab_size": 1088}

THINK, THINK_END, FIRST_STEP_TOKEN = 3, 4, 100
STEP_EVERY = 15  # one token in so many ends a step, about as in real reasoning


def settings_of(setting: Setting) -> dict[str, Any]:
    """The entries of the shape's config.json; those of the shipped nano where that is there."""
    values = dict(HALF if setting.shape == "half" else NANO)
    shipped = resources.files("reflective.nano") / "weights" / "config.json"
    if setting.shape == "nano" and shipped.is_file():
        stored = json.loads(shipped.read_text(encoding="utf-8"))
        values = {key: stored.get(key, value) for key, value in values.items()}
    if setting.quick:
        values |= QUICK
    values["max_position_embeddings"] = max(values["max_position_embeddings"], setting.prompt + setting.tokens + 8)
    return values | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def random_model(setting: Setting, seed: int = 0) -> PreTrainedModel:
    """The shape with random weights, made without holding anything twice; nothing ends a text."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    values = settings_of(setting)
    config = CONFIG_MAPPING[values.pop("model_type")](**values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(config)  # its frequencies are computed, not weights
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
    model.generation_config.eos_token_id = None
    return model.eval()


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A real tokenizer with so many tokens, since decoding the text is part of our engine's work."""
    words = {f"t{i}": i for i in range(size)}
    backend = Tokenizer(WordLevel(words, unk_token="t0"))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def rule(model: PreTrainedModel) -> Format:
    """A step ends at one token in `STEP_EVERY`."""
    size = int(model.config.vocab_size)
    return between_marks(frozenset(range(FIRST_STEP_TOKEN, FIRST_STEP_TOKEN + size // STEP_EVERY)), THINK, THINK_END)


def head(model: PreTrainedModel) -> SPRMHead:
    """A random head."""
    torch.manual_seed(1)
    return SPRMHead(int(model.config.hidden_size)).eval()


def prompt_ids(setting: Setting) -> tuple[int, ...]:
    """The prompt; it opens the thinking."""
    return (*(5 + i % 50 for i in range(setting.prompt - 1)), THINK)


def engine(setting: Setting, model: PreTrainedModel, **options: Any) -> TorchEngine:
    """Our engine with a head, at its defaults unless `options` say otherwise."""
    names = tokenizer(int(model.config.vocab_size))
    judge = Judge(JudgeConfig(int(model.config.hidden_size), rule(model)), head(model))
    return TorchEngine(model, names, judge, max_rows=setting.rows, **options)


def write(engine: TorchEngine, setting: Setting, *, rows: int | None = None, tokens: int | None = None) -> int:
    """Write the rows with our engine; the number of tokens written."""
    limit = tokens or setting.tokens
    for row in range(rows or setting.rows):
        engine.submit(Request(prompt_ids(setting), Sampling(), seed=row, max_tokens=limit, until="eos"))
    written = 0
    while engine.busy:
        for event in engine.step():
            if isinstance(event, Finished):
                written += event.trajectory.tokens
                engine.cancel(event.id)  # it won't be continued
    return written


@torch.inference_mode()
def generate(model: PreTrainedModel, setting: Setting) -> torch.Tensor:
    """Write the rows with Hugging Face, (rows, prompt + tokens)."""
    ids = torch.tensor([prompt_ids(setting)], device=model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        num_return_sequences=setting.rows,
        max_new_tokens=setting.tokens,
        pad_token_id=0,
    )
    assert isinstance(out, torch.Tensor)
    return out
