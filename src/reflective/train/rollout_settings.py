"""What a folder of rollouts was sampled from, so that nothing of another origin is mixed in or reused.

It is said in the folder's manifest. A digest stands for the weights, where their features are read, and where steps
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reflective.engines.base import Engine, Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import CheckpointError, InputError
from reflective.judge.config import JudgeConfig, format_to_json
from reflective.models.digest import weights_digest
from reflective.models.stored import StoredWeights
from reflective.records.manifest import MANIFEST, RECORDS, Manifest, digest_of, read_manifest, versions, write_manifest
from reflective.shards import Place
from reflective.types import Problem

REMEDY = "Remove it, or name another --output or --work."
MAY_DIFFER = ("versions", "history")  # of packages; what was done to the records afterwards


def caught_places(engine: TorchEngine) -> tuple[Place, ...]:
    """What the engine catches of every step, in the order in which it gives them."""
    before = tuple(Place(layer) for layer in engine.feature_layers)
    return (*before, *(Place(layer, "mean") for layer in engine.feature_layers)) if engine.catch_means else before


def source_digest(model: Any, config: JudgeConfig, weights: StoredWeights | None = None) -> str:
    """Of what features are read from: the weights, the layer, the position, and where steps end.

    `weights` are those of a model that is a form without memory.
    """
    digest = weights_digest(model) if weights is None else weights.digest(model)
    return repr((digest, config.layer, config.feature_position, format_to_json(config.format)))


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How rollouts are sampled.

    `source` is the `source_digest` (default: of the engine's weights alone, which takes as long to compute). `layers`
    are read beside those whose features the engine catches. `writer` is what writes the trajectories, where that is
    another engine; their features are then left to `read_caught`.
    """

    sampling: Sampling
    max_tokens: int
    seed: int
    source: str = ""
    layers: Sequence[int] = ()
    writer: Engine | None = None


def claim_rollouts(
    folder: Path, engine: TorchEngine, problems: Sequence[Problem], k: int, settings: RolloutSettings
) -> None:
    """Begin rollouts in a folder, or go on with the same ones. Raises `CheckpointError` where it holds others."""
    places = caught_places(engine)
    wanted = Manifest(
        benchmark={"name": folder.name, "source": settings.source or weights_digest(engine.model)},
        model=engine.name,
        strategy="majority",
        effort=k,
        seed=settings.seed,
        settings={
            **asdict(settings.sampling),
            "max_tokens": settings.max_tokens,
            "until": "eos",
            "layers": list(settings.layers),
            **({"caught": [str(place) for place in places]} if len(places) > 1 else {}),
            **({"engine": type(settings.writer).__name__} if settings.writer is not None else {}),
        },
        problems=len(problems),
        digest=digest_of(problems),
        versions=versions(),
    )
    if not (folder / MANIFEST).exists():
        if (folder / "settings.json").exists():
            raise CheckpointError(f"'{folder}' was sampled by another version of reflective. {REMEDY}")
        if (folder / RECORDS).exists() or any(folder.glob("shard*")):
            raise CheckpointError(f"'{folder}' holds trajectories, and no {MANIFEST} that says of what. {REMEDY}")
        write_manifest(folder, wanted, CheckpointError)
        return
    try:
        changed = read_manifest(folder).difference(wanted, but=MAY_DIFFER)
    except InputError as error:
        raise CheckpointError(f"'{folder / MANIFEST}' is damaged ({error}), so it can't be used. {REMEDY}") from error
    if changed:
        raise CheckpointError(
            f"'{folder}' holds trajectories of other weights, problems or settings, or of another layer: {changed}. "
            f"{REMEDY}"
        )
