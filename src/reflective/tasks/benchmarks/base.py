"""A benchmark: where its rows come from, how a row becomes a question with a gold answer, and how it is asked.

A benchmark's file holds one reader, `Row -> Question`, which knows the field names that exist in the wild. Everything
else is here: the prompt, the ids, the selection. Ids are `name/split/index` with the row's index in its file, so that
a problem keeps its id whatever is left out around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from reflective.errors import InputError
from reflective.settings import check_names
from reflective.tasks.files import problems_of
from reflective.tasks.files.gold import gold_answer, question_text
from reflective.tasks.files.hub import HubSource, fetch
from reflective.tasks.files.rows import Row, read_entries
from reflective.tasks.prompts import BOXED, ask, check_prompt
from reflective.types import Problem


@dataclass(frozen=True, slots=True)
class Question:
    """What a row says, before the prompt is put around it. `answer` None: graded by `metadata` alone."""

    text: str
    answer: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """What a reader may depend on: the seed of shuffled options, a window of days (both ends included), subjects.

    `levels` keeps problems whose metadata have one of these (None: all).
    """

    seed: int = 0
    since: date | None = None
    until: date | None = None
    subjects: tuple[str, ...] = ()
    levels: tuple[int, ...] | None = None

    def in_window(self, day: date) -> bool:
        """Whether a day lies in the window."""
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


Reader = Callable[[Row, int, Options], Question | None]  # None: the row is not among those that are asked for


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems from elsewhere. `size` is the number of its problems, None where it depends on the options.

    `options` names what the reader takes heed of: seed, since, until, subjects, levels. `training` is where further
    problems of the same kind lie that models are trained on.
    """

    name: str
    description: str
    kind: str
    split: str
    source: HubSource
    read: Reader
    prompt: str = BOXED
    prompt_source: str = "DeepSeek-R1 and Qwen model cards, and the paper's own test files"
    size: int | None = None
    folder_field: str = ""  # under this name the reader finds the name of the file's folder
    options: tuple[str, ...] = ()
    training: HubSource | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The benchmark's own split, and "train" where there are problems to train on."""
        return (self.split, "train") if self.training else (self.split,)

    def problems(
        self,
        file: Path | None = None,
        *,
        split: str | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        options: Options | None = None,
        skipped: list[str] | None = None,
    ) -> list[Problem]:
        """All problems, from `file` or from the hub.

        Raises `InputError` where a row is not as it should be (with a list `skipped` such rows are left out and told
        there), `ReflectiveError` where the hub can't be reached.
        """
        split = split or self.split
        check_names([split], self.splits, f"split of {self.name}:")
        source = self.training if self.training and split == "train" else self.source
        source = source if revision is None else replace(source, revision=revision)
        options, prompt = options or Options(), check_prompt(prompt or self.prompt)
        entries = [
            replace(entry, row={**entry.row, self.folder_field: path.parent.name})
            if self.folder_field and entry.row is not None
            else entry
            for path in ([file] if file is not None else fetch(source))
            for entry in read_entries(path)
        ]

        def read(row: Row, index: int) -> Problem | None:
            question = self.read(row, index, options)
            if question is None:
                return None
            if options.levels is not None and question.metadata.get("level") not in options.levels:
                return None
            text, place = ask(question.text, prompt), f"{self.name}/{split}/{index}"
            return Problem(text, question.answer, place, self.name, self.kind, question.metadata)

        found = problems_of(entries, read, skipped, f" is no row of {self.name}")
        if not found:
            raise InputError(f"no problem of {self.name} is in the selection. Widen the dates, subjects or levels.")
        return found


def plain_reader(*answers: str) -> Reader:
    """Of rows that hold a `question` (or `problem`) and a gold answer in the first of these fields."""

    def read(row: Row, index: int, options: Options) -> Question:
        return Question(question_text(first(row, "question", "problem")), gold_answer(first(row, *answers)))

    return read


def first(row: Row, *names: str) -> Any:
    """The first of these fields that the row has and that is not empty. Raises `KeyError` naming them all."""
    for name in names:
        if row.get(name) not in (None, "", []):
            return row[name]
    raise KeyError(f"none of the fields {', '.join(names)} (it has {', '.join(map(str, row))})")
