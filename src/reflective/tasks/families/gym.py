"""Every family of the package reasoning_gym as a problem set: `reasoning_gym:sudoku`, `reasoning_gym:gcd,lcm`, or
`reasoning_gym` for all of them in turn.

Problems are drawn in the package's own default difficulty; a problem is a function of the family, the split, the seed
and its index. They are graded as `reflective.verify.gym.families` says. Problems that come twice, and those whose right
answer is to say nothing, are passed over. The splits are other draws and nothing more: a family with few problems may
have the same one in two of them. The ten families of `reflective.tasks` keep theirs apart, and have levels and traces.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from decimal import Decimal
from typing import Any

from reflective.errors import InputError
from reflective.settings import did_you_mean
from reflective.tasks.base import gym_module, stable_hash
from reflective.tasks.prompts import SLOT, ask
from reflective.types import Problem
from reflective.verify.gym import extra_metadata, installed_version
from reflective.verify.gym.families import FAMILIES, REVIEWED_VERSIONS, UNREVIEWED
from reflective.verify.gym.scorers import digest_of

PREFIX = "reasoning_gym"
PROMPT = f"{SLOT}\n\nGive your final answer, in the form that is asked for and nothing else, as <answer>...</answer>."
KINDS = frozenset({"math", "exact", "list", "expression", "factors"})  # that grade by the gold answer or the metadata
SEEDS = 2**31  # some families want a seed below 2**32, and add the index to it
MAX_REPEATS = 200  # fruitless draws after which a family counts as exhausted

_SCIENTIFIC = re.compile(r"[-+]?\d+(?:\.\d+)?[eE][-+]?\d+")


def gym_families(source: str) -> list[str] | None:
    """The families that a name stands for; None where it is no name of this kind.

    Raises `InputError` for an unknown family, one that is refused, and a version of the package that is not known.
    """
    prefix, _, names = source.partition(":")
    if prefix != PREFIX:
        return None
    if not names:
        return [name for name, family in FAMILIES.items() if not family.refused]
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        _check(name)
    return asked


def gym_problems(
    families: list[str], count: int, *, split: str = "test", seed: int = 0, prompt: str | None = None
) -> Iterator[Problem]:
    """`count` problems, the families in turn."""
    streams = [_stream(name, split, seed, prompt or PROMPT) for name in families]
    for i in range(count):
        yield next(streams[i % len(streams)])


def _stream(name: str, split: str, seed: int, prompt: str) -> Iterator[Problem]:
    """An endless stream of distinct problems of one family."""
    base = stable_hash(f"{PREFIX}/{name}/{split}/{seed}") % SEEDS
    family = gym_module("factory").create_dataset(name, seed=base)
    seen: set[str] = set()
    last_new = index = -1
    while True:
        index += 1
        with redirect_stdout(io.StringIO()):  # some families print while they draw
            item = family[index]
        if index - last_new > MAX_REPEATS:
            raise InputError(
                f"{PREFIX}:{name} has no more than {len(seen)} distinct problems in its default difficulty. "
                "Ask for fewer, or name more families."
            )
        question = str(item["question"])
        if question in seen or item["answer"] == "":
            continue
        seen.add(question)
        last_new = index
        yield _problem(name, item, f"{PREFIX}/{name}/{split}/{index:06d}", {"seed": base, "index": index}, prompt)


def _problem(name: str, item: Mapping[str, Any], id: str, place: Mapping[str, int], prompt: str) -> Problem:
    """The package's item as a problem: of one of our kinds, or of kind "gym" with what its grader needs."""
    family, question = FAMILIES[name], str(item["question"])
    kind = family.grader if family.grader in KINDS else "gym"
    drawn = {"gym": name, **place, "digest": digest_of(question)} if kind == "gym" else {}
    gold = None if item["answer"] is None else str(item["answer"])
    if gold is not None and _SCIENTIFIC.fullmatch(gold) and family.grader in ("math", "probability"):
        gold = f"{Decimal(gold):f}"  # a formula would take 3e-05 for three times e, less 5
    return Problem(
        text=ask(question.strip(), prompt),
        answer=gold,
        id=id,
        family=f"{PREFIX}:{name}",
        kind=kind,
        metadata={**extra_metadata(name, item), **drawn},
    )


def _check(name: str) -> None:
    family = FAMILIES.get(name)
    if family is None:
        hint = did_you_mean(name, FAMILIES)
        raise InputError(f"{PREFIX} has no family {name!r} that is known here.{hint} See: reflective tasks list.")
    if family.refused:
        raise InputError(f"{PREFIX}:{name} can't be graded: {family.refused}.")
    version = installed_version()
    if family.grader == "package" and version and version not in REVIEWED_VERSIONS:
        raise InputError(
            f"{PREFIX}:{name}: {UNREVIEWED.format(version=version, known=', '.join(sorted(REVIEWED_VERSIONS)))}."
        )


__all__ = ["PREFIX", "gym_families", "gym_problems"]
