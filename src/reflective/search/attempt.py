"""One problem under way: it carries a strategy's wishes to the engine and the engine's events to the strategy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol

from reflective.engines.base import Engine, Event, Finished, Request, StepScored
from reflective.errors import InputError
from reflective.search.base import Choice, Strategy
from reflective.search.events import Answering, SearchEvent, Started
from reflective.search.settings import Settings, check_problem, trajectory_seed
from reflective.types import Problem, Solution, Timing, Trajectory, Usage

Phase = Literal["think", "answer"]


class Calibrated(Protocol):
    """Turns a strategy's evidence into a probability (see `reflective.judge.calibrate.Calibration`)."""

    def confidence(
        self,
        strategy: str,
        evidence: float | None,
        k: int,
        *,
        score: float | None = None,
        mean_logprob: float | None = None,
    ) -> float | None:
        """Probability that the answer is right, from the evidence and from what is known of the trajectory that the
        answer is taken from; None where that is unknown."""


class Attempt:
    """The state of one problem. `begin` it, feed it the engine's events through `handle` until it is `done`."""

    def __init__(
        self,
        engine: Engine,
        problem: str | Problem,
        k: int,
        strategy: Strategy,
        settings: Settings,
        calibration: Calibrated | None = None,
    ) -> None:
        self.problem = check_problem(problem)
        self.k = strategy.budget(k)
        self._engine, self._strategy, self._settings, self._calibration = engine, strategy, settings, calibration
        self._prompt_ids = engine.encode_prompt(self.problem.text)
        self._budgets = settings.budgets(engine, len(self._prompt_ids))
        self._running: dict[int, tuple[int, Phase]] = {}  # the engine's id -> index and phase
        self._held: dict[int, int] = {}  # index -> the engine's id of what can be continued
        self._ended: dict[int, Trajectory] = {}
        self._paid: dict[int, int] = {}  # index -> tokens written
        self._outbox: list[SearchEvent] = []
        self._started = time.perf_counter()
        self._first_step_s: float | None = None
        self._thinking_s: float | None = None
        self._total_s: float | None = None
        self._interrupted = False

    # ---- what a strategy may do (see `Steering`)

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Every trajectory that has ended so far, by index."""
        return tuple(self._ended[index] for index in sorted(self._ended))

    def think(self, index: int) -> None:
        """Write thinking number `index`."""
        if index in self._ended or any(index == running for running, _ in self._running.values()):
            raise InputError(f"trajectory {index} is already there; a strategy writes each index once.")
        self._running[self._engine.submit(self._request(index, "think"))] = (index, "think")

    def answer(self, index: int) -> None:
        """Continue a closed thinking to its answer."""
        if index not in self._held:
            raise InputError(f"trajectory {index} has no closed thinking that could be continued.")
        self._running[self._engine.submit(self._request(index, "answer"))] = (index, "answer")
        self._outbox.append(Answering(index))

    def cancel(self, index: int) -> None:
        """Stop writing trajectory `index`."""
        for id, (running, _) in self._running.items():
            if running == index:
                self._engine.cancel(id)

    def _request(self, index: int, phase: Phase) -> Request:
        return Request(
            prompt_ids=self._prompt_ids,
            sampling=self._settings.sampling,
            seed=trajectory_seed(self._settings.seed, index, self.problem.text),
            max_tokens=self._budgets[0 if phase == "think" else 1],
            until="think_end" if phase == "think" else "eos",
            parent=None if phase == "think" else self._held[index],
            index=index,
        )

    # ---- what a driver does

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._running)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self._total_s is not None

    def begin(self) -> Iterator[SearchEvent]:
        """Submit the first requests."""
        yield Started(self.problem, self.k, len(self._prompt_ids))
        self._strategy.begin(self)
        yield from self._flush()

    def owns(self, event: Event) -> bool:
        """Whether the event belongs to this problem."""
        return event.id in self._running

    def handle(self, event: Event) -> Iterator[SearchEvent]:
        """Take one event of the engine; those of other problems are ignored."""
        if not self.owns(event):
            return
        index, phase = self._running[event.id]
        if isinstance(event, Finished):
            trajectory = self._keep(event, index, phase)
            yield Finished(index, trajectory)
            if trajectory.finish_reason == "think_end" and not self._interrupted:
                self._strategy.on_thought(self, trajectory)
        else:
            yield replace(event, id=index)
            if isinstance(event, StepScored):
                self._first_step_s = self._first_step_s or self._elapsed()
                self._strategy.on_step(self, index, event.index, event.score)
        yield from self._flush()

    def interrupt(self) -> None:
        """Stop everything that is being written; `handle` the engine's next events, then it is done."""
        for id in self._running:
            self._engine.cancel(id)
        self._interrupted = True

    def release(self) -> None:
        """Let the engine forget what it holds of this problem."""
        for id in (*self._running, *self._held.values()):
            self._engine.cancel(id)
        self._held.clear()

    def _flush(self) -> Iterator[SearchEvent]:
        if not self._running:
            if not self._interrupted:
                self._strategy.on_idle(self)
            if not self._running:
                self._total_s = self._elapsed()
        sent, self._outbox = self._outbox, []
        yield from sent

    def _keep(self, event: Finished, index: int, phase: Phase) -> Trajectory:
        """Store what has ended, with its final answer; one stopped at once leaves the thinking as it was."""
        del self._running[event.id]
        trajectory = event.trajectory
        self._paid[index] = trajectory.tokens
        if phase == "think":
            self._thinking_s = self._elapsed()
        else:
            self._engine.cancel(self._held.pop(index))
            if trajectory.finish_reason == "cancelled" and not trajectory.answer_text.strip():
                self._engine.cancel(event.id)
                return self._ended[index]
        if trajectory.answer_text.strip():
            trajectory = replace(trajectory, answer=self._extract(trajectory.answer_text))
        if trajectory.finish_reason == "think_end":
            self._held[index] = event.id
        else:
            self._engine.cancel(event.id)
        self._ended[index] = trajectory
        return trajectory

    def _extract(self, answer_text: str) -> str | None:
        from reflective.verify import extract_answer

        return extract_answer(answer_text, self.problem.kind)

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
        return Solution(
            problem=self.problem,
            answer=choice.answer,
            answer_text=answer_text,
            confidence=self._confidence(choice, best),
            effort=self.k,
            strategy=self._strategy.name,
            selected=choice.index,
            trajectories=self.trajectories,
            usage=Usage(len(self._prompt_ids), sum(self._paid.values())),
            timing=Timing(total, self._first_step_s, thinking, None if thinking is None else total - thinking),
            model=self._engine.name,
            seed=self._settings.seed,
            notes=(*choice.notes, *self._notes(best)),
            interrupted=self._interrupted,
        )

    def _confidence(self, choice: Choice, best: Trajectory | None) -> float | None:
        if best is None or not best.answer_text.strip():
            return 0.0  # no answer can't be right
        if choice.answer is None or self._calibration is None:
            return None
        k = sum(t.finish_reason != "cancelled" for t in self.trajectories)
        return self._calibration.confidence(
            self._strategy.name, choice.evidence, max(k, 1), score=best.score, mean_logprob=best.mean_logprob
        )

    def _notes(self, best: Trajectory | None) -> Iterator[str]:
        ended = self.trajectories
        cut = sum(t.finish_reason == "length" and not t.answer_text.strip() for t in ended)
        if self._interrupted:
            yield f"stopped by the user after {self._elapsed():.1f} s"
        if cut and cut == len(ended):
            yield f"no trajectory finished its thinking within {self._budgets[0]:,} tokens; allow more with max_tokens"
        elif cut:
            yield f"{cut} of {len(ended)} trajectories did not finish their thinking within {self._budgets[0]:,} tokens"
        elif best is None and not self._interrupted:
            yield "no trajectory closed its thinking"
        if best is None or self._interrupted:
            return
        if best.finish_reason == "length":
            yield f"the answer was cut after {self._budgets[1]:,} tokens; allow more with answer_tokens"
        if best.answer is None:
            yield (
                "no final answer was found in the answer's text" if best.answer_text.strip() else "the answer is empty"
            )
