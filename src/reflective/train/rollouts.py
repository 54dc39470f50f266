"""Rollouts: trajectories sampled from a model and graded, with the features of their steps: what a head learns from.

A folder of rollouts is a run folder as evaluation writes it: a manifest, a record per problem, a shard beside each
(`reflective.shards`); `reflective report` shows it. Features are caught in the pass that samples, of all layers that
the engine was asked for; others are read afterwards from the recorded tokens. A trajectory is a function of the model,
the problem and its seed, and a record is written as soon as its problem is done: a run that is stopped goes on behind
its last record, and holds in the end what an uninterrupted one holds.

Letters: N steps of all trajectories, n steps of one, H hidden size.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from reflective.engines.base import Finished, Request
from reflective.engines.driver import Client, Driver
from reflective.engines.torch import TorchEngine
from reflective.errors import ContextError
from reflective.grading import Grade, GradingThread, final_answer, record_of
from reflective.judge.format import step_positions
from reflective.judge.loss import OUTCOMES
from reflective.records import Record, RecordWriter, key_of, read_records, with_own_keys
from reflective.records.manifest import RECORDS
from reflective.search import Majority
from reflective.search.prompt import encode_problem
from reflective.shards import Place, Shard, Steps, load_features
from reflective.train.features import read_features
from reflective.train.progress import Note, Stop, clock
from reflective.train.rollout_settings import RolloutSettings, caught_places, claim_rollouts
from reflective.types import Problem, Solution, Timing, Trajectory, Usage
from reflective.verify import grade as grade_answer

STRATEGY = Majority()  # what the records' own answers come from: there is no head yet
TELL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Graded trajectories, those of a problem next to each other.

    `features[starts[i]:starts[i + 1]]` are the steps of trajectory i, in order.
    """

    features: Tensor  # (N, H)
    logprob_features: Tensor  # (N, 2): mean and lowest token log-probability of each step
    starts: list[int]  # one more than there are trajectories
    problems: list[int]  # the problem's number
    outcomes: list[int]  # 1 right, 0 wrong, -1 ungradable
    mean_logprobs: list[float | None]
    closed: list[bool]
    answers: list[int | None]  # the number of the answer among the problem's distinct answers (`reflective.selection`)

    def __len__(self) -> int:
        return len(self.problems)

    def groups(self) -> list[list[int]]:
        """Trajectory numbers by problem."""
        found: dict[int, list[int]] = {}
        for i, problem in enumerate(self.problems):
            found.setdefault(problem, []).append(i)
        return list(found.values())

    def last_steps(self) -> Rollouts:
        """The same with the last step of each trajectory alone."""
        spans = list(zip(self.starts, self.starts[1:]))
        ends = [stop - 1 for start, stop in spans if stop > start]
        return replace(
            self,
            features=self.features[ends],
            logprob_features=self.logprob_features[ends],
            starts=[0, *accumulate(int(stop > start) for start, stop in spans)],
        )

    @classmethod
    def of(cls, records: Sequence[Record], steps: Mapping[str, Steps]) -> Rollouts:
        """Records and, by their keys, the steps of their trajectories."""
        trajectories = [(number, t) for number, record in enumerate(records) for t in record.trajectories]
        parts = [steps[record.key] for record in records if record.trajectories]
        starts = [0, *accumulate(count for part in parts for count in part.counts)]
        return cls(
            features=torch.cat([part.features for part in parts]) if parts else torch.empty(0, 0),
            logprob_features=torch.cat([part.logprobs for part in parts]) if parts else torch.empty(0, 2),
            starts=starts,
            problems=[number for number, _ in trajectories],
            outcomes=[OUTCOMES[t.verdict.right if t.verdict else None] for _, t in trajectories],
            mean_logprobs=[t.mean_logprob for _, t in trajectories],
            closed=[t.closed for _, t in trajectories],
            answers=[t.group for _, t in trajectories],
        )


def load_records(folder: Path) -> list[Record]:
    """The records of a run folder, in the order of their problems."""
    return sorted(read_records(folder / RECORDS), key=lambda record: record.extra["number"])


def load_rollouts(folder: Path, place: Place) -> Rollouts:
    """What a run folder holds, with the features of one place."""
    return Rollouts.of(load_records(folder), load_features(folder, place))


def sample_rollouts(
    engine: TorchEngine,
    problems: Sequence[Problem],
    k: int,
    folder: Path,
    settings: RolloutSettings,
    *,
    note: Note,
    stop: Stop | None = None,
    first: int | None = None,
    grade: Grade = grade_answer,
) -> bool:
    """Sample k trajectories of each problem into a run folder; True when all are there.

    The engine must catch features. Where `folder` holds records of the same settings, only the missing problems are
    sampled. Ctrl-C, or `stop.requested`, ends it early with what is complete. A problem that does not fit the context
    is recorded without trajectories, and told. `first` ends it behind so many problems, to go on another time.
    """
    claim_rollouts(folder, engine, problems, k, settings)
    problems, writer = with_own_keys(problems), settings.writer or engine
    with RecordWriter(folder / RECORDS) as records:
        wanted = problems[:first]
        waiting = [number for number, problem in enumerate(wanted) if key_of(problem) not in records.done]
        if waiting and records.done:
            note(f"{len(records.done):,} of {len(problems):,} problems were sampled before; going on")
        meter = _Meter(len(wanted), len(waiting), note)
        waiting.reverse()
        # leaving ends what is being sampled, then waits for what is being graded
        with GradingThread() as grader, Driver.of(writer).client() as client:
            sampler = _Sampler(engine, client, problems, k, settings, note)

            def keep(number: int, sample: _Sample) -> None:
                record = sampler.record(number, sample, folder, grade)
                records.write(record)
                meter.add(record)

            try:
                while (waiting or client.in_flight) and not (stop is not None and stop.requested):
                    while waiting and client.in_flight < 2 * writer.max_rows:
                        number = waiting.pop()
                        if not sampler.submit(number):  # too long for the context
                            grader.submit(keep, number, sampler.take(number))
                    for number in sampler.finished():
                        grader.submit(keep, number, sampler.take(number))
            except KeyboardInterrupt:
                pass
        meter.tell()
        complete = all(key_of(problem) in records.done for problem in wanted)
    if complete and settings.layers:
        places = [Place(layer) for layer in settings.layers]
        read_features(engine.model, engine.judge.format, load_records(folder), places, folder, note)
    return complete


def read_caught(engine: TorchEngine, folder: Path, note: Note) -> None:
    """Read what the engine would have caught of trajectories that another one wrote, in one pass over each."""
    read_features(engine.model, engine.judge.format, load_records(folder), caught_places(engine), folder, note)


def trajectory_seed(seed: int, problem: int, index: int) -> int:
    """A seed for each trajectory of each problem, 63 bits."""
    digest = hashlib.blake2b(f"rollout/{seed}/{problem}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(slots=True)
class _Sample:
    """A problem under way: its trajectories that have ended, by index, with step positions and features."""

    prompt_ids: tuple[int, ...]
    began: float
    ended: dict[int, tuple[Trajectory, list[int], Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Sampler:
    """Turns problems into requests, and what comes back into records with their shards."""

    def __init__(
        self,
        engine: TorchEngine,
        client: Client,
        problems: Sequence[Problem],
        k: int,
        settings: RolloutSettings,
        note: Note,
    ) -> None:
        self._engine, self._client, self._problems, self._note = engine, client, problems, note
        self._k, self._settings, self._catches = k, settings, settings.writer is None
        self._places = caught_places(engine)
        self._samples: dict[int, _Sample] = {}  # by the problem's number
        self._numbers: dict[int, int] = {}  # the client's id -> the problem's number

    def submit(self, number: int) -> bool:
        """Ask for the trajectories of a problem; False where the context has no room for them."""
        problem, asked = self._problems[number], self._settings
        prompt = encode_problem(self._engine, problem)
        sample = self._samples[number] = _Sample(prompt, time.monotonic())
        try:
            for index in range(self._k):
                seed = trajectory_seed(asked.seed, number, index)
                request = Request(prompt, asked.sampling, seed, asked.max_tokens, until="eos", index=index)
                self._numbers[self._client.submit(request)] = number
        except ContextError as error:
            self._note(f"problem {problem.id or number} is left out: {error}")
            sample.notes = (str(error),)
            return False
        return True

    def finished(self) -> list[int]:
        """Wait for something to happen; the numbers of the problems that are done now."""
        done = []
        for event in self._client.events():
            if isinstance(event, Finished):
                number = self._numbers.pop(event.id)
                sample = self._samples[number]
                sample.ended[event.trajectory.index] = (event.trajectory, *self._taken(event, sample))
                self._client.cancel(event.id)
                if len(sample.ended) == self._k:
                    done.append(number)
        return done

    def _taken(self, event: Finished, sample: _Sample) -> tuple[list[int], Tensor]:
        """Where the steps of a trajectory end, and their features where they were caught."""
        if self._catches:
            return self._client.take_features(event.id)
        ids, format = event.trajectory.token_ids, self._engine.judge.format
        return step_positions(format, ids, sample.prompt_ids), torch.empty(0)

    def take(self, number: int) -> _Sample:
        """What there is of a problem that is done; it is forgotten here."""
        return self._samples.pop(number)

    def record(self, number: int, sample: _Sample, folder: Path, grade: Grade) -> Record:
        """The graded record of a problem that is done; its shard is written."""
        problem = self._problems[number]
        ended = [sample.ended[index] for index in sorted(sample.ended)]
        trajectories = tuple(replace(t, answer=final_answer(t, problem)) for t, _, _ in ended)
        record = record_of(
            self._solution(sample, problem, trajectories), number, grade=grade, prompt_ids=sample.prompt_ids
        )
        positions = [places for _, places, _ in ended]
        features: dict[Place, Tensor] = {}
        if ended and self._catches:
            states = torch.cat([states for _, _, states in ended]).chunk(len(self._places), -1)  # (N, F) -> (N, H) each
            features = dict(zip(self._places, states, strict=True))
        Shard.of(record.key, trajectories, positions, features).write(folder, number)
        marked = tuple(
            replace(t, step_positions=tuple(places)) for t, places in zip(record.trajectories, positions, strict=True)
        )
        return replace(record, trajectories=marked)

    def _solution(self, sample: _Sample, problem: Problem, trajectories: tuple[Trajectory, ...]) -> Solution:
        choice = STRATEGY.choose(trajectories, problem)
        text = next((t.answer_text for t in trajectories if t.index == choice.index), "")
        return Solution(
            problem=problem,
            answer=choice.answer,
            answer_text=text,
            confidence=None if text else 0.0,
            effort=self._k,
            strategy=STRATEGY.name,
            selected=choice.index,
            trajectories=trajectories,
            usage=Usage(len(sample.prompt_ids) if trajectories else 0, sum(t.tokens for t in trajectories)),
            timing=Timing(time.monotonic() - sample.began),
            model=self._engine.name,
            seed=self._settings.seed,
            notes=(*sample.notes, *choice.notes),
        )


class _Meter:
    """Counts what is sampled, and tells it now and then."""

    def __init__(self, total: int, waiting: int, note: Note) -> None:
        self._total, self._waiting, self._note = total, waiting, note
        self._done = self._count = self._right = self._known = 0
        self._began = self._told = time.monotonic()

    def add(self, record: Record) -> None:
        verdicts = [t.verdict.right for t in record.trajectories if t.verdict is not None]
        self._done += 1
        self._count += len(verdicts)
        self._right += sum(v is True for v in verdicts)
        self._known += sum(v is not None for v in verdicts)
        if time.monotonic() - self._told > TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Say how far it has come."""
        self._told = time.monotonic()
        spent = self._told - self._began
        left = spent * (self._waiting - self._done) / max(self._done, 1)
        self._note(
            f"sampled {self._count:,} trajectories, {self._right / max(self._known, 1):.3f} right, "
            f"{self._count / max(spent, 1e-9):.1f}/s, {clock(left)} left"
        )
