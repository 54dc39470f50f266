"""Fit effort auto's schedule on records and certify it: learn, then test.

The loss of a problem is L = 1 where all k give a right answer and effort auto a wrong one, −1 the other way round, else
0; the risk is E[L], the share of right answers that is lost against effort high (k trajectories, and then the best by
score or the score-weighted vote, whichever is the model's default).
Each problem is played in several orders of its trajectories, and L is the mean over them (`search.risk`).

    learn   on a third of the problems, or on those of another run: the weights of the regret, how many to begin with,
            and a path of settings (a limit of the regret, a share of the leader's score below which to let go) from
            the safest, all k, to the cheapest: for 0, ½, 1, … right answers lost there, the setting that takes the
            fewest tokens (Pareto testing, arXiv 2210.07913)
    test    on the others: the settings of the path, in this order

Where there are too few to learn from, nothing is: the path is that of the shares of all k to keep, as in
`search.prune`, tested on all problems.

Theorem: learn then test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv 2110.01052, theorem 1) with fixed
sequence testing. Each setting is a null hypothesis E[L] ≥ r with a valid p-value; they are tested in an order that the
tested problems have no part in, and testing ends with the first that is not rejected at δ = 5 %. Then with probability
1 − δ over the draw of the tested problems, every limit before has a risk below r. Each r is a statement of its own, for
whoever asks for it: one that is picked because its limit is cheap, or with the loss that was found, is not covered. The
r that are tested depend on the number of problems alone, also the smallest (`search.risk.certified` has an exception).

Assumptions: the tested problems are independent draws from the problems to come; model, head, sampling and k are the
same. It breaks where problems come from elsewhere, where the head was chosen by the same problems (its validation
scores then flatter it), and where the same problems are used to fit again and again until a certificate comes out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from reflective.errors import InputError
from reflective.judge.schedule import Leader, Limit, Schedule, check_risk
from reflective.search.auto_effort import FEATURES, leader_of
from reflective.search.clocked import EVERY
from reflective.search.courses import Courses, Deck, learn
from reflective.search.risk import DELTA, Played, Setting, certified
from reflective.search.simulate import Trace

LEARNT: Final = 1 / 3  # share of the problems that the rule is learnt on
RISKS: Final = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
LIMITS: Final = tuple(round(0.001 * 1.25**i, 6) for i in range(28))  # of the regret, up to 0.41
ORDERS: Final = 16  # in which each problem is played; the first is the recorded one
STEP: Final = 0.5  # right answers lost between two settings of the path
STARTS: Final = ((2, 1.0), (4, 1.0))  # first, growth
BEHIND: Final = (0.0, 0.1, 0.2, 0.3)  # shares of the leader's score
KEEPS: Final = (0.8, 0.7, 0.6, 0.5)  # of all k at doubling marks
FEWEST: Final = 30  # problems that a fit needs
LEARNABLE: Final = 5 * FEATURES  # problems that the weights are learnt from, at least; a rule of thumb
TOO_FEW = (
    "{:,} graded problems with {} trajectories are there; a fit needs {:,}, and a risk of 1 point some 560 without "
    "a loss"
)
SAFEST: Final = Setting(-1.0)
SHARES: Final = (SAFEST, *(Setting(SAFEST.regret, keep=keep) for keep in KEEPS))


def fit_schedule(
    problems: Sequence[Sequence[Trace]],
    k: int,
    *,
    high: Leader = "score",
    risk: float | None = None,
    head: str = "",
    sampling: Mapping[str, float] | None = None,
    every: int = EVERY,
    seed: int = 0,
    learnt: Sequence[Sequence[Trace]] = (),
    note: Callable[[str], None] | None = None,
) -> Schedule:
    """Learn and test a schedule. `high` is who answers at effort high; `risk` is asked for beside the usual ones. With
    `learnt`, other problems to learn from, all of `problems` are tested.

    Raises `InputError` for too few problems with verdicts, for trajectories without step scores, and where all scores
    are equal.
    """
    if risk is not None:
        check_risk(risk)
    problems, others = _usable(problems, k), _usable(learnt, k)
    if len(problems) < FEWEST:
        raise InputError(TOO_FEW.format(len(problems), k, FEWEST) + ".")
    if learnt and len(others) < LEARNABLE:
        raise InputError(
            f"{len(others):,} graded problems with {k} trajectories are too few to learn from; it takes {LEARNABLE}."
        )
    _check_scores(problems)
    cut = len(others) or round(LEARNT * len(problems))
    problems = [*others, *problems]
    order = list(range(len(problems)))
    if not others:
        random.Random(seed).shuffle(order)
    tell = note or (lambda line: None)
    risks = sorted({*RISKS, *(() if risk is None else (risk,))})
    deck = Deck.of(problems, k, every, high)
    first, growth = k, 1.0
    leader = high
    if cut < LEARNABLE:
        cut, weights = 0, (0.0,) * FEATURES
        limits = certified([_share_kept(deck, setting, high) for setting in SHARES], SHARES, risks)
        tell(f"{len(problems):,} problems are too few to learn when to stop; shares to keep are tested")
    else:
        decks = orders_of(deck, seed)
        first, growth, leader = _start_of([deck.take(order[:cut]) for deck in decks], high, tell)
        played = play_shares(decks, first, growth, leader)
        tell(f"played {len(problems):,} problems in {len(decks)} orders, {first} trajectories at once")
        weights, limits = learn_then_test(played, order[:cut], order[cut:], risks)
    schedule = Schedule(
        k=k,
        first=first,
        growth=growth,
        every=every,
        leader=leader,
        weights=weights,
        limits=tuple(limits),
        confidence=1.0 - DELTA,
        problems=len(order) - cut,
        head=head,
        sampling=dict(sampling or {}),
    )
    schedule.limit(risk)  # raises where the one that is asked for can't be certified
    return schedule


def _share_kept(deck: Deck, setting: Setting, leader: Leader) -> Played:
    courses = deck.play(deck.tokens.shape[1], 1.0, setting.behind, leader, setting.keep)
    return courses.played((0.0,) * FEATURES, [setting.regret])[0]


def orders_of(deck: Deck, seed: int) -> list[Deck]:
    """The trajectories of each problem in several orders."""
    import numpy as np

    generator = np.random.default_rng(abs(seed))
    return [deck, *(deck.shuffled(generator) for _ in range(ORDERS - 1))]


def play_shares(decks: Sequence[Deck], first: int, growth: float, leader: Leader) -> dict[float, list[Courses]]:
    """The courses in every order, by the share of the leader's score below which trajectories are let go."""
    return {behind: [deck.play(first, growth, behind, leader) for deck in decks] for behind in BEHIND}


def learn_then_test(
    played: Mapping[float, Sequence[Courses]], learnt: Sequence[int], tested: Sequence[int], risks: Sequence[float]
) -> tuple[tuple[float, ...], list[Limit]]:
    """The weights of the regret and the certified limits. `played`: the problems' courses as from `play_shares`; those
    numbered `learnt` are learnt from, those numbered `tested` tested on."""
    parts = {behind: [courses.take(learnt) for courses in orders] for behind, orders in played.items()}
    weights = learn([courses for orders in parts.values() for courses in orders])
    found: dict[Setting, Played] = {}
    limits = (SAFEST.regret, *LIMITS)
    for behind, orders in parts.items():
        found |= zip([Setting(limit, behind) for limit in limits], _played(orders, weights, limits), strict=True)
    path = [SAFEST, *(setting for setting in path_of(found) if setting != SAFEST)]
    results: dict[Setting, Played] = {}
    for behind, courses in played.items():
        settings = [setting for setting in path if setting.behind == behind]
        if settings:
            held = [each.take(tested) for each in courses]
            results |= zip(settings, _played(held, weights, [setting.regret for setting in settings]), strict=True)
    known = [found[setting] for setting in path]
    return weights, certified([results[setting] for setting in path], path, risks, known)


def _played(orders: Sequence[Courses], weights: Sequence[float], limits: Sequence[float]) -> list[Played]:
    """What each limit comes to, on the average over the orders."""
    each = [courses.played(weights, limits) for courses in orders]
    return [Played.mean(same) for same in zip(*each, strict=True)]


def _start_of(decks: Sequence[Deck], high: Leader, tell: Callable[[str], None]) -> tuple[int, float, Leader]:
    """How many begin at once, the growth, and who leads: as in effort high, or the weighted vote where that is clearly
    better at k."""
    gains = losses = 0
    for traces in decks[0].traces:
        ended = [t.whole for t in traces]
        best, voted = leader_of(ended, "score"), leader_of(ended, "vote")
        right = [found is not None and traces[found[0].index].right is True for found in (best, voted)]
        gains += right[1] and not right[0]
        losses += right[0] and not right[1]
    leader: Leader = "vote" if high == "vote" or gains - losses > 2.0 * math.sqrt(gains + losses) else "score"
    tried = []
    for first, growth in sorted({(min(first, decks[0].traces.shape[1]), growth) for first, growth in STARTS}):
        orders = [deck.play(first, growth, 0.0, leader) for deck in decks]
        played = _played(orders, learn(orders), (-1.0, *LIMITS))
        fine = [r.tokens for r in played if r.loss.sum() <= 0.0]
        tried.append((min(fine, default=math.inf), first, growth))
        tell(f"{first} at once: {tried[-1][0]:.3f} of the tokens lose nothing on the problems to learn from")
    return (*min(tried)[1:], leader)


def path_of(found: Mapping[Setting, Played]) -> list[Setting]:
    """Limits that let none go, from the lowest as far as nothing is lost; then for 0, ½, 1, … losses the cheapest."""
    path = sorted(s for s, result in found.items() if s[1:] == SAFEST[1:] and result.lost == 0.0)
    lost = {setting: math.ceil(result.lost / STEP) for setting, result in found.items()}
    for steps in sorted(set(lost.values())):
        within = {setting: r.tokens for setting, r in found.items() if lost[setting] <= steps}
        cheapest = min(within, key=lambda setting: (within[setting], setting))
        if cheapest not in path:
            path.append(cheapest)
    return path


def _usable(problems: Sequence[Sequence[Trace]], k: int) -> list[Sequence[Trace]]:
    return [traces for traces in problems if len(traces) >= k and any(t.right is not None for t in traces[:k])]


def _check_scores(problems: Sequence[Sequence[Trace]]) -> None:
    scores = {t.whole.score for traces in problems for t in traces}
    if scores <= {None}:
        raise InputError(
            "these records have no step scores, so no schedule can be fitted. Without a head, effort auto stops by "
            "agreement and needs no fit."
        )
    if len(scores - {None}) == 1:
        raise InputError("all scores of these records are equal, so they tell nothing; train the head first.")
