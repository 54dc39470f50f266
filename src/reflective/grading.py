"""From a solution to its record: every final answer graded once, equal answers grouped.

A trajectory whose reasoning was closed but not continued to an answer, and one that a strategy stopped, have no
verdict: nobody knows what they would have answered. One that ran out of tokens has no final answer, which is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from reflective import verify
from reflective.records import Record, TrajectoryRecord
from reflective.selection import answer_groups
from reflective.types import Problem, Solution, Trajectory, Verdict
from reflective.verify import extract_answer, grade

Grade = Callable[[Problem, str | None], Verdict]
UNGRADED_AT_MOST = 32  # solved problems that wait for the grader before the engine waits, too


def grader_version() -> str:
    """The version of the graders, which records name."""
    return str(getattr(verify, "GRADER_VERSION", ""))


def record_of(
    solution: Solution,
    number: int,
    *,
    grade: Grade = grade,
    texts: bool = True,
    prompt_ids: Sequence[int] = (),
) -> Record:
    """The graded record of a solution; `number` is the problem's place in its run. Token ids are kept where those of
    the prompt are given."""
    graded = _Once(solution.problem, grade)
    verdicts = [graded(t.answer) if has_ended(t) else None for t in solution.trajectories]
    record = Record.of(
        solution,
        graded(solution.answer),
        verdicts,
        texts=texts,
        extra={"number": number} if number >= 0 else None,
        grader=grader_version(),
        prompt_ids=prompt_ids,
    )
    return with_groups(record)


def regraded(record: Record, *, grade: Grade = grade, extract: bool = False) -> Record:
    """The record with new verdicts; `extract` also looks for the final answers again, where the texts were kept.

    The chosen answer stays that of the chosen trajectory; nothing is generated and no choice is made anew.
    """
    graded = _Once(record.problem, grade)
    trajectories = []
    for t in record.trajectories:
        if extract and t.answer_text.strip():
            t = replace(t, answer=final_answer(t, record.problem))
        trajectories.append(replace(t, group=None, verdict=graded(t.answer) if has_ended(t) else None))
    answer = record.answer
    if extract:
        answer = next((t.answer for t in trajectories if t.index == record.selected and t.answer_text.strip()), answer)
    changed = replace(record, answer=answer, trajectories=tuple(trajectories), verdict=graded(answer))
    return with_groups(replace(changed, grader=grader_version()))


def final_answer(t: Trajectory | TrajectoryRecord, problem: Problem) -> str | None:
    """The final answer that a trajectory's text states. One that ran out of tokens or was stopped states none, since
    more of it might have changed the answer."""
    if t.finish_reason in ("length", "cancelled") or not t.answer_text.strip():
        return None
    return extract_answer(t.answer_text, problem.kind)


def has_ended(t: Trajectory | TrajectoryRecord) -> bool:
    """Whether a trajectory came to the end of what it would have said, be it out of tokens."""
    if t.answer is not None or t.answer_text.strip():
        return True
    return t.finish_reason not in ("think_end", "cancelled")


def with_groups(record: Record) -> Record:
    """The record with its trajectories' answers numbered."""
    groups = answer_groups(record.trajectories, record.problem)
    numbered = tuple(replace(t, group=group) for t, group in zip(record.trajectories, groups, strict=True))
    return replace(record, trajectories=numbered)


def groups_of(record: Record) -> list[int | None]:
    """The number of each trajectory's answer; they are compared where that has not been done."""
    if any(t.group is None and t.answer is not None for t in record.trajectories):
        return answer_groups(record.trajectories, record.problem)
    return [t.group for t in record.trajectories]


class _Once:
    """Grades each distinct answer of a problem once."""

    def __init__(self, problem: Problem, grade: Grade) -> None:
        self._problem, self._grade = problem, grade
        self._known: dict[str | None, Verdict] = {}

    def __call__(self, answer: str | None) -> Verdict:
        if answer not in self._known:
            self._known[answer] = self._grade(self._problem, answer)
        return self._known[answer]


class GradingThread:
    """Another thread, in which solved problems are graded and kept in their order, so that the engine goes on.

    Leaving it waits for all that was submitted, whatever happened, so nothing solved is lost. An error in there is
    raised by a later `submit`, or on leaving.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grading")
        self._pending: deque[Future[Any]] = deque()

    def submit(self, keep: Callable[..., Any], *arguments: Any) -> None:
        """Call `keep` in the thread; waits where too many wait already."""
        self._pending.append(self._thread.submit(keep, *arguments))
        while self._pending and (self._pending[0].done() or len(self._pending) > UNGRADED_AT_MOST):
            self._pending.popleft().result()

    def __enter__(self) -> GradingThread:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        while kind is None and self._pending:
            self._pending.popleft().result()
