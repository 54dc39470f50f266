"""Examples as token ids on the disk: encoded once, ahead of training, on all cores, and mapped into memory.

A cache is named by everything it depends on (settings, seed, tokenizer, data files, the code of the tasks), so that
it is never stale. It is whole or not there. The number of workers changes nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import reflective.tasks
from reflective.errors import InputError
from reflective.files import disk_errors, whole_folder
from reflective.train.sft.config import DataConfig
from reflective.train.sft.models import load_tokenizer
from reflective.train.sft.samples import Encoder, Sample, file_samples, task_samples

FORMAT = 1
JOB_SAMPLES = 1000  # a worker's portion; part of what the data depend on

Part = Literal["train", "validation"]


@dataclass(frozen=True)
class TokenCache:
    """All examples in one array; `offsets[i]:offsets[i + 1]` is example i."""

    tokens: NDArray[Any]
    learn: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    family: NDArray[np.int16]  # index into `families`
    families: tuple[str, ...]
    left_out: int = 0  # examples that were too long
    digest: str = ""  # of all that they were made from

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @cached_property
    def learnt(self) -> NDArray[np.int64]:
        """Learnt tokens of each example; no example is empty."""
        return np.add.reduceat(self.learn, self.offsets[:-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class _Job:
    """A portion of one source: problems of a family, or lines of a file."""

    source: str
    tokenizer: str
    max_tokens: int
    part: Part
    count: int = 0  # 0: a file
    levels: tuple[int, ...] = ()
    seed: int = 0

    def samples(self) -> Iterable[Sample]:
        if self.count == 0:
            return file_samples(Path(self.source))
        return islice(task_samples(self.source, self.part, self.count, self.levels, self.seed), self.count)


@dataclass(frozen=True)
class _Portion:
    tokens: NDArray[Any]
    learn: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    families: list[str]
    left_out: int


def token_cache(config: DataConfig, tokenizer: Path, part: Part, note: Callable[[str], None]) -> TokenCache:
    """The cache of one part of the data, made if it is not there yet."""
    jobs = _jobs(config, tokenizer, part)
    if not jobs:
        raise InputError(f"there are no {part} examples: name families or files.")
    folder = Path(config.cache) / f"{part}-{_fingerprint(jobs, tokenizer)}"
    if not folder.exists():
        _make(folder, jobs, config.workers or os.cpu_count() or 1, note)
    return _load(folder)


def _jobs(config: DataConfig, tokenizer: Path, part: Part) -> list[_Job]:
    """Portions in a fixed order; in training each has its own seed, so that no portion waits for another."""
    total = config.examples if part == "train" else config.validation_examples
    files = config.files if part == "train" else config.validation_files
    common: dict[str, Any] = {"tokenizer": str(tokenizer), "max_tokens": config.max_tokens, "part": part}
    jobs: list[_Job] = []
    weights = sum(config.families.values())
    for family, weight in sorted(config.families.items()):
        count = round(total * weight / weights) if part == "train" else total // len(config.families)
        portion = JOB_SAMPLES if part == "train" else max(count, 1)  # validation problems are distinct within a portion
        for i, start in enumerate(range(0, count, portion)):
            size, seed = min(portion, count - start), config.seed * 1_000_003 + i
            jobs.append(_Job(family, count=size, levels=config.levels, seed=seed, **common))
    return jobs + [_Job(str(file), **common) for file in files]


def _fingerprint(jobs: list[_Job], tokenizer: Path) -> str:
    digest = hashlib.sha256(str(FORMAT).encode())
    for job in jobs:
        digest.update(json.dumps(asdict(job) | {"tokenizer": ""}, sort_keys=True).encode())
        if job.count == 0:
            digest.update(Path(job.source).read_bytes() if Path(job.source).is_file() else b"")
    tasks = Path(*reflective.tasks.__path__)
    code = [tasks / "base.py", *tasks.glob("families/*.py")] if any(job.count for job in jobs) else []
    for path in [*sorted(code), *sorted(tokenizer.glob("*token*.json")), *sorted(tokenizer.glob("*.jinja"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path, jobs: list[_Job], workers: int, note: Callable[[str], None]) -> None:
    portions: list[_Portion] = []
    with ExitStack() as stack:
        done: Iterator[_Portion]
        if min(workers, len(jobs)) == 1:
            done = map(_encode, jobs)
        else:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context))
            done = pool.map(_encode, jobs)
        for number, portion in enumerate(done, 1):
            portions.append(portion)
            if number % 20 == 0 or number == len(jobs):
                examples = sum(len(p.lengths) for p in portions)
                note(f"{folder.name}: {number} of {len(jobs)} portions, {examples:,} examples")
    if not any(len(portion.lengths) for portion in portions):
        raise InputError(f"no example is left: {sum(p.left_out for p in portions)} were longer than max_tokens.")
    _save(folder, portions)


def _encode(job: _Job) -> _Portion:
    encoder = _encoder(job.tokenizer)
    tokens: list[int] = []
    learn: list[bool] = []
    lengths: list[int] = []
    families: list[str] = []
    left_out = 0
    for sample in job.samples():
        example = encoder.encode(sample)
        if len(example.ids) > job.max_tokens:
            left_out += 1
            continue
        tokens += example.ids
        learn += example.learn
        lengths.append(len(example.ids))
        families.append(example.family)
    kind = np.uint16 if len(encoder.tokenizer) <= 2**16 else np.uint32
    return _Portion(np.array(tokens, kind), np.array(learn, bool), np.array(lengths, np.int32), families, left_out)


@lru_cache(maxsize=1)
def _encoder(folder: str) -> Encoder:
    return Encoder(load_tokenizer(folder))


def _save(folder: Path, portions: list[_Portion]) -> None:
    names = sorted({family for portion in portions for family in portion.families})
    number = {name: i for i, name in enumerate(names)}
    arrays = {
        "tokens": np.concatenate([p.tokens for p in portions]),
        "learn": np.concatenate([p.learn for p in portions]),
        "lengths": np.concatenate([p.lengths for p in portions]),
        "family": np.array([number[family] for p in portions for family in p.families], np.int16),
    }
    index = {"format": FORMAT, "families": names, "left_out": sum(p.left_out for p in portions)}
    with disk_errors(folder), whole_folder(folder) as temporary:  # where two processes make it, the last one stays
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / "index.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


def _load(folder: Path) -> TokenCache:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))

    def array(name: str) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    return TokenCache(
        tokens=array("tokens"),
        learn=array("learn"),
        lengths=np.asarray(array("lengths")),
        family=np.asarray(array("family")),
        families=tuple(index["families"]),
        left_out=index["left_out"],
        digest=folder.name,
    )
