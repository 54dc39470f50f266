"""One problem under way: it carries a strategy's wishes to the engine and the engine's events to the strategy.

Events are handled on the thread that drives the engine, between two of its steps; everything else happens on the thread
that wants the solution. The client's lock keeps the two apart.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Literal, cast

from reflective.engines.base import Event, Finished, Marked, Request, StepScored, with_id
from reflective.engines.driver import Client
from reflective.errors import InputError
from reflective.judge.calibrate import Calibration
from reflective.search.base import Strategy
from reflective.search.budget import Budget
from reflective.search.clock import RunningScore
from reflective.search.events import Answering, Forked, SearchEvent, Started
from reflective.search.outcome import Ending, confidence_in, remarks
from reflective.search.prompt import encode_problem
from reflective.search.settings import Settings, check_problem, trajectory_seed
from reflective.types import OVER_BUDGET, Problem, Solution, Timing, Trajectory, Usage

Phase = Literal["think", "step", "answer"]
UNTIL: Mapping[Phase, Literal["step", "think_end", "eos"]] = {"think": "think_end", "step": "step", "answer": "eos"}


class Attempt:
    """The state of one problem: `begin` it, and let its client advance until it is `done`.

    `tell` is called with everything that happens, in order. `prompt_ids` is the problem's prompt where the caller has
    encoded it, `answer_of` says where its final answers are found, if not where graders look.
    """

    def __init__(
        self,
        client: Client,
        problem: str | Problem,
        k: int,
        strategy: Strategy,
        settings: Settings,
        calibration: Calibration | None = None,
        tell: Callable[[SearchEvent], None] | None = None,
        prompt_ids: tuple[int, ...] | None = None,
        answer_of: Callable[[Trajectory], str | None] | None = None,
    ) -> None:
        self.problem = check_problem(problem)
        self.k = strategy.budget(k)
        self._client, self._strategy, self._settings, self._calibration = client, strategy, settings, calibration
        self._tell: Callable[[SearchEvent], None] = tell or (lambda event: None)
        if prompt_ids is None:
            prompt_ids = encode_problem(client.engine, self.problem, settings.system)
        self._prompt_ids = prompt_ids
        self._find_answer = answer_of
        self._budgets = settings.budgets(client.engine, len(self._prompt_ids))
        self._budget_of_all = Budget(settings, self.k, self._budgets[1])
        self._every = min((n for n in (strategy.every, self._budget_of_all.every) if n), default=0)
        if strategy.every and strategy.every % max(self._every, 1):
            self._every = 1  # its own marks must fall among them
        self._running: dict[int, tuple[int, Phase]] = {}  # the client's id -> index and phase
        self._thinking: dict[int, int] = {}  # index -> the client's id of a reasoning that is being written
        self._answering: dict[int, int] = {}  # the same of an answer
        self._held: dict[int, int] = {}  # index -> the client's id of a reasoning that can be continued or forked
        self._superseded: list[int] = []  # ids that were held, kept for the forks that wait to begin
        self._ended: dict[int, Trajectory] = {}
        self._forks: dict[int, tuple[int, int]] = {}  # index -> parent and the tokens that both share
        self._let_go: dict[int, str] = {}  # index -> why the strategy let it go
        self._paid: dict[int, int] = {}  # index -> tokens written
        self._started = time.perf_counter()
        self._first_step_s: float | None = None
        self._thinking_s: float | None = None
        self._total_s: float | None = None
        self._interrupted = self._late = False
        self._scores: defaultdict[int, RunningScore] = defaultdict(RunningScore)
        self._between: dict[int, tuple[float, ...]] = {}  # index -> confidences since the strategy's last mark
        self.random = Random(trajectory_seed(settings.seed, -1, self.problem.asked))
        self.state: Any = None

    # ---- what a strategy may do (see `Steering`)

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Every trajectory that has ended or is paused, by index."""
        return tuple(self._with_reason(self._ended[index]) for index in sorted(self._ended))

    def _with_reason(self, trajectory: Trajectory) -> Trajectory:
        why = self._let_go.get(trajectory.index)
        return trajectory if why is None else replace(trajectory, let_go=why)

    def think(self, index: int, *, step_tokens: int | None = None) -> None:
        """Write reasoning number `index`; nothing is begun that the budget has no room for."""
        self._check_new(index)
        if self._admitted():
            self._reason(index, step_tokens)

    def fork(self, index: int, parent: int, at: int, *, step_tokens: int | None = None) -> None:
        """Write reasoning number `index` from the first `at` response tokens of reasoning `parent`."""
        self._check_new(index)
        id = self._held.get(parent)
        if id is None or at > self._ended[parent].tokens:
            id = self._thinking.get(parent, id)
        if id is None:
            raise InputError(f"trajectory {parent} is no reasoning that is being written or held, so it has no fork.")
        if not self._admitted():
            return
        self._reason(index, step_tokens, at, id)
        self._forks[index] = (parent, at)
        self._tell(Forked(index, parent, at))

    def resume(self, index: int, *, step_tokens: int | None = None) -> None:
        """Go on with a paused reasoning."""
        if not self._paused(index):
            raise InputError(f"trajectory {index} is not paused, so it can't be resumed.")
        if self._admitted():
            self._reason(index, step_tokens, self._ended[index].tokens, self._held[index])

    def _admitted(self) -> bool:
        return self._budget_of_all.admits(len(self._running), self._every)

    def _reason(self, index: int, step_tokens: int | None, at: int | None = None, parent: int | None = None) -> None:
        """Write reasoning, from the first `at` tokens of what the client calls `parent`; a step of it, or all."""
        phase: Phase = "think" if step_tokens is None else "step"
        request = self._request(index, phase)
        left = max(min(self._budgets[0] - (at or 0), request.max_tokens), 1)
        most = left if step_tokens is None else min(step_tokens, left)
        self._submit(index, phase, replace(request, parent=parent, at=at, max_tokens=most))

    def _paused(self, index: int) -> bool:
        there = index in self._ended and self._ended[index].finish_reason == "step"
        return there and index not in self._thinking

    def answer(self, index: int) -> None:
        """Continue a closed reasoning to its answer."""
        if index not in self._held or self._ended[index].finish_reason != "think_end":
            raise InputError(f"trajectory {index} has no closed reasoning that could be continued.")
        if self._budget_of_all.left() == 0:
            return
        self._submit(index, "answer", replace(self._request(index, "answer"), parent=self._held[index]))
        self._tell(Answering(index))

    def cancel(self, index: int, why: str = "") -> None:
        """Stop writing `index`, give it up where it is paused, or set it aside where it has ended; `why` is kept."""
        if why:
            self._let_go.setdefault(index, why)
        for written in (self._thinking, self._answering):
            if index in written:
                self._client.cancel(written[index])
        if self._paused(index):
            self._superseded.append(self._held.pop(index))
            self._ended[index] = replace(self._ended[index], finish_reason="cancelled")
            self._tell(Finished(index, self._with_reason(self._ended[index])))

    def _check_new(self, index: int) -> None:
        if index in self._ended or index in self._thinking:
            raise InputError(f"trajectory {index} is already there; a strategy writes each index once.")

    def _submit(self, index: int, phase: Phase, request: Request) -> None:
        id = self._client.submit(request, self._handle)
        self._running[id] = (index, phase)
        self._written_now(phase)[index] = id

    def _written_now(self, phase: Phase) -> dict[int, int]:
        return self._answering if phase == "answer" else self._thinking

    def _request(self, index: int, phase: Phase) -> Request:
        return Request(
            prompt_ids=self._prompt_ids,
            sampling=self._settings.sampling,
            seed=trajectory_seed(self._settings.seed, index, self.problem.asked),
            max_tokens=self._budget(index, phase),
            until=UNTIL[phase],
            index=index,
            stop=self._settings.stop,
            stop_token_ids=self._settings.stop_token_ids,
            constraint=self._settings.constraint if self._writes_answer(phase) else None,
            every=self._every,
            confidences=self._strategy.needs_confidences,
        )

    def _writes_answer(self, phase: Phase) -> bool:
        return phase == "answer" or self._client.engine.judge.format.is_whole

    def _budget(self, index: int, phase: Phase) -> int:
        left, reserve = self._budget_of_all.left(), self._budget_of_all.reserve
        own = self._own_budget(index, phase)
        return own if left is None else max(1, min(own, left - (0 if phase == "answer" else reserve)))

    def _own_budget(self, index: int, phase: Phase) -> int:
        total = self._settings.total_tokens
        if phase == "answer" and total is not None:
            return max(total - self._ended[index].tokens, 1)
        return self._budgets[phase == "answer"]

    # ---- what `solve` and `solve_many` do

    @property
    def done(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self._total_s is not None

    def begin(self) -> None:
        """Submit the first requests."""
        with self._client.lock:
            self._tell(Started(self.problem, self.k, len(self._prompt_ids)))
            try:
                self._strategy.begin(self)
            except BaseException:
                self.release()
                raise
            self._check_done()

    def interrupt(self) -> None:
        """Stop everything that is being written; when the client has drained, this is done."""
        with self._client.lock:
            self._interrupted = True
            for id in self._running:
                self._client.cancel(id)

    def release(self) -> None:
        """Let the engine forget what it holds of this problem."""
        with self._client.lock:
            for id in (*self._running, *self._held.values(), *self._superseded):
                self._client.cancel(id)
            self._held.clear()
            self._superseded.clear()

    def _handle(self, event: Event) -> None:
        index, phase = self._running[event.id]
        if isinstance(event, Finished):
            trajectory = self._keep(event, index, phase)
            if trajectory.finish_reason != "step":
                self._tell(Finished(index, self._with_reason(trajectory)))
            if phase != "answer" and trajectory.finish_reason == "think_end" and not self._interrupted:
                if self._every and trajectory.tokens % self._every == 0:  # a mark, too, since it goes on
                    sure = trajectory.token_confidences[-self._every :]
                    self._mark(Marked(index, trajectory.tokens, len(trajectory.steps), sure))
                self._strategy.on_thought(self, trajectory)
            elif trajectory.finish_reason != "step" and not self._interrupted:
                self._strategy.on_end(self, trajectory)
        elif isinstance(event, Marked):
            self._budget_of_all.written[index] = event.tokens - self._forks.get(index, (0, 0))[1]
            self._mark(replace(event, id=index))
        else:
            self._tell(cast(SearchEvent, with_id(event, index)))
            if isinstance(event, StepScored):
                self._first_step_s = self._first_step_s or self._elapsed()
                self._scores[index].add(event.score)
                self._strategy.on_step(self, index, event.index, event.score)
        self._keep_within()
        self._check_done()

    def _mark(self, mark: Marked) -> None:
        """Pass on the marks that are the strategy's own."""
        every = self._strategy.every
        confidences = self._between.pop(mark.id, ()) + mark.confidences
        if every and mark.tokens % every == 0:
            self._strategy.on_mark(self, replace(mark, confidences=confidences))
        elif every:
            self._between[mark.id] = confidences

    def tick(self) -> None:
        """Look at the clock, where no event may come for a while."""
        if self._settings.deadline is not None and not self.done:
            with self._client.lock:
                self._keep_within()

    def _keep_within(self) -> None:
        """Stop reasoning that the budget has no room for, and all at the deadline."""
        budget, elapsed = self._budget_of_all, self._elapsed()
        if not budget.every:
            return
        spare = len(self._thinking) - budget.allowed()
        if spare > 0 and not budget.over:
            worst = sorted(self._thinking, key=lambda index: (self._scores[index].last, -index))[:spare]
            for index in worst:
                self.cancel(index, f"{OVER_BUDGET}: the token budget lets {budget.allowed()} go on")
        if budget.look(len(self._running), self._every, elapsed):
            for index in list(self._thinking):
                self.cancel(index, f"{OVER_BUDGET}: {budget.over} left no room")
        if budget.too_late(elapsed) and not self._late:
            self._late = True
            for id in self._running:
                self._client.cancel(id)

    def _check_done(self) -> None:
        if not self._running and not self._interrupted and not self._late:
            while self._superseded:
                self._client.cancel(self._superseded.pop())
            self._strategy.on_idle(self)
        if not self._running:
            for index in list(self._ended):
                self.cancel(index)  # of what is paused, nothing comes any more
            self._total_s = self._elapsed()

    def _keep(self, event: Finished, index: int, phase: Phase) -> Trajectory:
        """Store what has ended, with its final answer; one stopped at once leaves the reasoning as it was."""
        del self._running[event.id], self._written_now(phase)[index]
        parent, at = self._forks.get(index, (None, 0))
        trajectory = replace(event.trajectory, parent=parent, at=at)
        self._paid[index] = self._budget_of_all.written[index] = trajectory.tokens - at
        if phase == "answer" and not self._strategy.forks:
            self._client.cancel(self._held.pop(index))
        elif phase != "answer" and index in self._held:
            self._superseded.append(self._held.pop(index))
        if phase != "answer":
            self._thinking_s = self._elapsed()
        elif trajectory.finish_reason == "cancelled" and not trajectory.answer_text.strip():
            self._client.cancel(event.id)
            return self._ended[index]
        if phase == "step" and trajectory.finish_reason == "length" and trajectory.tokens < self._budgets[0]:
            trajectory = replace(trajectory, finish_reason="step")  # so long that it is judged before it has ended
        if trajectory.answer_text.strip():
            trajectory = replace(trajectory, answer=self._answer_of(trajectory))
        whole = trajectory.finish_reason == "eos" and self._strategy.forks
        if phase != "answer" and (whole or trajectory.finish_reason in ("think_end", "length", "step")):
            self._held[index] = event.id
        else:
            self._client.cancel(event.id)
        self._ended[index] = trajectory
        return trajectory

    def _answer_of(self, trajectory: Trajectory) -> str | None:
        if self._find_answer is not None:
            return self._find_answer(trajectory)
        from reflective.grading import final_answer

        return final_answer(trajectory, self.problem)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    # ---- the outcome

    def solution(self) -> Solution:
        """What the trajectories that have ended come to."""
        choice = self._strategy.choose(self.trajectories, self.problem)
        best = self._ended.get(choice.index) if choice.index is not None else None
        answer_text = best.answer_text if best is not None else ""
        total = self._total_s if self._total_s is not None else self._elapsed()
        thinking = self._thinking_s
        ending = Ending(
            trajectories=self.trajectories,
            whole=self._client.engine.judge.format.is_whole,
            budgets=self._budgets,
            over=self._budget_of_all.over,
            interrupted_s=self._elapsed() if self._interrupted else None,
        )
        return Solution(
            problem=self.problem,
            answer=choice.answer,
            answer_text=answer_text,
            confidence=confidence_in(choice, best, self.trajectories, self._strategy.name, self._calibration),
            effort=self.k,
            strategy=self._strategy.name,
            selected=choice.index,
            trajectories=self.trajectories,
            usage=Usage(len(self._prompt_ids), sum(self._paid.values())),
            timing=Timing(total, self._first_step_s, thinking, None if thinking is None else total - thinking),
            model=self._client.engine.name,
            seed=self._settings.seed,
            notes=(*choice.notes, *remarks(best, ending)),
            interrupted=self._interrupted,
        )
