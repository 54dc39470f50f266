"""What a model wrote, as HTML: Markdown, with its LaTeX as MathML.

Nothing of the text passes as markup: raw HTML stays text, links and images are left out, of a formula only MathML's own
elements and a few of their attributes are kept, and one that is not understood stands there as it was written.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element

from reflective.errors import DependencyError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

LONGEST_FORMULA: Final = 1_000  # characters; longer ones stay text
DEEPEST_FORMULA: Final = 30  # braces within braces
LONGEST_TEXT: Final = 20_000  # characters that Markdown is looked for in; longer texts stay as they are

ELEMENTS: Final = frozenset(
    "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msup msub msubsup munder mover munderover mmultiscripts "
    "mtable mtr mtd mpadded mphantom menclose mstyle".split()
)
ATTRIBUTES: Final = frozenset(
    "display mathvariant stretchy fence form separator lspace rspace minsize maxsize accent accentunder movablelimits "
    "linethickness columnalign rowspacing columnspacing columnlines rowlines width notation displaystyle "
    "scriptlevel".split()
)

# code first, since what stands in it is no formula; a dollar before a digit and after a space is money
_LENGTH = f"{{1,{LONGEST_FORMULA}}}?"
_PARTS = re.compile(
    rf"(?P<code>```.*?(?:```|\Z)|`[^`\n]{_LENGTH}`)"
    r"|(?P<environment>\\begin\{(?P<name>(?:align|equation|gather|cases|[bpv]?matrix)\*?)\}.{1,1000}?\\end\{(?P=name)\})"
    rf"|\$\$(?P<block>[^$]{_LENGTH})\$\$|\\\[(?P<square>.{_LENGTH})\\\]"
    rf"|\\\((?P<round>.{_LENGTH})\\\)|(?<![\\$\w])\$(?P<dollar>(?=\S)[^$\n]{_LENGTH})(?<=[^\s\\])\$(?![\d$])"
    r"|(?P<boxed>\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,200}\})"
    r"|(?P<mark>\\[\[\]()])"  # of a formula that does not end; Markdown would drop the backslash
    r"|(?P<product>(?<=[\w)\]])\*{1,2}(?=[\w(\[]))",  # 2*3 is no emphasis
    re.DOTALL,
)
_MARK = re.compile("\ue000(\\d+)\ue001")


def typeset(text: str) -> str:
    """HTML of a text."""
    if len(text) > LONGEST_TEXT:
        return f"<pre>{html.escape(text)}</pre>"
    formulas: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        if match["mark"] is not None:
            return "\\" + match[0]
        if match["product"] is not None:
            return match[0].replace("*", "\\*")
        source = next(part for part in match.groups() if part is not None)
        shown = any(match[name] for name in ("block", "square", "environment"))
        formulas.append(_formula(source, match[0], shown=shown))
        return f"\ue000{len(formulas) - 1}\ue001"

    plain = _PARTS.sub(put_aside, text.replace("\ue000", "").replace("\ue001", ""))
    return _MARK.sub(lambda match: formulas[int(match[1])], _markdown().render(plain))


def _formula(source: str, written: str, *, shown: bool) -> str:
    """MathML of LaTeX, or what was written."""
    boxed = re.fullmatch(r"\s*\\boxed\{(.*)\}\s*", source, re.DOTALL)
    inner = boxed[1] if boxed else source  # MathML knows no box; the page draws one
    if _depth(inner) > DEEPEST_FORMULA:
        return _as_written(written)
    try:
        from latex2mathml.converter import convert_to_element
    except ImportError as error:
        raise DependencyError("formulas need latex2mathml. In the checkout: pip install '.[serve]'.") from error
    try:
        made = _markup(convert_to_element(inner, display="block" if shown else "inline"))
    except Exception:  # of the library's own kinds, and IndexError and others where a formula breaks off
        return _as_written(written)
    return f'<span class="boxed">{made}</span>' if boxed else made


def _as_written(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _markup(element: Element) -> str:
    """An element of MathML; one that is not MathML's, or a command that is not known, raises."""
    text = html.unescape(element.text or "")  # the library gives signs as entities
    if element.tag not in ELEMENTS or (element.tag == "mi" and text.startswith("\\")):
        raise ValueError(element.tag)
    given = "".join(f' {k}="{html.escape(v)}"' for k, v in element.attrib.items() if k in ATTRIBUTES)
    inner = html.escape(text) + "".join(_markup(child) for child in element)
    return f"<{element.tag}{given}>{inner}</{element.tag}>"


def _depth(source: str) -> int:
    depth = deepest = 0
    for sign in source:
        depth += (sign == "{") - (sign == "}")
        deepest = max(deepest, depth)
    return deepest


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # an indented line is a model's layout, not code, and "a = \n=" no heading; links and images would lead out
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 20}).enable("table")
    reader.disable(["code", "lheading", "link", "image", "autolink", "reference", "html_block", "html_inline"])
    reader.add_render_rule("heading_open", lambda *_: '<p class="heading">')
    reader.add_render_rule("heading_close", lambda *_: "</p>\n")
    return reader
