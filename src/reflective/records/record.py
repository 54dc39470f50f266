"""A record: one problem, what was sampled for it, what was chosen, and the verdicts.

What is stored of a step is its logit (its score is σ of it), so that every aggregation can be computed later. Unknown
keys of a record's JSON are left out: a reader of version 1 reads every file of version 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast, get_args

from reflective.confidence import confidence_of, self_certainty_of
from reflective.errors import InputError
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
    """What is kept of a trajectory. `tokens` counts the sampled ones; texts and `token_ids` are empty where they were
    left out.

    `step_logits` are empty where no head scored the steps. `step_ends` are the places in `thinking` behind each step.
    `group` is the number of its answer among the problem's distinct answers (`reflective.selection`), where they have
    been compared. `self_certainty` and `confidence_…` are those of `reflective.confidence`. A fork begins with the
    first `at` tokens of trajectory `parent`.
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
    token_ids: tuple[int, ...] = ()
    parent: int | None = None
    at: int = 0
    let_go: str = ""

    @property
    def step_scores(self) -> tuple[float, ...]:
        """σ of each logit."""
        return tuple(Step(0, logit).score for logit in self.step_logits)

    @property
    def closed(self) -> bool:
        """Whether the reasoning was closed, so that the trajectory may be selected."""
        return is_closed(self.finish_reason, self.answer_text, self.answer)

    @classmethod
    def of(
        cls, trajectory: Trajectory, verdict: Verdict | None = None, *, texts: bool = True, ids: bool = False
    ) -> TrajectoryRecord:
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
            token_ids=trajectory.token_ids if ids else (),
            parent=trajectory.parent,
            at=trajectory.at,
            let_go=trajectory.let_go,
        )


def _step_ends(trajectory: Trajectory) -> tuple[int, ...]:
    """Where the steps' texts end in the reasoning; nothing where one of them is not found."""
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

    `verdict` is that of the chosen answer; `grader` names the version of the graders that gave all verdicts, "" where
    that is unknown. `prompt_ids` are empty where token ids were left out. `extra` holds what a run wants to remember of
    the problem.
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
    grader: str = ""
    prompt_ids: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What names the problem in a file."""
        return key_of(self.problem)

    @classmethod
    def of(
        cls,
        solution: Solution,
        verdict: Verdict | None = None,
        verdicts: Sequence[Verdict | None] = (),
        *,
        texts: bool = True,
        extra: Mapping[str, Any] | None = None,
        grader: str = "",
        prompt_ids: Sequence[int] = (),
    ) -> Record:
        """The record of a solution; `verdicts` are those of its trajectories, in their order.

        Where the prompt's token ids are given, those of the trajectories are kept, too.
        """
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
                TrajectoryRecord.of(t, v, texts=texts, ids=bool(prompt_ids))
                for t, v in zip(solution.trajectories, graded, strict=True)
            ),
            usage=solution.usage,
            timing=solution.timing,
            verdict=verdict,
            notes=solution.notes,
            extra=dict(extra or {}),
            grader=grader,
            prompt_ids=tuple(prompt_ids),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; infinite logits are written as strings, since JSON has no infinity."""
        data = asdict(replace(self, problem=replace(self.problem, metadata=dict(self.problem.metadata))))
        if not self.problem.messages:
            del data["problem"]["messages"]
        for t in data["trajectories"]:
            t["step_logits"] = [s if math.isfinite(s) else str(s) for s in t["step_logits"]]
            if t["mean_logprob"] is not None and not math.isfinite(t["mean_logprob"]):
                t["mean_logprob"] = None
            if t["parent"] is None:
                del t["parent"], t["at"]
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
            problem = _known(Problem, data["problem"])
            known["problem"] = Problem(**{**problem, "messages": tuple(problem.get("messages", ()))})
            known["usage"] = Usage(**_known(Usage, data["usage"]))
            known["timing"] = Timing(**_known(Timing, data["timing"]))
            known["verdict"] = _verdict(data.get("verdict"))
            known["notes"] = tuple(data.get("notes", ()))
            known["trajectories"] = tuple(_trajectory(t) for t in data["trajectories"])
            known["prompt_ids"] = tuple(data.get("prompt_ids", ()))
            known["grader"] = str(data.get("grader") or "")
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a record of version {RECORD_VERSION}: {type(error).__name__} {error}.") from error


def key_of(problem: Problem) -> str:
    """What names a problem in a file: its id, or its text where it has none."""
    return problem.id or problem.text


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
    known["token_ids"] = tuple(data.get("token_ids", ()))
    known["verdict"] = _verdict(data.get("verdict"))
    return TrajectoryRecord(**known)


def finite(value: Any) -> Any:
    """A JSON value with null in place of NaN and infinities, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
