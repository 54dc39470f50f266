"""When to stop: what effort auto does with a head's scores, fitted on records under a stated risk. No torch.

A schedule belongs to one head, one way of drawing tokens and one budget k: its thresholds mean nothing for others, and
it says so (`refusal`). `search.auto_effort` carries it out, `search.certify` fits it; `sprm/config.json` keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from reflective.errors import CheckpointError, InputError
from reflective.settings import check_names

Leader = Literal["score", "vote"]
DEFAULT_RISK = 0.01  # share of right answers


@dataclass(frozen=True, slots=True)
class Limit:
    """Stop where the predicted regret is at most `regret`, and let a trajectory go whose running score is below the
    share `behind` of the leader's: certified to lose at most the share `risk`.

    With a `keep` below 1 all k begin at once and the best share `keep` goes on at doubling marks, as in `search.prune`.
    `loss` is the share of right answers that validation lost (negative: won) and `tokens` the share of the tokens of
    all k that it took.
    """

    risk: float
    regret: float
    behind: float
    loss: float
    tokens: float
    keep: float = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What effort auto does.

    `first` trajectories begin at once; so many are kept running, or `growth` times as many as have come to an end, up
    to `k`. `weights` give the logit of the predicted regret from what is seen at a mark, every `every` tokens. The
    answer is that of the best score, or of the weighted vote (`leader`). `limits` are by rising risk. `smallest_risk`
    is what the `problems` validation problems could certify with probability `confidence`. `head` is the digest of the
    head's weights, `sampling` how the records were drawn.
    """

    k: int
    first: int
    growth: float
    every: int
    leader: Leader
    weights: tuple[float, ...]
    limits: tuple[Limit, ...]
    confidence: float
    problems: int
    head: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fine = (
            self.k >= 1
            and 1 <= self.first <= self.k
            and self.every >= 1
            and self.growth >= 0
            and all(map(math.isfinite, (*self.weights, self.growth)))
            and self.leader in get_args(Leader)
            and self.limits
            and list(self.limits) == sorted(self.limits, key=lambda limit: limit.risk)
        )
        if not fine:
            raise CheckpointError("the head's schedule is damaged; fit it again with: reflective calibrate.")

    @property
    def smallest_risk(self) -> float:
        """The smallest risk that the validation problems certify."""
        return self.limits[0].risk

    def limit(self, risk: float | None = None) -> Limit:
        """The cheapest limit within a risk; None is 1 point, or the smallest risk where that is more.

        Raises `InputError` for a risk that is not certified.
        """
        if risk is None:
            risk = max(DEFAULT_RISK, self.smallest_risk)
        check_risk(risk)
        if risk < self.smallest_risk:
            raise InputError(
                f"a risk of {risk:g} is below {self.smallest_risk:g}, the smallest that {self.problems:,} validation "
                "problems certify for this head. Ask for that, or fit on more problems: reflective calibrate."
            )
        return min((limit for limit in self.limits if limit.risk <= risk), key=lambda limit: limit.tokens)

    def refusal(self, *, head: str = "", sampling: Mapping[str, float] | None = None, k: int | None = None) -> str:
        """Why it can't be used with this head, this sampling or this budget; "" where it can."""
        if head and self.head and head != self.head:
            return "it was fitted for another head"
        if sampling is not None:
            drawn = {**NEUTRAL, **self.sampling}
            for name, value in {**NEUTRAL, **sampling}.items():
                if name in drawn and value != drawn[name]:
                    return f"it was fitted for {name} {drawn[name]:g}, not {value:g}"
        if k is not None and k != self.k:
            return f"it was fitted for {self.k} trajectories, not {k}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        return {**asdict(self), "sampling": dict(self.sampling), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, data: Any) -> Schedule | None:
        """From `to_json`'s object. Raises `CheckpointError` where it is something else.

        Earlier versions wrote `drop_steps`, and limits with a `drop`, an absolute score below which trajectories were
        let go. A limit with a `drop` above 0 is left out; None where that leaves none.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"a head's schedule must be a JSON object; got {data!r:.60}.")
        check_names(data, [*(f.name for f in fields(cls)), "drop_steps"], "key of the schedule", CheckpointError)
        try:
            limits = tuple(
                Limit(**{name: float(limit[name]) for name in _LIMIT if name in limit})
                for limit in ({"behind": each.get("drop", 0.0), **each} for each in data["limits"])
                if not limit.get("drop")
            )
            if data["limits"] and not limits:
                return None
            numbers: dict[str, Any] = {name: float(data[name]) for name in ("growth", "confidence")}
            whole = ("k", "first", "every", "problems")
            counts: dict[str, Any] = {name: int(data[name]) for name in whole}
            return cls(
                **numbers,
                **counts,
                leader=data["leader"],
                weights=tuple(float(w) for w in data["weights"]),
                limits=limits,
                head=str(data.get("head", "")),
                sampling={str(name): float(value) for name, value in data.get("sampling", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the head's schedule can't be read: {type(error).__name__} {error}.") from None


NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""How tokens are drawn where nothing else is said."""

_LIMIT = tuple(f.name for f in fields(Limit))


def check_risk(risk: float) -> None:
    """Raise `InputError` for a risk that makes no sense."""
    if not 0.0 < risk < 1.0:
        raise InputError(
            f"risk is {risk:g}; it must lie between 0 and 1, such as 0.01 for one right answer in a hundred. No "
            "records certify a risk of 0, and a risk of 1 promises nothing."
        )
