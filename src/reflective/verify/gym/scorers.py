"""The package reasoning_gym's own scorers, called inside a helper process (`reflective.verify.processes`) only.

The problem is drawn again from its family, seed and place, and its text compared with a hash, so that a scorer is given
nothing that comes from a file. What a scorer raises over an answer means that it can't read it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import lru_cache
from typing import Any

ITEMS = 512  # that a helper remembers; some take a second to draw


class AnotherProblem(ValueError):
    """The package draws another problem than the one that was answered."""


def digest_of(question: str) -> str:
    """A hash over a question as the package writes it."""
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@lru_cache(maxsize=32)
def dataset(name: str, seed: int) -> Any:
    """The family in the package's default difficulty."""
    return importlib.import_module("reasoning_gym.factory").create_dataset(name, seed=seed)


@lru_cache(maxsize=ITEMS)
def _item(item: str) -> tuple[Any, dict[str, Any]]:
    name, seed, index = json.loads(item)
    family = dataset(str(name), int(seed))
    return family, family[int(index)]


def draw(item: str, digest: str) -> None:
    """Draw the problem, which may take longer than an answer may. Raises where it is another one than it was."""
    _, entry = _item(item)
    if digest_of(entry["question"]) != digest:
        raise AnotherProblem("the installed reasoning_gym draws another problem from this seed")


def score(item: str, answer: str) -> tuple[str, str]:
    """(kind, reason) of a verdict; an answer over which the scorer raises is in another form."""
    family, entry = _item(item)
    try:
        found = float(family.score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception:
        return "wrong", "not in the form that was asked for"
    return ("right", "full score") if found == 1.0 else ("wrong", f"score {found:.3g}")
