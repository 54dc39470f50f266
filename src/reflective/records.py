"""Records: one problem's solution and verdicts, one JSON line each, in a file that is only ever appended to.

Promises: a line is complete or absent. A process may be killed at any moment; the line that was being written is
dropped when the file is read or resumed, and a note says so. A disk that runs full leaves the file as it was before
the line. Two writers of the same file are refused. What is stored of a step is its logit (its score is σ of it), so
that every aggregation can be computed later. Unknown keys of a record are kept out of the way: a reader of version 1
reads every file of version 1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast, get_args

from reflective.confidence import confidence_of, self_certainty_of
from reflective.errors import InputError, ReflectiveError
from reflective.types import (
    FinishReason,
    Problem,
    Solution,
    Step,
    Timing,
    Trajectory,
    Usage,
    Verdict,
    VerdictKind,
    is_closed,
)

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class TrajectoryRecord:
    """What is kept of a trajectory. `tokens` counts the sampled ones; the texts are empty where they were left out.

    `step_ends` are the places in `thinking` behind each step. `group` is the number of its answer among the problem's
    distinct answers (`reflective.selection`), where they have been compared. `self_certainty` and `confidence_…` are
    those of `reflective.confidence`.
    """

    index: int
    seed: int
    tokens: int
    finish_reason: FinishReason
    score: float | None
    step_logits: tuple[float, ...]
    step_positions: tuple[int, ...]
    answer: str | None
    verdict: Verdict | None = None
    mean_logprob: float | None = None
    thinking: str = ""
    answer_text: str = ""
    step_ends: tuple[int, ...] = ()
    group: int | None = None
    self_certainty: float | None = None
    confidence_mean: float | None = None
    confidence_lowest_group: float | None = None
    confidence_bottom10: float | None = None
    confidence_tail: float | None = None

    @property
    def step_scores(self) -> tuple[float, ...]:
        """σ of each logit."""
        return tuple(Step(0, logit).score for logit in self.step_logits)

    @property
    def closed(self) -> bool:
        """Whether the reasoning was closed, so that the trajectory may be selected."""
        return is_closed(self.finish_reason, self.answer_text, self.answer)

    @classmethod
    def of(cls, trajectory: Trajectory, verdict: Verdict | None = None, *, texts: bool = True) -> TrajectoryRecord:
        """The record of a trajectory."""
        confidence = confidence_of(trajectory.token_confidences)
        return cls(
            index=trajectory.index,
            seed=trajectory.seed,
            tokens=trajectory.tokens,
            finish_reason=trajectory.finish_reason,
            score=trajectory.score,
            step_logits=tuple(step.logit for step in trajectory.steps),
            step_positions=tuple(step.position for step in trajectory.steps),
            answer=trajectory.answer,
            verdict=verdict,
            mean_logprob=trajectory.mean_logprob,
            thinking=trajectory.thinking if texts else "",
            answer_text=trajectory.answer_text if texts else "",
            step_ends=_step_ends(trajectory) if texts else (),
            self_certainty=self_certainty_of(trajectory.token_certainties),
            confidence_mean=confidence.mean if confidence else None,
            confidence_lowest_group=confidence.lowest_group if confidence else None,
            confidence_bottom10=confidence.bottom10 if confidence else None,
            confidence_tail=confidence.tail if confidence else None,
        )


def _step_ends(trajectory: Trajectory) -> tuple[int, ...]:
    """Where the steps' texts end in the thinking; nothing where one of them is not found."""
    ends, start = [], 0
    for step in trajectory.steps:
        found = trajectory.thinking.find(step.text, start) if step.text else -1
        if found < 0:
            return ()
        start = found + len(step.text)
        ends.append(start)
    return tuple(ends)


@dataclass(frozen=True, slots=True)
class Record:
    """One problem, what was sampled for it, what was chosen, and what the grader says.

    `verdict` is that of the chosen answer. `extra` holds what a run wants to remember of the problem.
    """

    problem: Problem
    model: str
    strategy: str
    effort: int
    seed: int
    selected: int | None
    answer: str | None
    confidence: float | None
    trajectories: tuple[TrajectoryRecord, ...]
    usage: Usage
    timing: Timing
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What names the problem in a file: its id, or its text where it has none."""
        return self.problem.id or self.problem.text

    @classmethod
    def of(
        cls,
        solution: Solution,
        verdict: Verdict | None = None,
        verdicts: Sequence[Verdict | None] = (),
        *,
        texts: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> Record:
        """The record of a solution; `verdicts` are those of its trajectories, in their order."""
        if verdicts and len(verdicts) != len(solution.trajectories):
            raise InputError(
                f"{len(verdicts)} verdicts for {len(solution.trajectories)} trajectories; one each, or none."
            )
        graded = verdicts or (None,) * len(solution.trajectories)
        return cls(
            problem=solution.problem,
            model=solution.model,
            strategy=solution.strategy,
            effort=solution.effort,
            seed=solution.seed,
            selected=solution.selected,
            answer=solution.answer,
            confidence=solution.confidence,
            trajectories=tuple(
                TrajectoryRecord.of(t, v, texts=texts) for t, v in zip(solution.trajectories, graded, strict=True)
            ),
            usage=solution.usage,
            timing=solution.timing,
            verdict=verdict,
            notes=solution.notes,
            extra=dict(extra or {}),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; infinite logits are written as strings, since JSON has no infinity."""
        data = asdict(replace(self, problem=replace(self.problem, metadata=dict(self.problem.metadata))))
        for t in data["trajectories"]:
            t["step_logits"] = [s if math.isfinite(s) else str(s) for s in t["step_logits"]]
            if t["mean_logprob"] is not None and not math.isfinite(t["mean_logprob"]):
                t["mean_logprob"] = None
        return {"version": RECORD_VERSION, **data}

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """From `to_json`'s object. Raises `InputError` where it is something else."""
        if not isinstance(data, Mapping) or "version" not in data:
            raise InputError("not a record: a JSON object with a 'version' is expected.")
        if data["version"] != RECORD_VERSION:
            raise InputError(f"record version {data['version']!r} is unknown; this release reads {RECORD_VERSION}.")
        try:
            known = _known(cls, data)
            known["problem"] = Problem(**_known(Problem, data["problem"]))
            known["usage"] = Usage(**_known(Usage, data["usage"]))
            known["timing"] = Timing(**_known(Timing, data["timing"]))
            known["verdict"] = _verdict(data.get("verdict"))
            known["notes"] = tuple(data.get("notes", ()))
            known["trajectories"] = tuple(_trajectory(t) for t in data["trajectories"])
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a record of version {RECORD_VERSION}: {type(error).__name__} {error}.") from error


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in data.items() if name in names}


def _verdict(data: Mapping[str, Any] | None) -> Verdict | None:
    if data is None:
        return None
    if data["kind"] not in get_args(VerdictKind):
        raise ValueError(f"a verdict is one of {', '.join(get_args(VerdictKind))}, got {data['kind']!r:.40}")
    return Verdict(cast(VerdictKind, data["kind"]), str(data.get("reason", "")))


def _trajectory(data: Mapping[str, Any]) -> TrajectoryRecord:
    known = _known(TrajectoryRecord, data)
    known["step_logits"] = tuple(float(s) for s in data["step_logits"])
    known["step_positions"] = tuple(data["step_positions"])
    known["step_ends"] = tuple(data.get("step_ends", ()))
    known["verdict"] = _verdict(data.get("verdict"))
    return TrajectoryRecord(**known)


def finite(value: Any) -> Any:
    """A JSON value with null in place of NaN and infinities, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_records(path: str | os.PathLike[str], notes: list[str] | None = None) -> Iterator[Record]:
    """The records of a file, in order. A last line that was cut off is left out; `notes` is told.

    Raises `InputError` with the line number for a line that is no record.
    """
    with _open_binary(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if notes is not None:
                    notes.append(_cut_off(path, number))
                return
            if line.strip():
                try:
                    yield Record.from_json(json.loads(line))
                except ValueError as error:
                    raise InputError(f"{os.fspath(path)}:{number}: {error}") from error


def _open_binary(path: str | os.PathLike[str]) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror or error}.") from error


def _cut_off(path: str | os.PathLike[str], number: int) -> str:
    return f"{os.fspath(path)}:{number}: the last line was cut off and is left out"


def hold(file: int | IO[str], name: Path) -> None:
    """Lock an open file until it is closed; the system lets go of it when the process dies. Raises `InputError`, with
    `name` in it, where another process holds it, and `OSError` on a file system without locks."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"'{name}' is being written by another process. Wait for it, or name another.") from error


class RecordWriter:
    """Appends records to a file, a line each.

    With `resume` an existing file is read first: `done` holds the keys that are there, a last line that was cut off is
    removed (see `notes`). Without it, a file that holds something is refused. `sync` waits for the disk after each
    line, which survives a power cut, too.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = True, sync: bool = False) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.done: set[str] = set()
        self._sync = sync
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"can't write records to {self.path}: {error.strerror or error}.") from error
        try:
            hold(self._file, self.path)
            if os.fstat(self._file).st_size and not resume:
                raise InputError(f"{self.path} already holds records. Resume it, or name another file.")
            self._recover()
        except BaseException:
            self.close()
            raise

    def write(self, record: Record) -> None:
        """Append one record. When that fails, the file stays as it was."""
        line = (
            json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")) + "\n"
        )
        data = memoryview(line.encode("utf-8", "backslashreplace"))
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self._sync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise ReflectiveError(
                f"can't write to {self.path}: {error.strerror or error}. The {len(self.done)} records in it are whole."
            ) from error
        self.done.add(record.key)

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> None:
        """Learn what is done, and cut a last line that was not completed."""
        good = 0
        with open(self.path, "rb") as file:
            for line in file:
                good += len(line) if line.endswith(b"\n") else 0
        self.done = {record.key for record in read_records(self.path, self.notes)}
        if good < os.fstat(self._file).st_size:
            os.ftruncate(self._file, good)
