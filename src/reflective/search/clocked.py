"""Strategies of the clock while trajectories are being written: events become what is seen at marks.

`on_mark`, `on_step` and `on_end` note how far each trajectory is; as soon as all that run have come to the next mark
the strategy decides, from what was there at the mark alone. A simulation on the records of the same trajectories comes
to the same decisions (`search.simulate`). A trajectory that has ended beyond the mark at which it is let go is set
aside: its answer has no vote.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reflective.engines.base import Marked
from reflective.errors import InputError
from reflective.search.base import Choice, Steering, Strategy
from reflective.search.clock import Board, Clock, Confidences, Decision, RunningScore, Seen
from reflective.selection import answer_groups
from reflective.types import Problem, Trajectory

EVERY = 16  # tokens between two marks


@dataclass(slots=True)
class _Written:
    """How far a trajectory is: at which mark how many steps were scored."""

    steps: dict[int, int] = field(default_factory=dict)
    score: RunningScore = field(default_factory=RunningScore)
    confidences: Confidences = field(default_factory=Confidences)
    whole: Trajectory | None = None


@dataclass(slots=True)
class _Live:
    """The clock of a problem and what its trajectories have come to."""

    clock: Clock
    written: dict[int, _Written] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)  # of those that have ended

    def end(self, trajectory: Trajectory, problem: Problem) -> None:
        """A trajectory has ended; its answer gets the number of an equal one, or the next."""
        self.written[trajectory.index].whole = trajectory
        ended = [w.whole for w in self.written.values() if w.whole is not None]
        now = dict(zip((t.index for t in ended), answer_groups(ended, problem), strict=True))
        group = now.pop(trajectory.index)
        if group is not None:
            equal = (self.seen[index].group for index, other in now.items() if other == group)
            known = [seen.group for seen in self.seen.values() if seen.group is not None]
            group = next(equal, max(known, default=-1) + 1)
        self.seen[trajectory.index] = _whole(trajectory, group)

    def look(self, index: int, tokens: int) -> Seen | None:
        written = self.written[index]
        whole = written.whole
        if whole is not None and tokens >= whole.tokens:
            return self.seen[index]
        if whole is not None:
            steps = sum(step.position < tokens for step in whole.steps)
            confidences = self.seen[index].confidences
        elif tokens in written.steps:
            steps, confidences = written.steps[tokens], written.confidences
        else:
            return None
        return Seen(index, tokens, False, False, steps, written.score.at(steps), confidences=confidences)


class Clocked(Strategy):
    """A strategy of the clock: a pure function of what is seen at the marks, and a choice among those that ended."""

    every: int = EVERY

    @property
    def waits_for_ends(self) -> bool:
        """Whether it goes on at every mark before which no trajectory has ended."""
        return False

    def first(self, k: int) -> int:
        """How many trajectories begin at tick 0; by default all."""
        return k

    def begins(self, k: int) -> int:
        return max(1, min(self.first(k), k))

    @abstractmethod
    def decide(self, board: Board) -> Decision:
        """What to do at a mark. Where nothing is running afterwards, the problem is done."""

    @abstractmethod
    def pick(self, ended: Sequence[Seen]) -> Choice:
        """The choice among those that ended, without its answer."""

    # ---- while trajectories are being written

    def begin(self, run: Steering) -> None:
        live = run.state = _Live(Clock(self, run.k))
        self._start(run, live, live.clock.begin())

    def on_step(self, run: Steering, index: int, step: int, score: float) -> None:
        _live(run).written[index].score.add(score)

    def on_mark(self, run: Steering, mark: Marked) -> None:
        live = _live(run)
        if self.needs_confidences and len(mark.confidences) < self.every:
            raise InputError(
                f"the strategy {self.name!r} reads how sure the model was of each token, which this engine does not "
                "tell. Use the engine torch."
            )
        live.written[mark.id].steps[mark.tokens] = mark.steps
        live.written[mark.id].confidences.extend(mark.confidences)
        self._advance(run, live)

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        if trajectory.index not in _live(run).clock.let_go:
            run.answer(trajectory.index)

    def on_end(self, run: Steering, trajectory: Trajectory) -> None:
        live = _live(run)
        if trajectory.index in live.clock.let_go:
            return
        live.end(trajectory, run.problem)
        self._advance(run, live)

    def _advance(self, run: Steering, live: _Live) -> None:
        while not live.clock.done and (made := live.clock.advance(live.look)) is not None:
            dropped, new = made
            for index, why in dropped:
                run.cancel(index, f"token {live.clock.let_go[index][0].tokens}: {why}")
            self._start(run, live, new)

    def _start(self, run: Steering, live: _Live, new: Sequence[int]) -> None:
        for index in new:
            live.written[index] = _Written()
            run.think(index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        kept = [t for t in trajectories if not t.let_go]
        choice = self.pick(_seen(kept, problem))
        answer = next((t.answer for t in kept if t.index == choice.index), None)
        return replace(choice, answer=answer)


def _live(run: Steering) -> _Live:
    live: _Live = run.state
    return live


def _seen(trajectories: Sequence[Trajectory], problem: Problem) -> list[Seen]:
    """Trajectories that have ended, with their answers numbered."""
    return [_whole(t, group) for t, group in zip(trajectories, answer_groups(trajectories, problem), strict=True)]


def _whole(t: Trajectory, group: int | None) -> Seen:
    return Seen(
        index=t.index,
        tokens=t.tokens,
        ended=True,
        closed=t.closed,
        steps=len(t.steps),
        score=t.score,
        group=group,
        mean_logprob=t.mean_logprob,
        confidences=Confidences(t.token_confidences) if t.token_confidences else None,
    )
