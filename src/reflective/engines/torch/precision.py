"""What `--dtype auto` means for large weights on a CPU: a short measurement, made once per machine and model, and kept.

The model's stored numbers (bfloat16) are the reference. int8 and int4 are offered where the next-token distributions on
a fixed text stay close to the reference's, and taken where decoding steps of 1, 8 and 32 trajectories need less
processor time. int4 must be faster than int8 to be taken. Small models are never measured: they stay float32.

Letters: n positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from reflective.engines.torch.backbones import choose
from reflective.engines.torch.backbones.base import DecodePlan
from reflective.engines.torch.backbones.native import NativeBackbone, library
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.memory import available_memory
from reflective.errors import EngineError
from reflective.files import cache_folder, sampled_digest, write_text
from reflective.models.stored import QUANTIZED, PackedKind

if TYPE_CHECKING:
    from reflective.models import Checkpoint

LOG = logging.getLogger(__name__)
VERSION: Final = 1  # of the measurement: another one does not take the choices of this one
MAX_DIVERGENCE: Final = 0.01  # nats a token: perplexity on the model's own text grows by at most 1 %
FASTER: Final = 0.9  # of the time: below it, fewer bits are taken
ROWS: Final = (1, 8, 32)
STEPS: Final = 3  # of each number of rows; the fastest counts
POSITIONS: Final = 128  # of the text
MEMORY_SHARE: Final = 0.8  # of what is free, that the reference may take
TEXT: Final = """Find the least common multiple of 14 and 20. Let me think. 14 = 2 * 7 and 20 = 2 * 2 * 5, so every \
common multiple holds 2 * 2 * 5 * 7 = 140.

Check: 140 / 14 = 10 and 140 / 20 = 7, both whole. The answer is 140.

def reverse(text):
    # Return the characters of a string in the opposite order.
    return text[::-1]

In spring the river rises by more than two metres, and the old bridge has to be closed for some weeks. Whoever wants to
cross takes the ferry, which leaves at seven, nine and half past twelve."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one kind."""

    seconds: tuple[float, ...]  # processor time of a step, for each of ROWS
    divergence: float  # KL(reference || this), nats a token; not finite where the logits are not

    def over(self, other: Figures) -> float:
        """The time of a step over the other's, the geometric mean over the numbers of rows."""
        return math.prod(a / b for a, b in zip(self.seconds, other.seconds, strict=True)) ** (1 / len(self.seconds))


def settled(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """The checkpoint with the kind of its weights chosen, and what a user should know of the choice.

    Its weights are those that "auto" has left in their files, and can be packed.
    """
    weights = checkpoint.weights
    assert weights is not None, "nothing is packed"
    place = cache_folder() / "precision" / f"{_key(weights.folder)}.json"
    found = _kept(place)
    if found is None:
        needed = sum(path.stat().st_size for path in weights.folder.glob("*.safetensors"))
        if needed > MEMORY_SHARE * available_memory(torch.device("cpu")):
            remark = f"weights in int8, unmeasured: in {weights.kind} they don't fit into memory. Or give --dtype int4."
            return _with_kind(checkpoint, "int8"), remark
        LOG.warning("note: measuring once which precision is fastest here for '%s' (--dtype skips it)", checkpoint.name)
        found = measure(checkpoint)
        _keep(place, found)
    kind = choice(found)
    if kind == weights.kind:
        return replace(checkpoint, undecided=False), ""
    own, reference = found[kind], found[weights.kind]
    remark = (
        f"weights in {kind}, chosen by measurement: a step takes {own.over(reference):.2f} of the time of "
        f"{weights.kind}, the predictions differ by {own.divergence:.4f} nats a token. To keep the stored numbers: "
        f"--dtype {weights.kind}."
    )
    return _with_kind(checkpoint, kind), remark


def choice(found: Mapping[PackedKind, Figures]) -> PackedKind:
    """The kind to take; the first one measured is the reference."""
    kinds = iter(found)
    best = next(kinds)
    for kind in kinds:
        near = found[kind].divergence <= MAX_DIVERGENCE  # false for NaN
        if near and found[kind].over(found[best]) < FASTER:
            best = kind
    return best


@torch.inference_mode()
def measure(checkpoint: Checkpoint) -> dict[PackedKind, Figures]:
    """The figures of every kind, the reference's first."""
    weights = checkpoint.weights
    assert weights is not None, "nothing is packed"
    ids = checkpoint.tokenizer(TEXT).input_ids[:POSITIONS]
    found: dict[PackedKind, Figures] = {}
    reference = torch.empty(0)
    for kind in (weights.kind, *(other for other in QUANTIZED if other != weights.kind)):
        try:
            backbone, _ = choose(checkpoint.model, weights=weights.held_as(kind))
        except EngineError:  # no memory for it
            if kind == weights.kind:
                raise
            continue
        assert isinstance(backbone, NativeBackbone), "an obstacle was not asked for"
        kv = KVMemory(backbone.shape, max(ROWS), len(ids))
        logits = backbone.all_logits(ids, kv)
        if kind == weights.kind:
            reference = logits
        found[kind] = Figures(_seconds(backbone, ids, kv), divergence(reference, logits))
    return found


def divergence(reference: Tensor, logits: Tensor) -> float:
    """Mean KL(p || q) of the distributions of two logits (n, V), p the reference's, in nats."""
    p, q = reference.log_softmax(-1), logits.log_softmax(-1)  # (n, V)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _seconds(backbone: NativeBackbone, ids: Sequence[int], kv: KVMemory) -> tuple[float, ...]:
    """Processor seconds of a decoding step for each of ROWS, of all threads: what else runs here does not count."""
    taken = []
    for rows in ROWS:
        plan = DecodePlan([ids[0]] * rows, [len(ids) // 2] * rows)
        best = math.inf
        for _ in range(STEPS + 1):  # the first touches the memory
            start = time.process_time()
            backbone.decode(plan, kv)
            best = min(best, time.process_time() - start)
        taken.append(best)
    return tuple(taken)


def _with_kind(checkpoint: Checkpoint, kind: PackedKind) -> Checkpoint:
    assert checkpoint.weights is not None
    return replace(checkpoint, weights=checkpoint.weights.held_as(kind), undecided=False)


def _key(folder: Path) -> str:
    """Of this machine, as far as speed depends on it, and of a model."""
    found = library()
    level = found.reflective_set_level(-1) if found is not None else None
    parts = [VERSION, _processor(), level, torch.get_num_threads(), (folder / "config.json").read_text("utf-8")]
    parts += [f"{path.name} {sampled_digest(path)}" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


@cache
def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part"))]
    except OSError:
        names = []
    return " ".join([*names[:1], platform.processor(), platform.machine()])


def _kept(place: Path) -> dict[PackedKind, Figures] | None:
    """What was measured before; None where nothing was, or it can't be read."""
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        return {kind: Figures(tuple(map(float, d["seconds"])), float(d["divergence"])) for kind, d in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(place: Path, found: Mapping[PackedKind, Figures]) -> None:
    with suppress(OSError):  # else it is measured again the next time
        write_text(place, json.dumps({kind: asdict(figures) for kind, figures in found.items()}, indent=2) + "\n")
