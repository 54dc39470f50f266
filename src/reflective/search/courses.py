"""Problems played without a stop, for fitting: where each limit of the regret would have stopped them.

As long as nothing stops, what is dropped and started does not depend on the regret; so problems are played once for
every way to begin and to drop, and all limits, whatever the weights, are read off the marks. How long a trajectory runs
does not depend on the others then, either: so all problems are played at once, in arrays. A test holds that a limit
gives what simulating effort auto with it gives.

P problems, N = k trajectories of each, J marks of the longest, M marks of the longest course, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reflective.judge.calibrate import fit_logistic
from reflective.judge.schedule import Leader
from reflective.search.auto_effort import FEATURES, SCORE_CLIP, SURPRISE_CLIP, leader_of
from reflective.search.prune import SURVIVORS
from reflective.search.risk import Played
from reflective.search.simulate import Trace
from reflective.selection import by_score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reflective.search.clock import Seen

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

RIDGE: Final = 0.1
NEVER: Final = 1 << 40  # marks

Arrays = TypeVar("Arrays", "Deck", "Courses")


def _take(arrays: Arrays, rows: Sequence[int]) -> Arrays:
    """The rows of these problems."""
    kept = {}
    for field in fields(arrays):
        value = getattr(arrays, field.name)
        kept[field.name] = value[list(rows)] if hasattr(value, "shape") else value
    return type(arrays)(**kept)


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """At the marks of each problem the evidence, whether the leader is right, and the tokens so far.

    Of marks with the same evidence only the first is there, which stands for `marks` of them, and the last of all.
    `last` numbers the last one of a problem; those behind it repeat it. `high`: whether effort high gives a right
    answer, which takes `full` tokens.
    """

    x: Floats  # (P, M, F)
    right: Bools  # (P, M)
    tokens: Ints  # (P, M)
    marks: Ints  # (P, M)
    last: Ints  # (P,)
    high: Bools  # (P,)
    full: Ints  # (P,)

    def take(self, rows: Sequence[int]) -> Courses:
        """Some of the problems."""
        return _take(self, rows)

    def played(self, weights: Sequence[float], limits: Sequence[float]) -> list[Played]:
        """What each limit comes to."""
        import numpy as np

        predicted = 1.0 / (1.0 + np.exp(-np.clip(self.x @ np.array(weights), -700.0, 700.0)))  # (P, M)
        least = np.minimum.accumulate(predicted, axis=1)
        rows, found = np.arange(len(self.last)), []
        for limit in limits:
            stopped = least <= limit
            mark = np.where(stopped.any(axis=1), stopped.argmax(axis=1), self.last)
            share = float(self.tokens[rows, mark].sum() / max(self.full.sum(), 1))
            found.append(Played(self.high - self.right[rows, mark].astype(float), share))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Deck:
    """The trajectories of problems, as arrays that can be played. `traces` are what they were made from."""

    every: int
    traces: NDArray[np.object_]  # (P, N)
    tokens: Ints  # (P, N)
    right: Bools  # (P, N)
    group: Ints  # (P, N), -1 for none
    score: Floats  # (P, N), 0 for none
    logit: Floats  # (P, N), of the score
    surprise: Floats  # (P, N), ln(−ℓ)
    rank: Ints  # (P, N), from 0 for the best closed one; N and more for what is not closed
    at_marks: Floats  # (P, N, J), the running score; infinite before the first step and behind the end
    high: Bools  # (P,), whether effort high gives a right answer

    @classmethod
    def of(cls, problems: Sequence[Sequence[Trace]], k: int, every: int, high: Leader = "score") -> Deck:
        """The first k trajectories of problems; `high` is who answers at effort high."""
        import numpy as np

        traces = np.empty((len(problems), k), dtype=np.object_)
        for row, given in zip(traces, problems, strict=True):
            row[:] = list(given[:k])
        whole = [[t.whole for t in row] for row in traces]

        def of_each(figure: Callable[[Seen], float]) -> Floats:
            return np.array([[figure(t) for t in row] for row in whole], dtype=np.float64).reshape(traces.shape)

        score = of_each(lambda t: t.score or 0.0)
        clipped = np.clip(score, SCORE_CLIP, 1.0 - SCORE_CLIP)
        longest = int(max((t.tokens for row in whole for t in row), default=0)) // every + 1
        at_marks = np.full((*traces.shape, longest), np.inf)
        rank = np.empty(traces.shape, dtype=np.int64)
        answered = np.zeros(len(traces), dtype=bool)
        for p, row in enumerate(traces):
            found = leader_of(whole[p], high)
            answered[p] = found is not None and row[found[0].index].right is True
            for place, t in enumerate(by_score(whole[p])):
                rank[p, t.index] = place if t.closed else place + k
            for i, trace in enumerate(row):
                for mark in range(1, (trace.whole.tokens - 1) // every + 1):
                    seen = trace.at(mark * every)
                    if seen.score is not None:
                        at_marks[p, i, mark - 1] = seen.score
        return cls(
            every=every,
            traces=traces,
            tokens=of_each(lambda t: t.tokens).astype(np.int64),
            right=np.array([[t.right is True for t in row] for row in traces], dtype=bool).reshape(traces.shape),
            group=of_each(lambda t: -1 if t.group is None else t.group).astype(np.int64),
            score=score,
            logit=np.log(clipped / (1.0 - clipped)),
            surprise=np.log(np.maximum(-of_each(lambda t: t.mean_logprob or 0.0), SURPRISE_CLIP)),
            rank=rank,
            at_marks=at_marks,
            high=answered,
        )

    def take(self, rows: Sequence[int]) -> Deck:
        """Some of the problems."""
        return _take(self, rows)

    def shuffled(self, generator: np.random.Generator) -> Deck:
        """The trajectories of each problem in another order."""
        import numpy as np

        order = generator.permuted(np.broadcast_to(np.arange(self.tokens.shape[1]), self.tokens.shape), axis=1)
        moved: dict[str, Any] = {"every": self.every}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value.ndim > 1:
                value = np.take_along_axis(value, order[..., None] if value.ndim > 2 else order, axis=1)
            moved[field.name] = value
        return Deck(**moved)

    def play(self, first: int, growth: float, behind: float, leader: Leader, keep: float = 1.0) -> Courses:
        """The courses of effort auto that never finds a problem safe. With a `keep` below 1 all begin at once."""
        import numpy as np

        (problems, k), every = self.tokens.shape, self.every
        ends = np.maximum(-(-self.tokens // every), 1)  # the mark at which it is seen to have ended, from its begin
        drops = np.full(ends.shape, NEVER)  # the mark at which it is let go, from its begin
        if keep < 1.0:
            first, drops = k, self._outranked(ends, keep)
        column, rows, last = np.arange(k), np.arange(problems), self.at_marks.shape[2]
        began = np.where(column < min(max(1, first), k), 0, NEVER) + np.zeros_like(ends)  # (P, N)
        led = np.full(problems, -1)
        active = np.ones(problems, dtype=bool)
        seen: list[tuple[Floats, Bools, Ints, Bools]] = []  # evidence, right, tokens, whether it counts
        while active.any():
            now = len(seen) + 1
            age = now - began
            begun, started = age > 0, (age > 0).sum(axis=1)
            ended = (age >= ends) & (drops >= ends)
            running = begun & (age < ends) & (age <= drops)
            self._lead(led, ended, (age == ends) & ended, leader)
            so_far = np.where(begun, np.minimum(age * every, self._written(drops)), 0).sum(axis=1)
            seen.append((*self._evidence(led, ended, started, running.sum(axis=1)), so_far, active & ended.any(axis=1)))
            if behind > 0.0:
                score = np.take_along_axis(self.at_marks, np.clip(age, 1, last)[..., None] - 1, axis=2)[..., 0]
                least = np.where(led >= 0, behind * self.score[rows, led], 0.0)
                drops = np.where(running & (score < least[:, None]), age, drops)
            left = (begun & (age < np.minimum(ends, drops))).sum(axis=1)
            wanted = np.maximum(first, (growth * (started - left)).astype(np.int64)) - left
            new = np.where(active, np.clip(wanted, 0, k - started), 0)
            began[(column >= started[:, None]) & (column < (started + new)[:, None])] = now
            active &= (left > 0) | (new > 0)
        return _courses(seen, self._written(drops).sum(axis=1), self.high, self.tokens.sum(axis=1))

    def _written(self, drops: Ints) -> Ints:
        """The tokens (P, N) of trajectories that are let go at these marks of theirs."""
        import numpy as np

        return np.minimum(self.tokens, drops * self.every)

    def _outranked(self, ends: Ints, keep: float) -> Ints:
        """The marks (P, N) at which trajectories that began together are let go, as by `prune.outranked`."""
        import numpy as np

        drops, mark = np.full(ends.shape, NEVER), 2
        while mark <= self.at_marks.shape[2]:
            ended = ends <= mark
            score = np.where(ended, np.where(self.score > 0.0, self.score, np.inf), self.at_marks[..., mark - 1])
            alive = (drops == NEVER) & np.isfinite(score)
            ranked = np.argsort(np.where(alive, -score, np.inf), axis=1, kind="stable")
            place = np.argsort(ranked, axis=1) + 1
            wanted = np.maximum(SURVIVORS, np.ceil(keep * alive.sum(axis=1)))[:, None]
            drops[alive & ~ended & (place > wanted)] = mark
            mark *= 2
        return drops

    def _lead(self, led: Ints, ended: Bools, news: Bools, leader: Leader) -> None:
        """Who leads now, by problem; -1 where nobody does."""
        import numpy as np

        k = ended.shape[1]
        if leader == "score":
            ranks = np.where(ended, self.rank, 2 * k)
            best = ranks.argmin(axis=1)
            led[:] = np.where(ranks[np.arange(len(best)), best] < k, best, -1)
            return
        for p in np.flatnonzero(news.any(axis=1)):
            there = {self.traces[p, i].whole.index: i for i in np.flatnonzero(ended[p])}
            found = leader_of([self.traces[p, i].whole for i in there.values()], leader)
            led[p] = there[found[0].index] if found is not None else -1

    def _evidence(self, led: Ints, ended: Bools, started: Ints, running: Ints) -> tuple[Floats, Bools]:
        """The evidence (P, F), as `auto_effort.evidence` has it, and whether the leader is right (P,)."""
        import numpy as np

        rows, some = np.arange(len(led)), led >= 0
        voting = np.where(ended & (self.group >= 0), self.score, 0.0)
        agree = self.group == self.group[rows, led][:, None]
        lead = np.where(agree, voting, 0.0).sum(axis=1)
        others = np.maximum(voting.sum(axis=1) - lead, 0.0)
        n, done = np.log(started), 1.0 - running / started
        logit, surprise = self.logit[rows, led], self.surprise[rows, led]
        ours = (logit, logit * logit, np.log1p(lead), np.log1p(others), surprise)
        x = [np.where(some, figure, 0.0) for figure in ours]
        x += [n, np.where(some, n * logit, 0.0), done, (~some).astype(float), np.ones(len(led))]
        return np.stack(x, axis=1), some & self.right[rows, led]


def _courses(seen: Sequence[tuple[Floats, Bools, Ints, Bools]], total: Ints, high: Bools, full: Ints) -> Courses:
    """The marks that count of each problem, from the first at which something has ended to the last."""
    import numpy as np

    x, right, tokens, there = (np.stack(column, axis=1) for column in zip(*seen, strict=True))
    x[~there.any(axis=1)] = 0.0  # all were dropped: nothing is known, and nothing right
    tokens[~there.any(axis=1)] = total[~there.any(axis=1), None]
    new = there.copy()
    new[:, 1:] &= ~there[:, :-1] | (x[:, 1:] != x[:, :-1]).any(axis=2)
    stop = there.shape[1] - there[:, ::-1].argmax(axis=1)  # behind the last that counts
    rows = np.arange(len(high))
    new[rows, stop - 1] = True
    last = new.sum(axis=1) - 1
    at = np.argsort(~new, axis=1, kind="stable")[:, : int(last.max(initial=0)) + 1]  # (P, M)
    at = np.where(np.arange(at.shape[1]) <= last[:, None], at, (stop - 1)[:, None])
    marks = np.diff(at, axis=1, append=(stop - 1)[:, None])
    marks[rows, last] = 1
    return Courses(x[rows[:, None], at], right[rows[:, None], at], tokens[rows[:, None], at], marks, last, high, full)


def learn(parts: Sequence[Courses]) -> tuple[float, ...]:
    """The weights of the regret: P(effort high is right and the leader is not), each problem counting alike."""
    import numpy as np

    x, y, weight = [], [], []
    for c in parts:
        there = np.arange(c.x.shape[1])[None, :] <= c.last[:, None]  # (P, M)
        x.append(c.x[there])
        y.append((c.high[:, None] & ~c.right)[there].astype(float))
        weight.append((c.marks / c.marks.sum(axis=1, keepdims=True))[there] / len(parts))
    prior = np.zeros(FEATURES)
    return tuple(fit_logistic(np.concatenate(x), np.concatenate(y), np.concatenate(weight), prior, ridge=RIDGE))
