"""What a folder of sampled trajectories was sampled from, so that nothing of another origin is mixed in or reused.

A digest stands for the weights, where their features are read, where steps end, the problems and the sampling. It
lies in `settings.json` beside the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import CheckpointError
from reflective.files import disk_errors, write_text
from reflective.judge.config import JudgeConfig, format_to_json
from reflective.train.joint.setup import weights_digest
from reflective.types import Problem

FORMAT = "2"  # 1 did not say which weights and which layer the features are of
WAY_OUT = "Remove it, or name another --output or --work."


def source_digest(model: Any, config: JudgeConfig) -> str:
    """Of what features are read from: the weights, the layer, the position, and where steps end."""
    return repr((weights_digest(model), config.layer, config.feature_position, format_to_json(config.format)))


def check_settings(
    folder: Path,
    engine: TorchEngine,
    problems: Sequence[Problem],
    k: int,
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    source: str = "",
) -> None:
    """Note what is sampled into a folder, or refuse to mix it with what is there.

    `source` is the `source_digest` (default: the engine's weights alone, which takes as long to compute).
    """
    asked = [(p.text, p.answer, p.kind, repr(p.metadata)) for p in problems]
    source = source or weights_digest(engine.model)
    settings = json.dumps([FORMAT, engine.name, source, k, repr(sampling), max_tokens, seed, asked])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    path = folder / "settings.json"
    if path.is_file():
        _compare(path, digest)
        return
    if any(folder.glob("shard-*")):
        raise CheckpointError(f"'{folder}' holds trajectories, and no settings.json that says of what. {WAY_OUT}")
    with disk_errors(path):
        write_text(path, json.dumps({"format": FORMAT, "digest": digest}) + "\n")


def _compare(path: Path, digest: str) -> None:
    folder = path.parent
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        form, found = known.get("format"), known.get("digest")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}), so '{folder}' can't be used. {WAY_OUT}") from error
    if form != FORMAT:
        raise CheckpointError(
            f"'{folder}' was sampled by another version of reflective, which does not say from which weights. {WAY_OUT}"
        )
    if found != digest:
        raise CheckpointError(
            f"'{folder}' holds trajectories of other weights, problems or settings, or of another layer. {WAY_OUT}"
        )
