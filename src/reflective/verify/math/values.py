"""Values of formulas, and whether two formulas are equal.

Rational arithmetic is exact. Everything else is computed with 50 digits (100 where cancellation leaves a doubt), so
that sqrt(2^100 + 1) is not 2^50. Formulas with variables are equal when they agree at several random points, which
for elementary functions is as good as a proof and, unlike symbolic simplification, has a bounded price.
"""

from __future__ import annotations

import operator
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
        zeros = list(map(_zero, pair))
        if all(zeros):
            continue
        if any(zeros):
            return False
        ratios.append(_divide(_context(DIGITS), *pair))
        if not _close(ratios[0], ratios[-1]):
            return False
        if len(ratios) > POINTS:
            return not positive or bool(_real(ratios[0]) > 0)
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


def same(gold: Any, answer: Any) -> bool | None:
    """Whether two values are equal; None: 50 digits can't tell (both are tiny)."""
    if isinstance(gold, Fraction) and isinstance(answer, Fraction):
        return gold == answer
    if _close(gold, answer):
        return True
    return None if max(_size(gold), _size(answer)) < 1e-30 else False


def within(a: Any, b: Any, tolerance: Fraction) -> bool:
    """Whether two values differ by no more than `tolerance`."""
    gap = _subtract(_context(DIGITS), a, b)
    return bool(abs(gap) <= tolerance) if isinstance(gap, Fraction) else bool(abs(gap) <= _inexact(tolerance))


def _agree_at(gold: Node, answer: Node, point: Mapping[str, Fraction], pair: tuple[Any, Any]) -> bool:
    """Whether the values at a point are equal: of two tiny ones, whether both are the rounding noise of zero, which
    shrinks when the digits grow, as a value does not."""
    verdict = same(*pair)
    if verdict is not None:
        return verdict
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
    a, b = _inexact(a), _inexact(b)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * _context(DIGITS).mpf(10) ** (10 - DIGITS))


def _inexact(value: Any) -> Any:
    return _mp(value, _context(DIGITS))


def _size(value: Any) -> Any:
    return abs(_inexact(value))


def _zero(value: Any) -> bool:
    return bool(value == 0) if isinstance(value, Fraction) else bool(_size(value) < 1e-40)


def _real(value: Any) -> Any:
    return value if isinstance(value, Fraction) else _inexact(value).real


def _imaginary(value: Any) -> bool:
    return not isinstance(value, Fraction) and bool(abs(value.imag) > abs(value) * 1e-30)


@lru_cache(maxsize=4096)
def _mentions_i(node: Node) -> bool:
    return isinstance(node, Call) and (node.name == "i" or any(map(_mentions_i, node.arguments)))


def _mp(value: Any, context: Any) -> Any:
    return context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


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


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    def apply(context: Any, a: Any, b: Any) -> Any:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return operation(a, b)
        return operation(_mp(a, context), _mp(b, context))

    return apply


_add, _subtract, _multiply, _divide = map(_arithmetic, (operator.add, operator.sub, operator.mul, operator.truediv))


def _power(context: Any, base: Any, exponent: Any) -> Any:
    if base == 0:
        if _imaginary(exponent) or not _real(exponent) > 0:
            raise Undefined("zero to a power that is not positive")
        return Fraction(0)
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        n = exponent.numerator
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(n) * bits <= MAX_BITS or abs(base) == 1:
                return base**n if abs(base) != 1 else base ** (n % 2)
        if abs(n) > MAX_MAGNITUDE:
            raise TooLarge("a power of a huge exponent")
        return _mp(base, context) ** n
    if _size(exponent) > MAX_MAGNITUDE:
        raise TooLarge("a power of a huge exponent")
    root = _exact_root(base, exponent)
    return root if root is not None else context.power(_mp(base, context), _mp(exponent, context))


def _exact_root(base: Any, exponent: Any) -> Fraction | None:
    """base^(1/2) where it is rational, so that sqrt(4/9) stays exact."""
    if not (isinstance(base, Fraction) and exponent == Fraction(1, 2) and base >= 0):
        return None
    from math import isqrt

    numerator, denominator = isqrt(base.numerator), isqrt(base.denominator)
    exact = numerator**2 == base.numerator and denominator**2 == base.denominator
    return Fraction(numerator, denominator) if exact else None


def _root(context: Any, radicand: Any, degree: Any) -> Any:
    if degree == 0:
        raise Undefined("a root of degree 0")
    # odd roots of negative numbers are meant to be real
    if isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2 == 1:
        if not _imaginary(radicand) and _real(radicand) < 0:
            return -_power(context, -_real(radicand), 1 / degree)
    return _power(context, radicand, 1 / degree if isinstance(degree, Fraction) else 1 / _mp(degree, context))


def _factorial(context: Any, n: Any) -> Any:
    from math import factorial

    if not (isinstance(n, Fraction) and n.denominator == 1 and n >= 0):
        raise Undefined("a factorial of what is not a natural number")
    if n > MAX_MAGNITUDE:
        raise TooLarge("a huge factorial")
    if n > 2_000:
        return context.factorial(int(n))
    return Fraction(factorial(int(n)))


def _binomial(_: Any, n: Any, k: Any) -> Fraction:
    from math import comb

    if not all(isinstance(m, Fraction) and m.denominator == 1 and m >= 0 for m in (n, k)):
        raise Undefined("a binomial of what are not natural numbers")
    if n > 5_000:
        raise TooLarge("a huge binomial")
    return Fraction(comb(int(n), int(k)))


def _logarithm(context: Any, x: Any, base: Any = Fraction(10)) -> Any:
    if x == 0 or base in (0, 1):
        raise Undefined("a logarithm of zero")
    return context.ln(_mp(x, context)) / context.ln(_mp(base, context))


def _function(name: str) -> Callable[[Any, Any], Any]:
    def apply(context: Any, x: Any) -> Any:
        if _size(x) > MAX_MAGNITUDE:
            raise TooLarge(f"{name} of a huge number")
        return getattr(context, name)(_mp(x, context))

    return apply


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "neg": lambda _, a: -a,
    "abs": lambda _, a: abs(a),
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "binom": _binomial,
    "degrees": lambda context, a: _mp(a, context) * context.pi / 180,
    "pi": lambda context: +context.pi,
    "e": lambda context: +context.e,
    "i": lambda context: context.mpc(0, 1),
    "ln": lambda context, x: _logarithm(context, x, context.e),
    "log": _logarithm,
    **{name: _function(name) for name in ("exp", "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{name: _function("a" + name.removeprefix("arc")) for name in ("arcsin", "arccos", "arctan")},
}
