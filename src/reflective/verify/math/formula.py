"""Elementary formulas: a small recursive-descent parser from plain LaTeX to a tree.

It reads numbers, variables, + - * / ^, roots, fractions, |x|, factorials, binomials and the usual functions: what
nearly every final answer is made of. What it can't read it says in one of two ways: `Malformed` (nobody would read
it: `2x+`, `3 4`, sixty brackets in each other) or `Unsupported` (it may well mean something: an integral, a sum). It
never guesses and never evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_DEPTH = 60
MAX_TOKENS = 600


class Malformed(ValueError):
    """The text is not a formula in any notation, or beyond all measure."""


class Unsupported(ValueError):
    """The text uses notation that this parser does not know."""


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a function or (with no arguments) a constant."""

    name: str
    arguments: tuple[Node, ...] = ()


Node = Number | Variable | Call

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh exp ln lg log asin acos atan".split()
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log"}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_WORDS = (*sorted(FUNCTIONS, key=len, reverse=True), "sqrt", "pi", "infinity", "infty")
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega infty emptyset ell".split()
)
_DRESSED = frozenset("mathbf mathbb mathcal vec hat bar overline boldsymbol overrightarrow".split())
_OPERATORS = {"times": "*", "cdot": "*", "ast": "*", "div": "/", "lbrack": "[", "rbrack": "]", "mid": "|", "vert": "|"}
_INFIX = {"+": ("add", 0), "-": ("sub", 0), "*": ("mul", 1), "/": ("div", 1)}
_POSTFIX = {"!": "factorial", "°": "degrees"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}

_TOKEN = re.compile(
    r"\s+|(?P<number>\d+(?:\.\d*)?|\.\d+)|\\(?P<command>[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<sign>[^\s\\])"
)
_MIXED = re.compile(
    r"(?<![\d.^_])(?<!sqrt)(?<!sqrt )(\d+)\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
_WORD = re.compile(rf"(?<![A-Za-z\\])(?:{'|'.join(_WORDS)})(?![A-Za-z])|(?<![A-Za-z\\])sqrt(?=[\d(])")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, command, letter, sign, end
    text: str
    spaced: bool = False  # whether a space stands before it


def _tokens(text: str) -> Iterator[_Token]:
    text = _WORD.sub(lambda m: "\\" + m[0] + " ", _MIXED.sub(_mixed_number, text)).replace("^\\circ", "°")
    position, spaced = 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unsupported(f"unknown notation at {text[position : position + 12]!r}")
        position = match.end()
        kind = match.lastgroup
        if kind is None:
            spaced = True
            continue
        word = match[kind]
        if kind == "command" and word in _OPERATORS:
            kind, word = "sign", _OPERATORS[word]
        yield _Token(kind, word, spaced)
        spaced = False
    yield _Token("end", "", spaced)


def _mixed_number(match: re.Match[str]) -> str:
    """1\\frac{4}{5} is one and four fifths, and 2\\frac{5}{4} a product."""
    whole, above, below = match[1], match[2] or match[3], match[4] or match[5]
    return f"({whole}+{above}/{below})" if int(above) < int(below) else match[0]


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """The tree of `text` (plain LaTeX, see `to_latex`)."""
    parser = _Parser(list(_tokens(text)))
    node = parser.sum()
    if parser.next.kind != "end":
        raise Malformed(f"unexpected {parser.next.text!r}")
    return node


def variables(node: Node) -> frozenset[str]:
    """The names of the free variables."""
    if isinstance(node, Variable):
        return frozenset((node.name,))
    if isinstance(node, Call):
        return frozenset().union(*map(variables, node.arguments))
    return frozenset()


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        if len(tokens) > MAX_TOKENS:
            raise Malformed(f"more than {MAX_TOKENS} tokens")
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.open_bars = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
        self.position += 1
        return self.tokens[self.position - 1]

    def at(self, signs: str) -> bool:
        return self.next.kind == "sign" and self.next.text in signs

    def accept(self, signs: str) -> str | None:
        return self.take().text if self.at(signs) else None

    def expect(self, sign: str) -> None:
        if self.accept(sign) is None:
            raise Malformed(f"{sign!r} expected, got {self.next.text or 'the end'!r}")

    def sum(self, level: int = 0) -> Node:
        """Operators of this level and above. Factors side by side bind like * and /, and begin without a sign."""
        negative = False
        while (sign := self.accept("+-")) is not None:
            negative ^= sign == "-"
        node = Call("neg", (self.power(),)) if negative else self.power()
        while True:
            operator, binds = _INFIX.get(self.next.text, ("", -1))
            if binds >= level:
                self.take()
                node = Call(operator, (node, self.sum(binds + 1)))
            elif level < 2 and self.starts_factor():
                if self.next.kind == "number" and not self.starts_power():
                    raise Malformed("two numbers beside each other")
                node = Call("mul", (node, self.power()))
            else:
                return node

    def starts_factor(self) -> bool:
        if self.next.kind == "sign":
            return self.at("([{") or (self.at("|") and self.open_bars == 0)
        return self.next.kind != "end"

    def starts_power(self) -> bool:
        """Whether a number may follow: 3! 5!, or the base of a power behind no number: n2^k, 2^6 3^5."""
        if self.tokens[self.position - 1].text == "!":
            return True
        before = self.tokens[max(self.position - 2, 0) : self.position]
        follows_number = before[-1].kind == "number" and before[0].text != "^"
        return self.tokens[self.position + 1].text == "^" and not follows_number

    def power(self) -> Node:
        base = self.atom()
        while (sign := self.accept("!°^")) is not None:
            if sign in _POSTFIX:
                base = Call(_POSTFIX[sign], (base,))
                continue
            base = Call("pow", (base, self.exponent()))
            if self.at("^"):
                raise Malformed("a double exponent")
        return base

    def exponent(self) -> Node:
        if self.accept("-"):  # plain text: x^-2
            return Call("neg", (self.exponent(),))
        if self.next.kind == "number":  # plain text: x^10, which TeX would read as x^{1}0
            return self.number()
        node = self.atom()
        if self.accept("^"):  # plain text: 2^2^3 is 2^(2^3)
            return Call("pow", (node, self.exponent()))
        return node

    def number(self) -> Node:
        return Number(Fraction(self.take().text.rstrip(".") or "0"))

    def atom(self) -> Node:
        token = self.next
        if token.kind == "number":
            return self.number()
        if token.kind == "letter":
            self.take()
            return self.symbol(token.text)
        if token.kind == "command":
            self.take()
            return self.command(token.text)
        if self.at("([{"):
            return self.bracketed()
        if self.open_bars == 0 and self.accept("|"):
            self.open_bars += 1
            node = self.sum()
            self.expect("|")
            self.open_bars -= 1
            return Call("abs", (node,))
        if token.kind == "sign" and token.text not in "+-*/^_)]}|!'=<>,":
            raise Unsupported(f"unknown sign {token.text!r}")
        raise Malformed(f"a value expected, got {token.text or 'the end'!r}")

    def bracketed(self) -> Node:
        opening = self.take().text
        bars, self.open_bars = self.open_bars, 0
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Malformed(f"nested deeper than {MAX_DEPTH}")
        node = self.sum()
        self.depth -= 1
        self.open_bars = bars
        self.expect(_CLOSING[opening])
        return node

    def argument(self) -> Node:
        """The argument of a command: a group or one token, and of a number only its first digit (\\frac12)."""
        token = self.next
        if self.at("{"):
            return self.bracketed()
        if token.kind == "number":
            if not token.text.isdigit():
                raise Malformed("a decimal number as a bare argument")
            self.tokens[self.position : self.position + 1] = [_Token("number", digit) for digit in token.text]
            return self.number()
        if token.kind == "letter":
            self.take()
            return self.symbol(token.text) if token.text in "ei" else Variable(token.text)
        if token.kind == "command":
            return self.command(self.take().text)
        raise Malformed(f"an argument expected, got {token.text or 'the end'!r}")

    def symbol(self, name: str) -> Node:
        subscript = self.subscript()
        primes = ""
        while self.accept("'"):
            primes += "'"
        if not subscript and not primes and name in ("e", "i"):
            return Call(name)
        return Variable(name + subscript + primes + self.function_argument_of(name))

    def function_argument_of(self, name: str) -> str:
        """The "(0)" of I(0) and the "(x)" of f(x), which are no products."""
        ahead = [token.text for token in self.tokens[self.position : self.position + 3]]
        if len(ahead) == 3 and ahead[0] == "(" and ahead[2] == ")" and not self.next.spaced:
            if ahead[1].isdigit() or (name in "fghFGHP" and len(ahead[1]) == 1 and ahead[1].isalpha()):
                self.position += 3
                return "".join(ahead)
        return ""

    def subscript(self) -> str:
        if not self.accept("_"):
            return ""
        return "_" + (self.raw_group() if self.at("{") else self.take().text)

    def raw_group(self) -> str:
        """The text of a {group}, unread."""
        self.expect("{")
        words: list[str] = []
        level = 1
        while True:
            token = self.take()
            if token.kind == "end":
                raise Malformed("an open brace")
            level += (token.text == "{") - (token.text == "}")
            if level == 0:
                return " ".join(words)
            words.append(token.text)

    def command(self, name: str) -> Node:
        if name in ("frac", "binom"):
            node = Call("div" if name == "frac" else "binom", (self.argument(), self.argument()))
            match node.arguments:
                case Variable("d"), Call("mul", (Variable("d"), Variable())):
                    raise Unsupported("a derivative")
            return node
        if name == "sqrt":
            return self.root()
        if name == "pi":
            return Call("pi")
        if name == "cis":  # cos x + i sin x
            return Call("exp", (Call("mul", (Call("i"), self.function_argument())),))
        if name in FUNCTIONS:
            return self.function(_ALIASES.get(name, name))
        if name in _GREEK or name == "infinity":
            return self.symbol("\\infty" if name == "infinity" else "\\" + name)
        if name in _DRESSED:
            return self.symbol(f"\\{name} " + self.raw_group())
        raise Unsupported(f"unknown command \\{name}")

    def root(self) -> Node:
        degree: Node = Number(Fraction(2))
        if self.at("["):
            degree = self.bracketed()
        if self.at("("):
            radicand = self.bracketed()
        else:
            if self.next.kind == "number" and len(self.next.text) > 1:
                raise Malformed("a root of more than one digit without a brace")
            radicand = self.argument()
        return Call("root", (radicand, degree))

    def function(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        while (sign := self.accept("_^")) is not None:
            if sign == "_":
                if name != "log":
                    raise Unsupported(f"a subscript at \\{name}")
                base = self.argument()
            else:
                exponent = self.argument() if self.next.kind != "number" else self.number()
        if exponent in (Call("neg", (Number(Fraction(1)),)), Number(Fraction(-1))):
            if name not in _INVERSES:
                raise Unsupported(f"\\{name} to the power -1")
            name, exponent = _INVERSES[name], None
        argument = self.function_argument()
        node = Call(name, (argument,) if base is None else (argument, base))
        return node if exponent is None else Call("pow", (node, exponent))

    def function_argument(self) -> Node:
        if self.at("([{"):
            node = self.bracketed()
            if self.at("^!°"):
                raise Unsupported("an exponent behind a function's bracket, which is read in two ways")
            return node
        node = self.power()  # \sin 2x is sin(2x): factors by juxtaposition, up to the next function or bracket
        while self.starts_factor() and not (self.next.kind == "command" and self.next.text in FUNCTIONS):
            if self.next.kind in ("sign", "number"):
                break
            node = Call("mul", (node, self.power()))
        return node
