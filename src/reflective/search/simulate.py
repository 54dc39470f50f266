"""What a clocked strategy would have done on recorded trajectories: the same decisions, without a model.

A record holds, for each trajectory, its tokens, the places and scores of its steps, its answer and its verdict; that is
all a clocked strategy sees (`search.clock`), with the tokens' confidences where they were kept (DeepConf).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reflective.errors import InputError
from reflective.grading import groups_of, has_ended
from reflective.records import Record
from reflective.search.base import Choice
from reflective.search.clock import Clock, Confidences, RunningScore, Seen
from reflective.search.clocked import Clocked


@dataclass(slots=True)
class Trace:
    """A recorded trajectory, as it is seen at any number of its tokens."""

    whole: Seen
    positions: Sequence[int]
    running: RunningScore
    right: bool | None
    _seen: dict[int, Seen] = field(default_factory=dict, init=False, repr=False)  # many policies look at the same marks

    def at(self, tokens: int) -> Seen:
        """What is seen when it has so many tokens."""
        if tokens >= self.whole.tokens:
            return self.whole
        if (seen := self._seen.get(tokens)) is None:
            steps = bisect_left(self.positions, tokens)  # a step at position p is scored when p + 1 tokens are there
            score, whole = self.running.at(steps), self.whole
            seen = Seen(whole.index, tokens, False, False, steps, score, confidences=whole.confidences)
            self._seen[tokens] = seen
        return seen


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a problem: the choice, whether it was right (None: ungradable), the tokens written, who was let go
    at which of its tokens and why, and how many were started."""

    choice: Choice
    right: bool | None
    tokens: int
    let_go: Mapping[int, tuple[int, str]]
    started: int
    ticks: int


def traces_of(record: Record, confidences: Sequence[Sequence[float]] = ()) -> list[Trace]:
    """The trajectories of a record. Raises `InputError` where some were not written to their ends."""
    traces = []
    for i, (t, group) in enumerate(zip(record.trajectories, groups_of(record), strict=True)):
        if not has_ended(t):
            raise InputError(
                f"the record of {record.key!r:.60} holds trajectories that were not written to their answers, so "
                "nobody knows what they would have come to. Sample with: reflective eval … --answers all."
            )
        scores = t.step_scores
        kept = Confidences(confidences[i]) if confidences else None
        whole = Seen(t.index, t.tokens, True, t.closed, len(scores), t.score, group, t.mean_logprob, kept)
        right = t.verdict.right if t.verdict is not None else None
        traces.append(Trace(whole, t.step_positions, RunningScore(scores), right))
    return sorted(traces, key=lambda trace: trace.whole.index)


def simulate(strategy: Clocked, traces: Sequence[Trace], k: int | None = None) -> Outcome:
    """Play a problem. `k` is the budget, at most and by default all traces."""
    clock = Clock(strategy, min(k or len(traces), len(traces)))
    clock.begin()

    def look(index: int, tokens: int) -> Seen:
        return traces[index].at(tokens)

    while not clock.done:
        if strategy.waits_for_ends:
            clock.skip(min(clock.began[i] + traces[i].whole.tokens for i in clock.running))
        clock.advance(look)
    choice = strategy.pick(clock.ended)
    right = traces[choice.index].right if choice.index is not None else False
    let_go = {index: (seen.tokens, why) for index, (seen, why) in clock.let_go.items()}
    return Outcome(choice, right, clock.tokens, let_go, len(clock.began), clock.now)
