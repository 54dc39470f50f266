"""Trajectories sampled from a model, graded, with the features of their steps: what a head learns from.

The features are caught in the pass that samples, so nothing is read twice. Results are kept in shards that are whole
or not there: a run that is stopped goes on behind its last shard. A trajectory is a function of the model, the problem
and its seed, so an interrupted and an uninterrupted run hold the same; what belongs to other weights, another layer or
other problems is refused.

Letters: N steps of all trajectories, n steps of one, H hidden size.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from reflective.engines.base import Finished, Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import ContextError
from reflective.files import disk_errors, whole_file
from reflective.judge.logprobs import step_logprobs
from reflective.judge.loss import OUTCOMES, RIGHT, UNGRADABLE
from reflective.train.progress import Note, Stop, clock
from reflective.train.rollout_settings import check_settings
from reflective.types import Problem, Trajectory
from reflective.verify import extract_answer, grade

SHARD_PROBLEMS = 32


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
    tokens: list[int]
    mean_logprobs: list[float]
    answers: list[str | None]
    closed: list[bool]  # the thinking was closed by the model
    families: list[str]

    def __len__(self) -> int:
        return len(self.problems)

    def groups(self) -> list[list[int]]:
        """Trajectory numbers by problem."""
        found: dict[int, list[int]] = {}
        for i, problem in enumerate(self.problems):
            found.setdefault(problem, []).append(i)
        return list(found.values())


@dataclass(frozen=True, slots=True)
class _Graded:
    trajectory: Trajectory
    positions: Sequence[int]  # of the n step tokens
    features: Tensor  # (n, H)
    outcome: int
    answer: str | None


def sample_rollouts(
    engine: TorchEngine,
    problems: Sequence[Problem],
    k: int,
    folder: Path,
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    note: Note,
    stop: Stop | None = None,
    source: str = "",
) -> bool:
    """Sample k trajectories of each problem into shards in `folder`; True when all are there.

    Where `folder` holds shards of the same settings, only the missing problems are sampled. `stop.requested` ends it
    early with what is complete. Problems that do not fit the context are left out and told. `source` is that of
    `check_settings`.
    """
    options: dict[str, Any] = {"sampling": sampling, "max_tokens": max_tokens, "seed": seed, "source": source}
    check_settings(folder, engine, problems, k, **options)
    done = _done(folder)
    waiting = iter([number for number in range(len(problems)) if number not in done])
    if len(done) < len(problems) and done:
        note(f"{len(done):,} of {len(problems):,} problems were sampled before; going on")
    flying: dict[int, tuple[int, int]] = {}  # engine id -> problem number, trajectories of it that are still missing
    missing: dict[int, int] = {}
    graded: dict[int, list[_Graded]] = {}
    complete: list[int] = []
    began, told, count, right, known = time.monotonic(), time.monotonic(), 0, 0, 0
    more, number = True, 0
    while more or flying:
        while more and len(flying) < 2 * engine.max_rows:
            number = next(waiting, -1)
            if number < 0:
                more = False
                break
            ids = _submit(engine, problems[number], number, k, sampling, max_tokens, seed, note)
            flying.update({id: (number, index) for index, id in enumerate(ids)})
            missing[number] = len(ids)
            if not ids:
                complete.append(number)
        for event in engine.step():
            if isinstance(event, Finished):
                number, _ = flying.pop(event.id)
                item = _grade(problems[number], event.trajectory, *engine.take_features(event.id))
                engine.cancel(event.id)
                graded.setdefault(number, []).append(item)
                missing[number] -= 1
                count, right, known = count + 1, right + (item.outcome == RIGHT), known + (item.outcome != UNGRADABLE)
                if missing[number] == 0:
                    complete.append(number)
        stopping = stop is not None and stop.requested
        if len(complete) >= SHARD_PROBLEMS or (complete and (stopping or not (more or flying))):
            _save_shard(folder, complete, graded, problems)
            done.update(complete)
            complete = []
        if time.monotonic() - told > 10 or not (more or flying):
            told = time.monotonic()
            spent, share = told - began, (len(done) + len(complete)) / max(len(problems), 1)
            note(
                f"sampled {count:,} trajectories, {right / max(known, 1):.3f} right, {count / max(spent, 1e-9):.1f}/s, "
                f"{clock(spent * (1 - share) / max(share, 1e-9))} left"
            )
        if stopping:
            for id in list(flying):
                engine.cancel(id)
            engine.step()
            break
    return len(done) == len(problems)


def _submit(
    engine: TorchEngine,
    problem: Problem,
    number: int,
    k: int,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    note: Note,
) -> list[int]:
    prompt = engine.encode_prompt(problem.text)
    ids: list[int] = []
    try:
        for index in range(k):
            request = Request(prompt, sampling, _seed(seed, number, index), max_tokens, until="eos", index=index)
            ids.append(engine.submit(request))
    except ContextError as error:
        note(f"problem {problem.id or number} is left out: {error}")
    return ids


def _seed(seed: int, problem: int, index: int) -> int:
    """A seed for each trajectory of each problem, 63 bits."""
    digest = hashlib.blake2b(f"rollout/{seed}/{problem}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _grade(problem: Problem, trajectory: Trajectory, positions: Sequence[int], features: Tensor) -> _Graded:
    """Right, wrong, or ungradable; a trajectory that ran out of tokens has no answer and is wrong."""
    answer = extract_answer(trajectory.answer_text, problem.kind) if trajectory.finish_reason == "eos" else None
    outcome = OUTCOMES[grade(problem, answer).right]
    return _Graded(trajectory, positions, features, outcome, answer)


def _logprob_rows(item: _Graded) -> list[tuple[float, float]]:
    return step_logprobs(item.trajectory.token_logprobs or (), item.positions)


# ---- shards


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def _done(folder: Path) -> set[int]:
    """Problem numbers that are in whole shards."""
    done: set[int] = set()
    for path in _shards(folder):
        with safe_open(str(path), "pt") as file:
            done.update(json.loads(file.metadata()["done"]))
    return done


def _save_shard(
    folder: Path, numbers: Sequence[int], graded: dict[int, list[_Graded]], problems: Sequence[Problem]
) -> None:
    items = [
        (number, item)
        for number in numbers
        for item in sorted(graded.pop(number, []), key=lambda g: g.trajectory.index)
    ]
    features = [item.features.bfloat16() for _, item in items]
    info: dict[str, list[Any]] = {
        "steps": [len(item.features) for _, item in items],
        "problems": [number for number, _ in items],
        "outcomes": [item.outcome for _, item in items],
        "tokens": [item.trajectory.tokens for _, item in items],
        "mean_logprobs": [item.trajectory.mean_logprob or 0.0 for _, item in items],
        "answers": [item.answer for _, item in items],
        "closed": [item.trajectory.finish_reason == "eos" for _, item in items],
        "families": [problems[number].family for number, _ in items],
    }
    logprobs = [row for _, item in items for row in _logprob_rows(item)]
    tensors = {
        "features": torch.cat(features) if features else torch.empty(0),
        "logprob_features": torch.tensor(logprobs, dtype=torch.float32).view(-1, 2),
    }
    name = f"shard-{hashlib.sha256(repr(sorted(numbers)).encode()).hexdigest()[:12]}.safetensors"
    metadata = {"info": json.dumps(info, ensure_ascii=False), "done": json.dumps(list(numbers))}
    with disk_errors(folder / name), whole_file(folder / name) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def load_rollouts(folder: Path) -> Rollouts:
    """All shards of a folder, in the order of the problems' numbers."""
    parts: list[tuple[int, dict[str, Any], Tensor, Tensor]] = []
    for path in _shards(folder):
        with safe_open(str(path), "pt") as file:
            info = json.loads(file.metadata()["info"])
            features, logprobs = file.get_tensor("features"), file.get_tensor("logprob_features")
        parts += _split(info, features, logprobs)
    parts.sort(key=lambda part: part[0])
    starts = [0]
    for _, _, features, _ in parts:
        starts.append(starts[-1] + len(features))

    def column(name: str) -> list[Any]:
        return [row[name] for _, row, _, _ in parts]

    return Rollouts(
        features=torch.cat([part[2] for part in parts]) if parts else torch.empty(0, 0),
        logprob_features=torch.cat([part[3] for part in parts]) if parts else torch.empty(0, 2),
        starts=starts,
        problems=column("problems"),
        outcomes=column("outcomes"),
        tokens=column("tokens"),
        mean_logprobs=column("mean_logprobs"),
        answers=column("answers"),
        closed=column("closed"),
        families=column("families"),
    )


def _split(
    info: dict[str, list[Any]], features: Tensor, logprobs: Tensor
) -> Iterator[tuple[int, dict[str, Any], Tensor, Tensor]]:
    start = 0
    for i, steps in enumerate(info["steps"]):
        row = {name: values[i] for name, values in info.items()}
        yield row["problems"], row, features[start : start + steps], logprobs[start : start + steps]
        start += steps
