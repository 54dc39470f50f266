"""Two equations that both hold, for all values or as numbers: are they one, spelled differently?

What holds everywhere can't be told apart by its values, so it is compared as it is written: all terms on one side, up
to a factor. sin² x + cos² x = 1 is cos² x = 1 − sin² x, and not sec² x − tan² x = 1; 2^5 = 32 is not 3^2 = 9.
"""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction

from reflective.verify.math.formula import Call, Node, Number

Factors = tuple[Hashable, ...]  # of one term, in order, without its coefficient
ONE = Number(Fraction(1))


def same_identity(gold: tuple[Node, Node], answer: tuple[Node, Node]) -> bool:
    """Whether two true equations say the same."""
    one, other = _terms(Call("sub", gold)), _terms(Call("sub", answer))
    if not one or not other:  # 3 + 4 = 7, a + b = b + a: nothing is left of it
        return set(gold) == set(answer)
    return one.keys() == other.keys() and len({one[key] / other[key] for key in one}) == 1


def _terms(node: Node) -> dict[Factors, Fraction]:
    """A sum as its terms and their coefficients; the factors of a number are ()."""
    match node:
        case Number(value):
            return {(): value} if value else {}
        case Call("neg", (inner,)):
            return {key: -value for key, value in _terms(inner).items()}
        case Call("add" | "sub" as name, (left, right)):
            total = _terms(left)
            for key, value in _terms(right).items():
                total[key] = total.get(key, Fraction(0)) + (value if name == "add" else -value)
            return {key: value for key, value in total.items() if value}
        case Call("mul", (left, right)):
            return _product(_terms(left), _terms(right))
        case Call("div", (left, Number(value))) if value:
            return _product(_terms(left), {(): 1 / value})
        case Call("div", (left, right)):
            return _product(_terms(left), _terms(Call("pow", (right, Call("neg", (ONE,))))))
        case Call("root", (radicand, degree)):
            return _terms(Call("pow", (radicand, Call("div", (ONE, degree)))))
        case Call(name, arguments):
            return {((name, *(frozenset(_terms(argument).items()) for argument in arguments)),): Fraction(1)}
    return {(node,): Fraction(1)}


def _product(left: dict[Factors, Fraction], right: dict[Factors, Fraction]) -> dict[Factors, Fraction]:
    """The product of two sums, each of which is one factor where it has several terms."""
    (key, value), (other, factor) = (
        next(iter(terms.items())) if len(terms) == 1 else ((frozenset(terms.items()),), Fraction(1))
        for terms in (left, right)
    )
    return {tuple(sorted(key + other, key=hash)): value * factor} if value * factor else {}
