"""Text before it is read: one spelling for what can be written in several ways.

`clean` makes any string safe (no NUL, no unpaired surrogate, ASCII digits). `to_latex` rewrites the spellings of
mathematics (Unicode signs, sized brackets, spaces, `\\dfrac`, `\\mathrm`, surrounding dollars) into one plain LaTeX.
Nothing here decides what is equal: a rewriting that could change a value does not belong in this file.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_ANSWER_CHARS = 2_000  # a final answer is short; longer ones are refused before any work is done on them

_UNSAFE = re.compile("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f]")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SIGNS = {
    **dict.fromkeys("−–—﹣－‐‑‒", "-"),
    **dict.fromkeys("×✕✖⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("÷∕⁄", "/"),
    **{"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "±": r"\pm ", "∓": r"\mp ", **dict.fromkeys("°º˚", r"^\circ ")},
    **{"≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∖": r"\setminus "},
    **{"α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda "},
    **{
        "μ": r"\mu ",
        "φ": r"\phi ",
        "ω": r"\omega ",
        "′": "'",
        "’": "'",
        "Ω": r"\Omega ",
        "“": '"',
        "”": '"',
        "、": ", ",
    },
}
_SIGN_TABLE = str.maketrans(_SIGNS)
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_ROOT_SIGN = re.compile(r"√\s*(\d+(?:\.\d+)?)")
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")

_TEXT = r"\\(?:mathrm|text)\s*\{([^{}]*)\}(\^\s*\{?\s*[23]\s*\}?)?"

_WORDS_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ALIASES = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys("mbox hbox textrm textbf textit textnormal textsf".split(), r"\text"),
    **{"dbinom": r"\binom", "tbinom": r"\binom", "bmod": r"\mod", "varnothing": r"\emptyset", "degree": r"^\circ "},
    **{"leq": r"\le", "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">"},
    **{"lbrace": r"\{", "rbrace": r"\}", "langle": "(", "rangle": ")", "vert": "|", "lvert": "|", "rvert": "|"},
    **{"textdollar": r"\$", "mathdollar": r"\$", "colon": ":"},
}
_COSMETICS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:mathrm|text|textrm|rm)\s*\{\s*~+\s*", r"\\text{"),
        (r"(?<=[^=]=)([^=]+?)\\q?quad\s*(?=[^=]+=)", r"\1, "),
        (r"(?<!\\)\\!\s*|\\(?:displaystyle|textstyle|limits|nolimits)(?![A-Za-z])", ""),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|mleft|mright)(?![A-Za-z])\s*", ""),
        (r"^<([^<>]*,[^<>]*)>$", r"(\1)"),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|&nbsp;", " "),
        (r"\{([,:])\}", r"\1"),
        (r"\\mathbb\s*([A-Z])(?![A-Za-z])", r"\\mathbb{\1}"),
        (r"\\text\s*\{\\?\$\}", r"\\$"),
        (r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\\overline{\1\2\3}"),
        (r"(?<![\d.])(\d*\.\d{0,30}?)(\d{1,6}?)\2{2,}(?:\.{3}|…|\\[cl]?dots)$", r"\1\\overline{\2}"),
        (r"(\.\d{6,})(?:\.{3}|\\[cl]?dots)$", r"\1"),
        (r"(?<![\w)}])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?![\w({])", r"\1"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
        (rf"\\frac\s*\{{\s*{_TEXT}\s*\}}\s*\{{\s*{_TEXT}\s*\}}", r"\\text{\1\2/\3\4}"),
        (
            r"(?:(?<=[\d}/])|(?<=cdot)|(?<=\\mu))(\s*)\\(?:mathrm|operatorname)\s*\{\s*([A-DF-HJ-Za-df-hj-z])\s*\}",
            r"\1\\text{\2}",
        ),
        (r"\\(?:mathrm|mathit|operatorname)\s*\{\s*([A-Za-z])\s*\}", r" \1 "),
        (r"\\operatorname\s*\{\s*([A-Za-z]+)\s*\}", r"\\\1 "),
        (r"\\(?:mathrm|mathit)(?![A-Za-z])\s*", r"\\text"),
        (r"\{\\rm\s+", r"\\text{"),
        (r"(\\text\s*\{[^{}]*\^)\{(-?\d)\}", r"\1\2"),
        (r"\\underline\s*\{([^{}]*)\}", r"\1"),
        (r"^(?:=|[∴⇒→]|\\(?:therefore|implies|approx|to|(?:Long)?[Rr]ightarrow)(?![A-Za-z]))\s*(?=[^=\s])", ""),
        (r"^\\text\s*\{\s*(?:[Ff]inal )?[Aa]nswer\s*:?\s*\}\s*:?\s*", ""),
        (r"\\(?:text)?color\s*\{[A-Za-z]+\}", ""),
        (r"\\math(?:bf|sf|tt)\s*\{([A-Za-z]{3,})\}", r"\\text{\1}"),
        (r"\\(?:text|mathbf|boldsymbol)\s*\{([-\d.,/ ]+)\}", r"\1"),
        (r"\\text\s*\{\s*([-+]?\d[\d.,]*)\s+([A-Za-z][A-Za-z ]*)\}", r"\1 \\text{\2}"),
        (r"\\cis(?![A-Za-z])|\\text\s*\{\s*cis\s*\}", r"\\cis "),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\\%", "%"),
        (r"\*\*", "^"),
        (r"\s+", " "),
    )
)
_DOLLARS_AND_UNIT = re.compile(r"^\$([^$]*[^$\\])\$\s*([A-Za-z][A-Za-z .]*)$")
_INNER_DOLLARS = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
_SQUARE_METRES = re.compile(r"(?<=[\d\s.])([kcdm]?m)([²³])")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))


def clean(text: str) -> str:
    """`text` with every digit in ASCII, and with what can't be printed replaced by U+FFFD, which no gold contains."""
    if text.isascii() and text.isprintable():
        return text
    text = _UNSAFE.sub("\ufffd", text)
    return "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text)


def strip_delimiters(text: str) -> str:
    """`text` without surrounding `$`, `\\(`, `\\[`, bold or code marks and without closing punctuation."""
    while True:
        before = text
        text = text.strip().rstrip("。，；").strip()
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        if text.endswith((".", ",", ";", ":")) and not text.endswith(("\\,", "\\;", "\\:", "..")):
            text = text[:-1].rstrip()
        for opening, closing in _DELIMITERS:
            inside = text[len(opening) : len(text) - len(closing)]
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                if opening not in inside and closing not in inside and not inside.endswith("\\"):
                    text = inside
                    break
        if text == before:
            return text


@lru_cache(maxsize=4096)
def to_latex(text: str) -> str:
    """`text` in one plain spelling of LaTeX; its value is what it was."""
    text = clean(text)
    if not text.isascii():
        text = _SQUARE_METRES.sub(lambda m: rf"\text{{{m[1]}}}^{'2' if m[2] == '²' else '3'}", text)
        # before NFKC, which would turn x² into x2 and 1½ into 11⁄2
        text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
        text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
        text = _ROOT_SIGN.sub(r"\\sqrt{\1}", text)
        text = _VULGAR.sub(_vulgar_fraction, text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGN_TABLE)).translate(_SIGN_TABLE)
    text = _DOLLARS_AND_UNIT.sub(r"\1 \\text{\2}", strip_delimiters(text))
    text = _INNER_DOLLARS.sub(r" \1 ", text)
    text = _COMMAND.sub(lambda m: _ALIASES.get(m[1], m[0]), text)
    for pattern, replacement in _COSMETICS:
        text = pattern.sub(replacement, text)
    return strip_delimiters(text)


def without_text(text: str) -> str:
    """Plain LaTeX with the words of its \\text{} bare."""
    return _WORDS_IN_TEXT.sub(r"\1", text)


def _vulgar_fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"
