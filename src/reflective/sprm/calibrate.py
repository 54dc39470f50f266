"""What a strategy saw, turned into a probability that its answer is right.

    confidence = σ( a · logit(evidence) + b · log2(k) + c )

Evidence is in 0..1 and differs by strategy: S of the selected trajectory for best_of_n and single, the winner's share
of the votes for majority, of the weights for weighted. k is the number of trajectories: the best S of 32 is higher
than that of 2 for the same quality, which b takes out. Each strategy has its own a, b and c. Applying needs pure
Python only, fitting numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reflective.errors import CheckpointError, InputError
from reflective.sprm.aggregate import sigmoid

EVIDENCE_CLIP: Final = 1e-4  # evidence of 0 or 1 is rounding, not certainty
RIDGE: Final = 1.0  # strength of the pull to "evidence is already the probability", in samples
NEWTON_STEPS: Final = 100
NEWTON_TOLERANCE: Final = 1e-10


@dataclass(frozen=True, slots=True)
class Coefficients:
    """a, b and c of one strategy."""

    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.a, self.b, self.c)):
            raise CheckpointError("a calibration coefficient is not a finite number; calibrate again.")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The coefficients of each strategy that was calibrated."""

    strategies: Mapping[str, Coefficients] = field(default_factory=dict)

    def confidence(self, strategy: str, evidence: float | None, k: int) -> float | None:
        """Probability that the answer is right; None for a strategy without calibration or without evidence."""
        coefficients = self.strategies.get(strategy)
        if coefficients is None or evidence is None:
            return None
        x, n = _features(evidence, k)
        return sigmoid(coefficients.a * x + coefficients.b * n + coefficients.c)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        return {name: {"a": w.a, "b": w.b, "c": w.c} for name, w in self.strategies.items()}

    @classmethod
    def from_json(cls, data: Any) -> Calibration:
        """From `to_json`'s object. Raises `CheckpointError` where it is something else."""
        if not isinstance(data, Mapping):
            raise CheckpointError(f"calibration must map strategies to a, b and c; got {data!r:.60}.")
        strategies = {}
        for name, w in data.items():
            if not isinstance(w, Mapping) or set(w) != {"a", "b", "c"} or not all(map(_is_number, w.values())):
                raise CheckpointError(f"calibration of {name!r} must be numbers a, b and c; got {w!r:.60}.")
            strategies[str(name)] = Coefficients(float(w["a"]), float(w["b"]), float(w["c"]))
        return cls(strategies)


def fit_calibration(samples: Iterable[tuple[str, float | None, int, bool]], *, ridge: float = RIDGE) -> Calibration:
    """Fit each strategy's coefficients on (strategy, evidence, k, right).

    Samples without evidence are left out. The ridge pulls to a=1, b=0, c=0, where evidence counts as the probability
    itself; it also settles what the data leave open, such as b and c where there is only one k.
    """
    by_strategy: dict[str, list[tuple[float, float, bool]]] = {}
    for strategy, evidence, k, right in samples:
        if evidence is not None:
            by_strategy.setdefault(strategy, []).append((*_features(evidence, k), bool(right)))
    return Calibration({name: _fit(rows, ridge) for name, rows in by_strategy.items()})


def ece(confidences: Sequence[float], outcomes: Sequence[bool], bins: int = 15) -> float | None:
    """Expected calibration error over `bins` bins of equal width; None without data."""
    if len(confidences) != len(outcomes):
        raise InputError(f"{len(confidences)} confidences for {len(outcomes)} outcomes; there must be one for each.")
    if bins < 1:
        raise InputError(f"bins is {bins}; it must be 1 or more.")
    cells: dict[int, list[tuple[float, bool]]] = {}
    for p, right in zip(confidences, outcomes):
        if not 0.0 <= p <= 1.0:
            raise InputError(f"a confidence is {p}; it must lie in 0..1.")
        cells.setdefault(min(int(p * bins), bins - 1), []).append((p, bool(right)))
    if not cells:
        return None
    # ECE = Σ_bins |Σ confidence − Σ right| / samples: each bin's gap, weighted by its size
    return sum(abs(math.fsum(p for p, _ in cell) - sum(r for _, r in cell)) for cell in cells.values()) / len(outcomes)


def _features(evidence: float, k: int) -> tuple[float, float]:
    """logit of the clipped evidence, and log2 of the number of trajectories."""
    if not 0.0 <= evidence <= 1.0:
        raise InputError(f"evidence is {evidence}; it must lie in 0..1.")
    if k < 1:
        raise InputError(f"k is {k}; it must be 1 or more.")
    p = min(max(evidence, EVIDENCE_CLIP), 1.0 - EVIDENCE_CLIP)
    return math.log(p / (1.0 - p)), math.log2(k)


def _fit(rows: Sequence[tuple[float, float, bool]], ridge: float) -> Coefficients:
    """Logistic regression with a ridge, by Newton's method with step halving (the objective is convex)."""
    import numpy as np

    if not ridge > 0:
        raise InputError(f"ridge is {ridge}; it must be above 0, or one-sided data have no finite fit.")
    x = np.array([[logit, log_k, 1.0] for logit, log_k, _ in rows])  # (samples, 3)
    y = np.array([right for *_, right in rows], dtype=float)
    prior = np.array([1.0, 0.0, 0.0])

    def objective(w: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        z = x @ w
        return float(np.sum(np.logaddexp(0.0, z) - y * z) + ridge / 2 * np.sum((w - prior) ** 2))

    w = prior.copy()
    for _ in range(NEWTON_STEPS):
        p = 0.5 * (1.0 + np.tanh(0.5 * (x @ w)))
        gradient = x.T @ (p - y) + ridge * (w - prior)
        hessian = (x.T * (p * (1.0 - p))) @ x + ridge * np.eye(3)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-8 and objective(w - size * step) > objective(w):
            size /= 2
        w = w - size * step
        if float(np.abs(size * step).max()) < NEWTON_TOLERANCE:
            break
    return Coefficients(*map(float, w))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
