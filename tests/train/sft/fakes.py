"""A tiny tokenizer, data set and configuration that a run on one core finishes in seconds."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from reflective.settings import make_settings
from reflective.train.sft.config import SFTConfig
from reflective.train.sft.tokenizer import build_tokenizer, save_tokenizer

ARCHITECTURE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128,
}


def sums(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Small additions with a step and an answer."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(10), rng.randrange(90)) for _ in range(count)]
    return [
        {"prompt": f"What is {a} + {b}?", "response": f"\n{a} + {b} = {a + b}.\n\n</think>\n\n\\boxed{{{a + b}}}"}
        for a, b in pairs
    ]


def write_lines(path: Path, items: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@functools.cache  # a second of computing, and dozens of tests want it
def sums_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the 300 additions."""
    return build_tokenizer([text for item in sums(300) for text in item.values()], 320)


def tiny_config(folder: Path, **changes: Any) -> SFTConfig:
    """A run over 300 additions; makes the tokenizer and the files it names."""
    if not (folder / "tokenizer").exists():
        save_tokenizer(sums_tokenizer(), folder / "tokenizer")
        write_lines(folder / "train.jsonl", sums(300))
        write_lines(folder / "validation.jsonl", sums(20, seed=1))
    table: dict[str, Any] = {
        "output": str(folder / "run"),
        "tokenizer": str(folder / "tokenizer"),
        "architecture": ARCHITECTURE,
        "data": {
            "files": [str(folder / "train.jsonl")],
            "validation_files": [str(folder / "validation.jsonl")],
            "cache": str(folder / "cache"),
            "workers": 1,
        },
        "max_tokens": 12_000,
        "step_tokens": 500,
        "micro_tokens": 256,
        "tensorboard": False,
        "device": "cpu",
        "save_dtype": "float32",
    }
    return make_settings(SFTConfig, table | changes)
