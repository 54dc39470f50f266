"""Run a benchmark: any engine, any strategy, many problems in flight, records appended as they come.

    solve -> grade -> write -> tell

Solving fills the engine; grading and writing go on beside it in a thread of their own. A trajectory is a function of
the model, its problem and its seed, so a run that was killed and started again holds what an uninterrupted one holds.
Ctrl-C stops what is being written, keeps every solved problem, and raises KeyboardInterrupt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflective.engines.base import Engine
from reflective.errors import InputError
from reflective.evaluate.bootstrap import wilson
from reflective.grading import Grade, GradingThread, record_of
from reflective.records import Record, RecordWriter, key_of, read_records, with_own_keys
from reflective.records.manifest import MANIFEST, RECORDS, Manifest, claim, digest_of, read_manifest, versions
from reflective.search import BestOfN, Settings, Strategy, solve_many
from reflective.search.many import ROWS_IN_FLIGHT
from reflective.search.prompt import encode_problem
from reflective.types import Problem, Solution
from reflective.verify import grade as grade_answer

if TYPE_CHECKING:
    from reflective.judge.calibrate import Calibration

_CONTENT = ("system", "stop", "stop_token_ids")  # settings of a search that a run of before them does not tell


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. `right` and `graded` count the run's own answers; `seconds_left` is NaN at first."""

    done: int
    total: int
    right: int
    graded: int
    seconds: float
    seconds_left: float

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """The share of right answers so far with its 95 % Wilson interval; NaN before the first."""
        if not self.graded:
            return float("nan"), float("nan"), float("nan")
        share = self.right / self.graded
        return (share, *wilson(share, self.graded))


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of an engine: `effort` trajectories per problem, spent by `strategy`.

    `benchmark` describes where the problems come from, for the manifest. `shard` (i, n) takes every n-th problem from
    the i-th on. `texts=False` leaves the texts out of the records. `tokens` keeps token ids in the records, and beside
    them in shards what the engine knows of every token (`reflective.shards`). `engine_options` are what the engine was
    made with, for the manifest.
    """

    effort: int
    strategy: Strategy
    settings: Settings
    benchmark: Mapping[str, Any]
    shard: tuple[int, int] = (1, 1)
    texts: bool = True
    tokens: bool = False
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        i, n = self.shard
        if not 1 <= i <= n:
            raise InputError(f"shard is {i}/{n}; it must be one of 1/{max(n, 1)} to {max(n, 1)}/{max(n, 1)}.")

    def manifest(self, engine: Engine, problems: Sequence[Problem]) -> Manifest:
        """What the run folder says of this run."""
        s = self.settings
        options = {name: value for name, value in self.strategy.options.items() if name != "answers"}
        return Manifest(
            benchmark=self.benchmark,
            model=engine.name,
            strategy=self.strategy.name,
            effort=self.effort,
            seed=s.seed,
            settings={
                **asdict(s.sampling),
                "max_tokens": s.max_tokens,
                "answer_tokens": s.answer_tokens,
                "answers": getattr(self.strategy, "answers", "all") if isinstance(self.strategy, BestOfN) else "all",
                "texts": self.texts,
                **({"tokens": True} if self.tokens else {}),
                **({"strategy_options": options} if options else {}),
                **{name: value for name in _CONTENT if (value := getattr(s, name))},
                **self.engine_options,
                "engine": type(engine).__name__,
                "dtype": engine.dtype,
            },
            problems=len(problems),
            digest=digest_of(problems),
            shard=self.shard,
            versions=versions(),
            head=engine.judge.digest,
        )


def run_benchmark(
    engine: Engine,
    problems: Sequence[Problem],
    plan: Plan,
    folder: Path,
    *,
    calibration: Calibration | None = None,
    grade: Grade = grade_answer,
    tell: Tell | None = None,
    notes: list[str] | None = None,
) -> Path:
    """Solve, grade and record every problem of the plan's shard that is not yet recorded; the path of the records.

    Raises `InputError` where the folder holds another run, and what the engine or the disk raises; what was solved
    before is recorded in any case.
    """
    problems = with_own_keys(problems)
    claim(folder, plan.manifest(engine, problems))
    i, n = plan.shard
    numbers = {key_of(problem): number for number, problem in enumerate(problems)}
    mine = problems[i - 1 :: n]
    with RecordWriter(folder / RECORDS) as writer:
        if notes is not None:
            notes += writer.notes
        waiting = [problem for problem in mine if key_of(problem) not in writer.done]
        meter = _Meter(len(mine), len(waiting), _counts(folder / RECORDS), tell)

        def keep(problem: Problem, solution: Solution) -> None:
            number = numbers[key_of(problem)]
            prompt: Sequence[int] = ()
            if plan.tokens and solution.trajectories:
                prompt = encode_problem(engine, problem, plan.settings.system)
            record = record_of(solution, number, grade=grade, texts=plan.texts, prompt_ids=prompt)
            if plan.tokens:
                from reflective.shards import Shard

                Shard.of(record.key, solution.trajectories).write(folder, number)
            writer.write(record)
            meter.add(record)

        solutions = solve_many(
            engine,
            waiting,
            plan.effort,
            strategy=plan.strategy,
            settings=plan.settings,
            calibration=calibration,
            in_flight=max(ROWS_IN_FLIGHT, engine.max_rows),  # so that the engine is always full
        )
        with GradingThread() as grader:
            for problem, solution in solutions:
                grader.submit(keep, problem, solution)
    return folder / RECORDS


def precision_of(folder: Path) -> str | None:
    """The packed precision (see `docs/precision.md`) in which a run was begun; None where there is no such run."""
    if not (folder / MANIFEST).exists():
        return None
    kind = str(read_manifest(folder).settings.get("dtype", "")).partition(" ")[0]  # "int8 (7 bits)"
    return kind if kind in ("bfloat16", "int8", "int4") else None


class _Meter:
    """Counts what is recorded and tells it; used by one thread."""

    def __init__(self, total: int, waiting: int, before: tuple[int, int], tell: Tell | None) -> None:
        self._total, self._waiting, self._tell = total, waiting, tell
        self._right, self._graded = before
        self._new = 0
        self._began = time.monotonic()
        self._report()

    def add(self, record: Record) -> None:
        self._new += 1
        right = record.verdict.right if record.verdict else None
        self._right += right is True
        self._graded += right is not None
        self._report()

    def _report(self) -> None:
        if self._tell is None:
            return
        spent = time.monotonic() - self._began
        left = spent / self._new * (self._waiting - self._new) if self._new else float("nan")
        done = self._total - self._waiting + self._new
        self._tell(Progress(done, self._total, self._right, self._graded, spent, left))


def _counts(path: Path) -> tuple[int, int]:
    """Right and graded answers that are there already."""
    verdicts = [record.verdict.right for record in read_records(path) if record.verdict is not None]
    return sum(v is True for v in verdicts), sum(v is not None for v in verdicts)
