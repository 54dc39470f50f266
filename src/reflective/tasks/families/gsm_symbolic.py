"""School word problems, from the templates of GSM-Symbolic.

The trace follows the package's own worked solution:

    6 * 32 = 192 eggs, 192 / 6 = 32, right
    8 * 45 = 360 eggs, 360 / 8 = 45, right
    192 + 360 = 552 eggs, 552 - 360 = 192, right
    552 / 12 = 46, 46 * 12 = 552, right
    So 46, checked

Only items whose solution can be read are kept (see `equations`): 76 of the 85 templates, and of those 97 in 100
items. The others compute with unknowns or with cents, or round.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_module
from reflective.tasks.families.equations import Equation, equations, question_numbers
from reflective.tasks.families.scribe import Operation, Scribe, checked_trace, write_product
from reflective.types import Problem

SUFFIX = " Give the result as your final answer. Do not include units."  # reasoning_gym, GSMSymbolicDataset
PROBES = 20  # items drawn of each template to see whether its solutions can be read
LEAST_READABLE = 0.35  # share below which a template is left out: what is read there is read by luck
CONSTANTS = {2, 7, 10, 12, 24, 30, 60, 100}  # may stand in a solution without being a result or in the question


class GSMSymbolic(Task):
    name = "gsm_symbolic"
    description = "solve a school word problem"
    levels: ClassVar = {1: "solutions of 1 to 2 equations", 2: "of 3 equations", 3: "of 4 equations or more"}

    def draw(self, rng: random.Random, level: int) -> Problem:
        while True:
            item = _item(rng.choice(_templates()[level]), rng)
            if item is not None and _level(item[1]) == level:
                question, solution = item
                rows = [[[o.left, o.sign, o.right, o.value] for o in e.operations] for e in solution]
                return Problem(
                    text=question,
                    answer=str(solution[-1].value),
                    family=self.name,
                    metadata={"equations": rows, "nouns": [equation.noun for equation in solution]},
                )

    def key(self, problem: Problem) -> str:
        return problem.text

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        rows, nouns = problem.metadata["equations"], problem.metadata["nouns"]
        solution = [
            Equation(tuple(Operation(*row) for row in rows_of_one), noun)
            for rows_of_one, noun in zip(rows, nouns, strict=True)
        ]
        given = question_numbers(problem.text)
        return checked_trace(lambda scribe: _attempt(scribe, solution, given), rng)


def _attempt(scribe: Scribe, solution: list[Equation], given: set[int]) -> str | None:
    written: dict[int, int] = {}  # the right value of a result -> the written one, where a slip has changed it
    planned = [operation for equation in solution for operation in equation.operations]
    results = [operation.value for operation in planned]
    value = 0
    for equation in solution:
        for operation in equation.operations:
            last = operation is equation.operations[-1]
            left, right = written.get(operation.left, operation.left), written.get(operation.right, operation.right)
            if operation.sign == "/" and not right:
                return None
            noun = f" {equation.noun}" if last and equation.noun else ""
            value = _write_operation(scribe, left, operation.sign, right, noun)
            planned.pop(0)
            if value != operation.value:
                if value < 0 or not _means_one_thing(operation.value, planned, results, given):
                    return None
                written[operation.value] = value
    return str(value)


def _write_operation(scribe: Scribe, left: int, sign: str, right: int, noun: str) -> int:
    """Writes one operation; a product may take several."""
    if sign == "*":
        return write_product(scribe, left, right, noun)
    return scribe.operation(left, sign, right, after=noun)


def _means_one_thing(value: int, later: list[Operation], results: list[int], given: set[int]) -> bool:
    """Whether the later operations that use the value can only mean this result, not another number like it."""
    if not any(value in (operation.left, operation.right) for operation in later):
        return True
    return value not in given | CONSTANTS and results.count(value) == 1


def _level(solution: tuple[Equation, ...]) -> int:
    return 1 if len(solution) <= 2 else 2 if len(solution) == 3 else 3


def _item(template: int, rng: random.Random) -> tuple[str, tuple[Equation, ...]] | None:
    """An item of a template with its solution, if that can be read and leads to the package's answer."""
    item = _generators()[template](random.Random(rng.getrandbits(48)), 1.0)
    solution = equations(item["metadata"]["answer_cot"], item["question"])
    if solution is None or float(item["answer"]) != solution[-1].value:
        return None
    return str(item["question"] + SUFFIX).strip(), solution


@cache
def _templates() -> Mapping[int, tuple[int, ...]]:
    """The readable templates of each level (a template whose solutions vary in length belongs to several)."""
    levels: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for template in gym_module("arithmetic.gsm_symbolic.gsm_symbolic").tasks_ok:
        items = [_item(template, random.Random(probe)) for probe in range(PROBES)]
        read = [_level(item[1]) for item in items if item is not None]
        if len(read) >= LEAST_READABLE * PROBES:
            for level in sorted(set(read)):
                levels[level].append(template)
    return {level: tuple(templates) for level, templates in levels.items()}


@cache
def _generators() -> Mapping[int, Any]:
    module = gym_module("arithmetic.gsm_symbolic.gsm_symbolic")
    dataset = module.GSMSymbolicDataset(module.GSMSymbolicDatasetConfig(seed=0, size=1))
    generators: Mapping[int, Any] = dataset.generators
    return generators
