"""Finding an expression for a target: chains of operations, and traces that search among them.

A chain takes two of the numbers, then joins one more at a time, with positive whole values all the way. A trace tries
chains, one a step, and compares what comes out with the target. The chain that hits is gone through again, an operation
a step with its check, as in every other trace (see `scribe`), and the numbers it uses are compared with those given:

    8 + 5 = 13, 13 * 10 = 130, 130 - 6 = 124 for 24, no
    8 - 5 = 3, 3 * 10 = 30, 30 - 6 = 24 for 24, yes
    8 - 5 = 3, 3 + 5 = 8, right
    3 * 10 = 30, 30 / 10 = 3, right
    30 - 6 = 24, 24 + 6 = 30, right
    uses 5 6 8 10 for 5 6 8 10, right
    So (8 - 5) * 10 - 6, checked

Which numbers and signs a failed try takes is not learned, only what comes of them: so every try of the model is its
best guess at a solution. Slips are wishful, so that a chain seems to hit: its first or its last result is bent, or it
takes a number that is not there. The first step that finds this out ends the check. Some traces give up after several
tries, and say so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from reflective.tasks.base import Segment, Trace
from reflective.tasks.families.scribe import REPAIR_SHARE, SLIP_SHARE, compute, outcome, slip, verdict

FAILED_TRIES = (0.30, 0.25, 0.20, 0.15, 0.10)  # shares of traces with 0, 1, ... failed tries before the hit
GIVE_UP_SHARE = 0.12
GIVE_UP_TRIES = (5, 6)
NEARNESS = 0.3  # a failed try is the likelier, the nearer it comes; in units of the target
MAX_VALUE = 300  # no value of a chain is larger: nobody looks there for a target below 100
SLIP_KINDS = {"last": 0.4, "first": 0.3, "number": 0.3}  # what is wrong, if it can be: else the last value


class Move(NamedTuple):
    """One operation of a chain: `left sign right = value`; the running value is `left` unless `running_right`."""

    left: int
    sign: str
    right: int
    value: int
    running_right: bool = False

    @property
    def true(self) -> bool:
        """Whether the value is what comes out."""
        return compute(self.left, self.sign, self.right) == (self.value, 0)

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.value}"


Chain = tuple[Move, ...]


def chains(numbers: Sequence[int]) -> tuple[Chain, ...]:
    """Every chain over all the numbers, each once (sums and products are written with the larger number first)."""
    return _chains(tuple(sorted(numbers)))


@lru_cache(maxsize=256)
def _chains(numbers: tuple[int, ...]) -> tuple[Chain, ...]:
    found: dict[Chain, None] = {}
    for i in range(len(numbers)):
        for j in range(i):
            rest = numbers[:j] + numbers[j + 1 : i] + numbers[i + 1 :]
            for move in _moves(numbers[i], numbers[j], first=True):
                _extend((move,), rest, found)
    return tuple(found)


def _extend(chain: Chain, rest: tuple[int, ...], found: dict[Chain, None]) -> None:
    if not rest:
        found[chain] = None
        return
    for i, number in enumerate(rest):
        if i and rest[i - 1] == number:
            continue
        for move in _moves(chain[-1].value, number):
            _extend((*chain, move), rest[:i] + rest[i + 1 :], found)


def _moves(running: int, number: int, first: bool = False) -> list[Move]:
    """The ways to join a number to the running value."""
    moves = [Move(running, "+", number, running + number)]
    if running * number <= MAX_VALUE:
        moves.append(Move(running, "*", number, running * number))
    if running > number:
        moves.append(Move(running, "-", number, running - number))
    elif number > running:
        moves.append(Move(number, "-", running, number - running, running_right=not first))
    if running % number == 0:
        moves.append(Move(running, "/", number, running // number))
    elif number % running == 0:
        moves.append(Move(number, "/", running, number // running, running_right=not first))
    return moves


def expression(chain: Chain) -> str:
    """The chain as one expression of the problem's numbers."""
    text, rank = f"{chain[0].left} {chain[0].sign} {chain[0].right}", _rank(chain[0].sign)
    for move in chain[1:]:
        if move.running_right:
            # as a right operand of - or /, a sum or a product of the same rank needs brackets too
            text = f"{move.left} {move.sign} {_bracket(text, rank <= _rank(move.sign))}"
        else:
            text = f"{_bracket(text, rank < _rank(move.sign))} {move.sign} {move.right}"
        rank = _rank(move.sign)
    return text


def _rank(sign: str) -> int:
    return 1 if sign in "+-" else 2


def _bracket(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def search_trace(numbers: Sequence[int], target: int, rng: random.Random) -> Trace:
    """A search among the chains: some tries that fail, then a hit or the end of patience."""
    hits = [chain for chain in chains(numbers) if chain[-1].value == target]
    misses = [chain for chain in chains(numbers) if chain[-1].value != target]
    if not hits:
        raise ValueError(f"no chain over {list(numbers)} comes to {target}")
    writer = _SearchWriter(tuple(sorted(numbers)), target)

    if rng.random() < GIVE_UP_SHARE and len(misses) >= GIVE_UP_TRIES[0]:
        tried = _near_misses(misses, target, rng.choice(GIVE_UP_TRIES), rng)
        for chain in tried:
            writer.miss(chain)
        writer.step("Give up")
        return writer.doubtful(expression(tried[-1]))

    failures = rng.choices(range(len(FAILED_TRIES)), FAILED_TRIES)[0]
    tried = _near_misses(misses, target, failures, rng)
    slip_at = rng.randrange(len(tried) + 1) if rng.random() < SLIP_SHARE else -1
    for i in range(len(tried) + 1):
        if i == slip_at:
            answer = writer.slip(misses, rng)
            if answer is not None and rng.random() >= REPAIR_SHARE:
                return writer.doubtful(answer)
        if i < len(tried):
            writer.miss(tried[i])
    return writer.hit(rng.choice(hits))


def _near_misses(misses: Sequence[Chain], target: int, count: int, rng: random.Random) -> list[Chain]:
    """Different failing chains, preferably ones that end near the target."""
    if not count:
        return []
    keyed = []
    for chain in misses:
        weight = math.exp(-abs(chain[-1].value - target) / (NEARNESS * target))
        # the largest of u^(1/w) are a weighted sample without replacement (Efraimidis and Spirakis 2006)
        keyed.append((math.log(rng.random()) / max(weight, 1e-9), chain))
    keyed.sort(key=lambda pair: -pair[0])
    return [chain for _, chain in keyed[:count]]


class _SearchWriter:
    """Writes the steps of one search."""

    def __init__(self, numbers: tuple[int, ...], target: int) -> None:
        self.numbers = numbers
        self.target = target
        self.steps: list[tuple[Segment, ...]] = []

    def step(self, text: str) -> None:
        self.steps.append((Segment(text),))

    def miss(self, chain: Chain) -> None:
        """A try that fails: what is tried is not learned, what comes out is."""
        self.steps.append((*_unchosen(chain), *compared(chain[-1].value, self.target)))

    def hit(self, chain: Chain) -> Trace:
        """The try that hits, its check and the end."""
        self.steps.append((Segment(", ".join(map(str, chain))), *compared(self.target, self.target)))
        self._check(chain)
        answer = expression(chain)
        self.step(f"So {answer}, checked")
        return Trace(tuple(self.steps), answer)

    def doubtful(self, answer: str) -> Trace:
        self.step(f"So {answer}, doubtful")
        return Trace(tuple(self.steps), answer, learn_answer=False)

    def slip(self, misses: Sequence[Chain], rng: random.Random) -> str | None:
        """A try that only seems to hit, with the check that says so; its expression, or None where none was found."""
        kind = rng.choices(list(SLIP_KINDS), list(SLIP_KINDS.values()))[0]
        chain = self._wrong_number(rng) if kind == "number" else self._bent_first(rng) if kind == "first" else None
        chain = chain or self._bent_last(misses, rng)
        if chain is None:
            return None
        self.steps.append((*_unchosen(chain), *compared(self.target, self.target)))
        self._check(chain)
        return expression(chain)

    def _bent_last(self, misses: Sequence[Chain], rng: random.Random) -> Chain | None:
        """A chain that comes near, its last value replaced by the target."""
        near = [chain for chain in misses if abs(chain[-1].value - self.target) <= max(3, self.target // 5)]
        if not near:
            return None
        chain = rng.choice(near)
        return (*chain[:-1], chain[-1]._replace(value=self.target))

    def _bent_first(self, rng: random.Random) -> Chain | None:
        """A chain that would hit if its first value were what it says."""
        for _ in range(8):
            first = rng.choice(chains(self.numbers))[0]
            rest = list(self.numbers)
            rest.remove(first.left)
            rest.remove(first.right)
            found: dict[Chain, None] = {}
            _extend((first._replace(value=slip(first.value, rng)),), tuple(rest), found)
            false_hits = [chain for chain in found if chain[-1].value == self.target]
            if false_hits:
                return rng.choice(false_hits)
        return None

    def _wrong_number(self, rng: random.Random) -> Chain | None:
        """A chain that hits because it takes a number twice and leaves another one out."""
        dropped, doubled = rng.sample(self.numbers, 2)
        if dropped == doubled:
            return None
        used = list(self.numbers)
        used[used.index(dropped)] = doubled
        false_hits = [chain for chain in chains(used) if chain[-1].value == self.target]
        return rng.choice(false_hits) if false_hits else None

    def _check(self, chain: Chain) -> None:
        """The chain's operations, each with its way back, and the numbers used; ends at the first that is wrong."""
        for move in chain:
            head = Segment(f"{move.left} {move.sign} {move.right}")
            result = (move.value, 0)
            self.steps.append((head, *outcome(move.left, move.sign, move.right, result, learn=move.true)))
            if not move.true:
                return
        self.steps.append(tuple(uses(numbers_used(chain), self.numbers)))


def numbers_used(chain: Chain) -> tuple[int, ...]:
    """The numbers that a chain joins, sorted."""
    joined = [move.left if move.running_right else move.right for move in chain]
    return tuple(sorted([chain[0].left, *joined]))


def compared(value: int, target: int, learn: bool = True) -> list[Segment]:
    """What stands behind a try's last value: ` for 24, yes`. `learn` is whether the target is learned."""
    return [Segment(" for "), Segment(str(target), learn), Segment(f", {'yes' if value == target else 'no'}")]


def uses(used: Sequence[int], given: Sequence[int], learn: bool = True) -> list[Segment]:
    """The last step of a check; both rows are sorted. `learn` is whether the numbers are learned."""
    rows = f"uses {' '.join(map(str, used))} for {' '.join(map(str, given))}"
    return [Segment(rows, learn), Segment(f", {verdict(list(used) == list(given))}")]


def _unchosen(chain: Chain) -> list[Segment]:
    """The moves of a chain: learned are the values, where they are true, and the running ones, which are copied."""
    pieces: list[Segment] = []
    for i, move in enumerate(chain):
        copied = 0 if i == 0 or move.running_right else len(str(move.left))
        head, choice = (", " if i else ""), f"{move.left} {move.sign} {move.right}"
        pieces += [Segment(head + choice[:copied]), Segment(choice[copied:], learn=False)]
        pieces += [Segment(" = "), Segment(str(move.value), learn=move.true)]
    return [piece for piece in pieces if piece.text]
