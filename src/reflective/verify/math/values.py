"""Values of formulas, and whether two formulas are equal.

Rational arithmetic is exact. Everything else is computed with 50 digits (100 where cancellation leaves a doubt), so
that sqrt(2^100 + 1) is not 2^50. Formulas with variables are equal when they agree at several random points, which
for elementary functions is as good as a proof and, unlike symbolic simplification, has a bounded price.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from reflective.verify.math.formula import Call, Node, Number, Variable, variables

DIGITS = 50
POINTS = 4  # agreeing points that make two formulas equal
TRIES = 24
MAX_BITS = 20_000  # of an exact numerator or denominator
MAX_MAGNITUDE = 10**6  # of an exponent, and of an argument of a periodic function in multiples of its digits


class Undefined(ArithmeticError):
    """A division by zero, the logarithm of zero, 0^0."""


class TooLarge(ArithmeticError):
    """A value that is too expensive to compute, such as 10^10^10."""


@lru_cache(maxsize=4)
def _context(digits: int) -> Any:
    """A multi-precision context (mpmath's own is shared by all who use it)."""
    from mpmath import MPContext  # type: ignore[import-untyped]

    context = MPContext()
    context.dps = digits
    return context


def equal(gold: Node, answer: Node) -> bool:
    """Whether the two formulas have the same value (everywhere where both are real, if there are variables)."""
    names = sorted(variables(gold) | variables(answer))
    if not names:
        return _agree_at(gold, answer, {}, (constant(gold), constant(answer)))
    for number, (point, pair) in enumerate(_pairs(gold, answer, names), 1):
        if not _agree_at(gold, answer, point, pair):
            return False
        if number == POINTS:
            return True
    raise Undefined("no point at which both formulas have a real value")


def proportional(gold: tuple[Node, Node], answer: tuple[Node, Node], *, positive: bool) -> bool | None:
    """Whether gold's left - right is a constant multiple of answer's: the same equation, or (positive) inequality.

    None where both are zero wherever they have a value.
    """
    one, other = Call("sub", gold), Call("sub", answer)
    ratios: list[Any] = []
    for _, pair in _pairs(one, other, sorted(variables(one) | variables(other))):
        zeros = [value == 0 if isinstance(value, Fraction) else _size(value) < 1e-40 for value in pair]
        if all(zeros):
            continue
        if any(zeros):
            return False
        ratios.append(pair[0] * (1 / pair[1]))
        if not _close(ratios[0], ratios[-1]):
            return False
        if len(ratios) > POINTS:
            return not positive or bool(ratios[0].real > 0)
    return False if ratios else None


def shifted(node: Node, name: str) -> Node:
    """f(x + 1/97) of f(x)."""
    if isinstance(node, Call):
        return Call(node.name, tuple(shifted(argument, name) for argument in node.arguments))
    return Call("add", (node, Number(Fraction(1, 97)))) if node == Variable(name) else node


def constant(node: Node, digits: int = DIGITS) -> Any:
    """The value of a formula without variables: a Fraction where it is rational by exact arithmetic."""
    return _value(node, {}, _context(digits))


def exceeds_one(node: Node) -> bool:
    """Whether a formula without variables is greater than 1 in size."""
    return bool(_size(constant(node)) > 1)


def within(a: Any, b: Any, tolerance: Fraction) -> bool:
    """Whether two values differ by no more than `tolerance`."""
    return bool(_size(a + -b) <= _size(tolerance))


def _agree_at(gold: Node, answer: Node, point: Mapping[str, Fraction], pair: tuple[Any, Any]) -> bool:
    """Whether the values at a point are equal: of two tiny ones, whether both are the rounding noise of zero, which
    shrinks when the digits grow, as a value does not."""
    one, other = pair
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    if _close(one, other):
        return True
    if max(_size(one), _size(other)) >= 1e-30:
        return False
    finer = (_value(node, point, _context(2 * DIGITS)) for node in (gold, answer))
    return all(_size(fine) <= _size(coarse) * 1e-20 for fine, coarse in zip(finer, pair, strict=True))


def _pairs(gold: Node, answer: Node, names: list[str]) -> Iterator[tuple[Mapping[str, Fraction], tuple[Any, Any]]]:
    """The values at points where both are defined, and real unless an i is written."""
    too_large: TooLarge | None = None
    for point in _points(names):
        try:
            pair = (_value(gold, point, _context(DIGITS)), _value(answer, point, _context(DIGITS)))
        except Undefined:
            continue
        except TooLarge as error:
            too_large = error
            continue
        if not any(map(_imaginary, pair)) or _mentions_i(gold) or _mentions_i(answer):
            yield point, pair
    if too_large:
        raise too_large


def _points(names: list[str]) -> Iterator[Mapping[str, Fraction]]:
    """The points of comparison: fractions of both signs, small ones for arcsines, then integers for formulas like
    (-1)^n."""
    generator = random.Random(57)
    for attempt in range(TRIES):
        if attempt < TRIES * 2 // 3:
            scale = attempt % 8 + 1
            yield {name: Fraction(_signed(generator), scale * (97 + 2 * generator.randint(0, 9))) for name in names}
        else:
            yield {name: Fraction(generator.randint(2, 7)) for name in names}


def _signed(generator: random.Random) -> int:
    return generator.choice((1, 1, -1)) * generator.randint(20, 280)


def _close(a: Any, b: Any) -> bool:
    return bool(_size(a + -b) <= max(_size(a), _size(b)) * _context(DIGITS).mpf(10) ** (10 - DIGITS))


def _size(value: Any) -> Any:
    return abs(_context(DIGITS).convert(value))


def _imaginary(value: Any) -> bool:
    return bool(value.imag and abs(value.imag) > abs(value) * 1e-30)


@lru_cache(maxsize=4096)
def _mentions_i(node: Node) -> bool:
    return isinstance(node, Call) and (node.name == "i" or any(map(_mentions_i, node.arguments)))


def _value(node: Node, point: Mapping[str, Fraction], context: Any) -> Any:
    """The value at `point`: a Fraction, or a multi-precision number of `context`."""
    if isinstance(node, Number):
        return _in_bounds(node.value)
    if isinstance(node, Variable):
        if node.name not in point:
            raise Undefined(f"the variable {node.name} has no value")
        return point[node.name]
    arguments = [_value(argument, point, context) for argument in node.arguments]
    try:
        return _in_bounds(_OPERATIONS[node.name](context, *arguments))
    except (ZeroDivisionError, ValueError) as error:
        raise Undefined(f"{node.name}: {error}") from error
    except OverflowError as error:
        raise TooLarge(f"{node.name}: {error}") from error


def _in_bounds(value: Any) -> Any:
    if isinstance(value, Fraction):
        if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
            raise TooLarge("a number of thousands of digits")
    elif not (abs(value) < float("inf")):  # inf and nan
        raise Undefined("not a finite value")
    return value


def _power(context: Any, base: Any, exponent: Any) -> Any:
    if base == 0:
        if _imaginary(exponent) or not exponent.real > 0:
            raise Undefined("zero to a power that is not positive")
        return Fraction(0)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) == 1 or abs(exponent) * bits <= MAX_BITS:
            return base ** (exponent % 2 if abs(base) == 1 else exponent)
    if _size(exponent) > MAX_MAGNITUDE:
        raise TooLarge("a power of a huge exponent")
    return context.power(base, exponent)


def _root(context: Any, radicand: Any, degree: Any) -> Any:
    # odd roots of negative numbers are meant to be real
    if isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2 == 1:
        if not _imaginary(radicand) and radicand.real < 0:
            return -_power(context, -radicand.real, 1 / degree)
    return _power(context, radicand, 1 / degree)


def _natural(value: Any, most: int) -> int:
    if not (isinstance(value, Fraction) and value.denominator == 1 and value >= 0):
        raise Undefined("not a natural number")
    if value > most:
        raise TooLarge("a huge factorial or binomial")
    return int(value)


def _factorial(context: Any, n: Any) -> Any:
    whole = _natural(n, MAX_MAGNITUDE)
    return Fraction(math.factorial(whole)) if whole <= 2_000 else context.factorial(whole)


def _logarithm(context: Any, x: Any, base: Any = Fraction(10)) -> Any:
    if base == 0:
        raise Undefined("a logarithm to base 0")
    return context.ln(x) / context.ln(base)


def _function(name: str) -> Callable[[Any, Any], Any]:
    def apply(context: Any, x: Any) -> Any:
        if _size(x) > MAX_MAGNITUDE:
            raise TooLarge(f"{name} of a huge number")
        return getattr(context, name)(context.convert(x))

    return apply


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a + -b,  # a Fraction minus one of mpmath's numbers, or divided by it, is beyond both
    "mul": lambda _, a, b: a * b,
    "div": lambda _, a, b: a * (1 / b),
    "neg": lambda _, a: -a,
    "abs": lambda _, a: abs(a),
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "binom": lambda _, n, k: Fraction(math.comb(_natural(n, 5_000), _natural(k, MAX_MAGNITUDE))),
    "degrees": lambda context, a: context.degree * a,
    "pi": lambda context: +context.pi,
    "e": lambda context: +context.e,
    "i": lambda context: context.mpc(0, 1),
    "ln": lambda context, x: context.ln(x),
    "log": _logarithm,
    **{name: _function(name) for name in ("exp", "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{name: _function("a" + name.removeprefix("arc")) for name in ("arcsin", "arccos", "arctan")},
}
