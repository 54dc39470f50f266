"""A benchmark: where its rows come from, how a row becomes a question with a gold answer, and how it is asked.

A benchmark's file holds one reader, `Row -> Question`, which knows the field names that exist in the wild. Everything
else is here: the prompt, the ids, the selection. Ids are `name/split/index` with the row's index in its file, so that
a problem keeps its id whatever is left out around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from reflective.errors import InputError
from reflective.tasks.benchmarks.gold import check_texts, gold_answer, question_text
from reflective.tasks.benchmarks.hub import HubSource, fetch
from reflective.tasks.benchmarks.rows import Row, read_rows
from reflective.types import Problem

SLOT = "{problem}"  # in a prompt: where the question goes
BOXED = f"{SLOT}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
_BOXED_ASKED = "\\boxed{}"  # a question that asks for a box already is not asked twice


@dataclass(frozen=True, slots=True)
class Question:
    """What a row says, before the prompt is put around it. `answer` None: graded by `metadata` alone."""

    text: str
    answer: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """What a reader may depend on: the seed of shuffled options, a window of days (both ends included), subjects."""

    seed: int = 0
    since: date | None = None
    until: date | None = None
    subjects: tuple[str, ...] = ()

    def in_window(self, day: date) -> bool:
        """Whether a day lies in the window."""
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


Reader = Callable[[Row, int, Options], Question | None]  # None: the row is not among those that are asked for


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems from elsewhere. `size` is the number of its problems, None where it depends on the options."""

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

    def problems(
        self,
        file: Path | None = None,
        *,
        revision: str | None = None,
        prompt: str | None = None,
        options: Options | None = None,
    ) -> list[Problem]:
        """All problems, from `file` or from the hub.

        Raises `InputError` where a row is not as it should be, `ReflectiveError` where the hub can't be reached.
        """
        source = self.source if revision is None else replace(self.source, revision=revision)
        files = [file] if file is not None else fetch(source)
        rows = [(path, number, row) for path in files for number, row in enumerate(read_rows(path), 1)]
        found = list(self._problems(rows, self.prompt if prompt is None else prompt, options or Options()))
        if not found:
            raise InputError(f"no problem of {self.name} is in the selection. Widen the dates or the subjects.")
        return found

    def _problems(self, rows: Sequence[tuple[Path, int, Row]], prompt: str, options: Options) -> Iterator[Problem]:
        for index, (path, number, row) in enumerate(rows):
            try:
                told = {**row, self.folder_field: path.parent.name} if self.folder_field else row
                question = self.read(told, index, options)
                if question is not None:
                    check_texts(question.text, question.answer, question.metadata)
            except (KeyError, ValueError, TypeError, RecursionError) as error:
                raise InputError(f"'{path}', row {number} is no row of {self.name}: {reason_of(error)}") from error
            if question is not None:
                yield Problem(
                    text=ask(question.text, prompt),
                    answer=question.answer,
                    id=f"{self.name}/{self.split}/{index}",
                    family=self.name,
                    kind=self.kind,
                    metadata=question.metadata,
                )


def plain_reader(*answers: str) -> Reader:
    """Of rows that hold a `question` (or `problem`) and a gold answer in the first of these fields."""

    def read(row: Row, index: int, options: Options) -> Question:
        return Question(question_text(first(row, "question", "problem")), gold_answer(first(row, *answers)))

    return read


def ask(question: str, prompt: str) -> str:
    """The question inside the prompt. Raises `InputError` where the prompt has no place for it."""
    if prompt.count(SLOT) != 1:
        raise InputError(f"a prompt needs {SLOT} exactly once, where the question goes; got {prompt!r}.")
    if prompt == BOXED and _BOXED_ASKED in question:
        return question
    return prompt.replace(SLOT, question)


def first(row: Row, *names: str) -> Any:
    """The first of these fields that the row has and that is not empty. Raises `KeyError` naming them all."""
    for name in names:
        if row.get(name) not in (None, "", []):
            return row[name]
    raise KeyError(f"none of the fields {', '.join(names)} (it has {', '.join(map(str, row))})")


def reason_of(error: Exception) -> str:
    """What is wrong with a row, from the exception that reading it raised."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
