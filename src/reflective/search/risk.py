"""A bound on a loss of accuracy, from problems where one rule was right and another was not.

The loss of a problem is L = 1 where effort high gives a right answer and the cheaper rule a wrong one, −1 the other way
round, else 0, on the average over several orders of its trajectories: they are exchangeable, so each order is as likely
as the recorded one, and the mean has the same expectation and less noise. The risk is E[L].

    W = Σ over bets λ of w(λ) · Π_i (1 + λ (r − L_i))        p = 1 / W

Where E[L] ≥ r, each factor has an expectation of at most 1 and so has W, since problems are independent, L lies in
−1..1 and the weights sum to 1; so P(W ≥ 1/δ) ≤ δ (testing by betting, Waudby-Smith and Ramdas 2024, arXiv 2010.09686).
The weights are equal, or, where other problems have been learnt from, proportional to what each bet won on those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from reflective.judge.schedule import Limit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Losses = NDArray[np.float64]

DELTA: Final = 0.05  # the probability with which a certificate may be wrong
BETS: Final = (0.25, 0.5, 0.75, 0.95)  # below 1, so that no single loss ends it


class Setting(NamedTuple):
    """What a limit of a schedule says (`judge.schedule.Limit`)."""

    regret: float
    behind: float = 0.0
    keep: float = 1.0

    def limit(self, risk: float, played: Played) -> Limit:
        """It at a risk, and what it has come to."""
        return Limit(risk, self.regret, self.behind, float(played.loss.mean()), played.tokens, self.keep)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """A setting on some problems: the loss of each, (P,), and the share of the tokens."""

    loss: Losses
    tokens: float

    @property
    def lost(self) -> float:
        """Right answers lost, without those won."""
        return float(self.loss.clip(min=0.0).sum())

    @classmethod
    def mean(cls, orders: Sequence[Played]) -> Played:
        """On the average over several orders of the same trajectories."""
        import numpy as np

        return cls(np.mean([p.loss for p in orders], axis=0), sum(p.tokens for p in orders) / len(orders))


def certified(
    results: Sequence[Played], path: Sequence[Setting], risks: Iterable[float], learnt: Sequence[Played] = ()
) -> list[Limit]:
    """The cheapest certified setting of each risk, and of the smallest risk that can be certified at all.

    `results` are of the settings of `path`, which begins with the safest; `learnt` are those of the same settings on
    the problems that were learnt from. Fixed sequence testing needs a risk that the losses have no part in: `risks`,
    and the smallest that so many problems certify without a loss. Where the safest setting fails at that one, the
    smallest risk is read off its losses and holds for it alone: that E[L] is at least this much has a p-value of at
    most δ there, and so it has at E[L].
    """
    safest = results[0].loss
    known: list[Losses] = [played.loss for played in learnt] or [safest[:0]] * len(path)
    smallest = smallest_risk(safest * 0.0, known[0] * 0.0)
    found = []
    for risk in (smallest, *sorted({risk for risk in risks if risk > smallest})):
        passed = list(_passed(results, path, risk, known))
        found += [min(passed, key=lambda limit: limit.tokens)] if passed else []
    own = smallest_risk(safest)  # with equal weights: only then is p sure to fall as the risk rises
    if not found or own < found[0].risk > smallest:
        found.insert(0, path[0].limit(own, results[0]))
    return found


def _passed(
    results: Sequence[Played], path: Sequence[Setting], risk: float, known: Sequence[Losses]
) -> Iterator[Limit]:
    """The settings before the first that fails at a risk."""
    for result, setting, learnt in zip(results, path, known, strict=True):
        if risk_p_value(result.loss, risk, learnt) > DELTA:
            return
        yield setting.limit(risk, result)


def smallest_risk(loss: Losses, learnt: Losses | Sequence[float] = ()) -> float:
    """The smallest risk that these losses certify, to 4 places, rounded up."""
    low, high = 0, 10_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if risk_p_value(loss, middle / 10_000, learnt) <= DELTA else (middle, high)
    return high / 10_000


def risk_p_value(loss: Losses, risk: float, learnt: Losses | Sequence[float] = ()) -> float:
    """A valid p-value of E[L] ≥ risk, from the losses of independent problems, (P,).

    The losses of other problems, `learnt`, weight the bets.
    """
    import numpy as np

    if risk >= 1.0:
        return 0.0  # no loss is above 1
    bets = np.array(BETS)[:, None]
    # ln Π_i (1 + λ (r − L_i)) for each λ
    before, won = (np.log1p(bets * (risk - np.asarray(losses))).sum(axis=1) for losses in (learnt, loss))
    wealth = np.logaddexp.reduce(before + won) - np.logaddexp.reduce(before)
    return float(np.exp(-max(wealth, 0.0)))
