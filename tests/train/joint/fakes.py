"""A tiny run of joint training: a random model, a few sums, and rewards that don't need a model that can add."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from reflective.settings import make_settings
from reflective.train.joint.config import JointConfig
from tiny import tiny_folder

STEP_TOKENS = tuple(range(40, 100))  # so many that random text is full of steps
HERE = "train.joint.fakes"


def problems(folder: Path, count: int = 24) -> Path:
    path = folder / "problems.jsonl"
    pairs = [(i, i * 7 % 5) for i in range(count)]
    rows = [{"id": f"p{a}", "problem": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chance(*, completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Right, wrong, or (one in eight) ungradable, by the tokens alone."""
    numbers = [zlib.crc32(bytes(str(ids), "ascii")) % 8 for ids in completion_ids]
    return [None if n == 7 else float(n < 4) for n in numbers]


def length(*, completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(ids) / 10 for ids in completion_ids]


def of_the_answer(*, prompts: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 where the answer is the sum that the question asks for."""
    sums = [sum(map(int, prompt.removeprefix("What is ").removesuffix("?").split(" + "))) for prompt in prompts]
    return [float(str(total) == gold) for total, gold in zip(sums, answer, strict=True)]


def nobody_knows(*, prompts: list[str], **_: Any) -> list[None]:
    return [None for _ in prompts]


def broken(**_: Any) -> list[float]:
    raise RuntimeError("no such luck")


def too_few(**_: Any) -> list[float]:
    return [1.0]


def tiny_joint(folder: Path, family: str = "qwen3", **changes: Any) -> JointConfig:
    """4 steps of 2 problems × 4 trajectories; `changes` replace keys of the tables, too."""
    model = folder / f"model-{family}"
    if not model.exists():
        tiny_folder(model, family, step_token_ids=STEP_TOKENS)
    if not (folder / "problems.jsonl").exists():
        problems(folder)
    table: dict[str, Any] = {
        "model": str(model),
        "output": str(folder / "run"),
        "steps": 4,
        "micro_batch": 4,
        "device": "cpu",
        "save_dtype": "float32",
        "data": {"source": str(folder / "problems.jsonl"), "held_out": 4},
        "rollouts": {"problems": 2, "group": 4, "max_tokens": 12},
        "policy": {"lr": 1e-3, "kl": 0.0},
        "head": {"lr": 1e-3, "backbone_gradient_scale": 0.5},
        "rewards": {"functions": [f"{HERE}:chance"], "outcome": f"{HERE}:chance"},
        "log": {"evaluate_every": 0, "save_every": 100, "report_to": [], "plot": False},
    }
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return make_settings(JointConfig, table)
