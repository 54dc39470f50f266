"""Reads the arithmetic out of a worked solution in plain English.

`equations` finds every `expression = number` in a text, drops units, currencies and words, and keeps the longest
expression before the sign that is true. Each becomes a row of operations with whole results (percentages and fractions
turn into a multiplication and a division). If any part can't be read this way, the whole text counts as unreadable:
None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from reflective.tasks.families.scribe import Operation

COMMON = {*range(1, 13), 24, 30, 60, 100}  # numbers that a solution may bring in by itself
NO_NOUNS = {"", "for", "in", "left", "more", "of", "per", "so", "to"}  # these don't say what a number counts

_NUMBER = r"\d+(?:\.\d+)?%?"
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/()]|[,;:.?!]")


@dataclass(frozen=True, slots=True)
class Equation:
    """A row of operations, the last of which gives the value, and what was counted (may be empty)."""

    operations: tuple[Operation, ...]
    noun: str = ""

    @property
    def value(self) -> int:
        return self.operations[-1].value


def equations(solution: str, question: str) -> tuple[Equation, ...] | None:
    """The solution as equations, or None where one can't be read or uses a number of unknown origin."""
    found: list[Equation] = []
    known = COMMON | question_numbers(question)
    for line in solution.split("\n"):
        if line.startswith("####"):
            continue
        for left, right, noun in _sides(line):
            operations = _operations(left, right, question)
            if operations is None:
                return None
            if not operations:
                continue
            inner: set[int] = set()
            for operation in operations:
                if not {operation.left, operation.right} <= known | inner:
                    return None
                inner.add(operation.value)
            known.add(operations[-1].value)
            if not found or found[-1].operations != operations:
                named = noun not in NO_NOUNS and re.search(rf"\b{noun}\b", question)
                found.append(Equation(operations, noun if named else ""))
    return tuple(found) or None


def question_numbers(question: str) -> set[int]:
    """The whole numbers of a question; of a fraction or a decimal, the numerator and denominator."""
    numbers: set[int] = set()
    for text in re.findall(r"\d+(?:\.\d+)?", _plain(question)):
        value = Fraction(text)
        numbers |= {value.numerator, value.denominator}
    return numbers


def _plain(text: str) -> str:
    """Without currencies and thousands separators, and with one sign for each operation."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"[$£€]", "", text).replace("×", "*").replace("÷", "/")
    text = re.sub(r"(?<=[\s\d])x(?=\s*[\d(])", "*", text)
    return re.sub(r"\bhalf \*", "1/2 *", text)


def _sides(line: str) -> Iterator[tuple[list[str], str, str]]:
    """Every `... = number noun` of a line: the tokens on the left, the number, the noun."""
    parts = _plain(line).split("=")
    for left, right in pairwise(parts):
        number = re.match(rf"\s*(-?{_NUMBER})(?:\s+([a-z]+)\b)?", right)
        if number is None or re.match(r"\s*[-+*/]\s*[\d(]", right[number.end(1) :]):
            continue  # followed by an operation: the value comes after the next sign
        words_out = re.sub(r"/\s*[A-Za-z]+|[A-Za-z]+(?:['/-][A-Za-z]+)*", " ", left)
        words_out = re.sub(r"(\d)\s*\(", r"\1 * (", words_out)
        yield _TOKEN.findall(words_out), number[1], number[2] or ""


def _operations(tokens: Sequence[str], right: str, question: str) -> tuple[Operation, ...] | None:
    """The longest true expression at the end of the tokens, in operations; () where there is nothing to compute."""
    if not any(token[0].isdigit() for token in tokens):
        return ()
    tokens = ["100" if token == "100%" and right.endswith("%") else token for token in tokens]
    value = _number(right.rstrip("%"))
    for start in range(len(tokens)):
        tree = _Reader(tokens[start:]).tree()
        if tree is None:
            continue
        if isinstance(tree, Fraction):
            return () if tree == value or right.endswith("%") else None
        if _value(tree) != value:
            continue
        operations: list[Operation] = []
        last = _write(tree, operations, question)
        return None if last is None else tuple(operations)
    return None


def _number(text: str) -> Fraction:
    """A literal; thirds that were printed as decimals become thirds again."""
    value = Fraction(text.rstrip("%"))
    if value.denominator > 10_000:
        value = value.limit_denominator(100)
    return value / 100 if text.endswith("%") else value


@dataclass(frozen=True)
class _Node:
    sign: str
    left: _Tree
    right: _Tree


_Tree = _Node | Fraction


class _Reader:
    """A parser for sums, products and brackets."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def tree(self) -> _Tree | None:
        """The whole token list as one expression, or None."""
        try:
            tree = self._sum()
        except (ValueError, IndexError):
            return None
        return tree if self.place == len(self.tokens) else None

    def _sum(self) -> _Tree:
        tree = self._product()
        while self._next() in ("+", "-"):
            sign = self._take()
            tree = _Node(sign, tree, self._product())
        return tree

    def _product(self) -> _Tree:
        tree = self._atom()
        while self._next() in ("*", "/"):
            sign = self._take()
            tree = _Node(sign, tree, self._atom())
        return tree

    def _atom(self) -> _Tree:
        token = self._take()
        if token == "(":
            tree = self._sum()
            if self._take() != ")":
                raise ValueError("a bracket is not closed")
            return tree
        return _number(token)

    def _next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]


def _value(tree: _Tree) -> Fraction | None:
    if isinstance(tree, Fraction):
        return tree
    left, right = _value(tree.left), _value(tree.right)
    if left is None or right is None or (tree.sign == "/" and right == 0):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else left}[tree.sign]


def _write(tree: _Tree, operations: list[Operation], question: str) -> int | None:
    """Appends the operations of a tree and returns its value; None where a value on the way is not whole."""
    if isinstance(tree, Fraction):
        return tree.numerator if tree.denominator == 1 else None
    if tree.sign in "+-":
        left, right = _write(tree.left, operations, question), _write(tree.right, operations, question)
        if left is None or right is None:
            return None
        return _append(operations, left, tree.sign, right)
    above: list[int] = []
    below: list[int] = []
    if not _factors(tree, above, below, operations, question):
        return None
    return _write_product([factor for factor in above if factor != 1], below, operations)


def _factors(tree: _Tree, above: list[int], below: list[int], operations: list[Operation], question: str) -> bool:
    """Collects the factors above and below the line of a product of products."""
    if isinstance(tree, _Node) and tree.sign in "*/":
        other = (above, below) if tree.sign == "*" else (below, above)
        return _factors(tree.left, above, below, operations, question) and _factors(
            tree.right, *other, operations, question
        )
    if isinstance(tree, Fraction) and tree.denominator > 1:
        percent = tree * 100
        asked = percent.denominator == 1 and re.search(rf"\b{percent}%", question) is not None
        above.append(int(percent) if asked else tree.numerator)
        below.append(100 if asked else tree.denominator)
        return True
    value = _write(tree, operations, question)
    if value is None:
        return False
    above.append(value)
    return True


def _write_product(above: list[int], below: list[int], operations: list[Operation]) -> int | None:
    """Divides as soon as there is no remainder, multiplies otherwise."""
    below = [factor for factor in below if factor != 1]
    value, above = (above[0], above[1:]) if above else (1, [])
    while above or below:
        divisor = next((factor for factor in below if factor and value % factor == 0), None)
        if divisor is not None:
            below.remove(divisor)
            value = _append(operations, value, "/", divisor)
        elif above:
            value = _append(operations, value, "*", above.pop(0))
        else:
            return None
    return value


def _append(operations: list[Operation], left: int, sign: str, right: int) -> int:
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // (right or 1)}[sign]
    operations.append(Operation(left, sign, right, value))
    return value
