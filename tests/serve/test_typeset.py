"""Texts of a model as HTML: what is Markdown and LaTeX is set, and nothing passes as markup."""

from __future__ import annotations

import re
import time

import pytest

from reflective.serve.typeset import LONGEST_TEXT, typeset


@pytest.mark.parametrize(
    "text",
    [
        r"It is $x^2$.",
        r"It is \(x^2\).",
        r"It is \[x^2\].",
        r"It is $$x^2$$.",
        r"It is \boxed{x^2}.",
        r"It is \begin{equation}x^2\end{equation}.",
    ],
)
def test_every_way_to_write_a_formula_is_known(text):
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in typeset(text)


@pytest.mark.parametrize("text", ["It costs $5 and $10.", "`$x$` is code", "```\n$x$\n```", r"\$x\$", "a $ b $ c"])
def test_money_and_code_are_no_formulas(text):
    assert "<math" not in typeset(text)


@pytest.mark.parametrize("text", ["2*3*4 = 24", "a*b*c", "2**3**4", "(1)*(2)*(3)", "7 * 5 + 12", "x_1 and x_2"])
def test_products_are_no_emphasis(text):
    assert re.sub("<[^>]*>", "", typeset(text)).strip() == text and "<em>" not in typeset(text)


def test_markdown_is_set():
    made = typeset("# Title\n\n**bold**\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n    not code")
    for part in (
        '<p class="heading">Title</p>',
        "<strong>bold</strong>",
        "<li>one</li>",
        "<td>2</td>",
        "<p>not code</p>",
    ):
        assert part in made


def test_code_stays_as_it_was_written():
    assert "1*2*3 &lt;b&gt;" in typeset("```python\n1*2*3 <b>\n```") and "1*2" in typeset("`1*2`")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1)) ![b](http://c/d.png) <http://e>",
        r"$\text{<script>alert(1)</script>}$",
        r"$\href{javascript:alert(1)}{x}$",
        r"$\style{color:red}{x}$ $\class{y}{x}$ $\color{red;background:url(z)}{x}$",
        "```<script>\nx\n```",
        "\ue0000\ue001 and \ue00017\ue001",
    ],
)
def test_nothing_passes_as_markup(text):
    made = typeset(text)
    names = {name.lower() for name in re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", made)}
    assert names <= {"p", "code", "pre", "math", "mrow", "mi", "mn", "mo", "mtext", "mstyle", "br"}
    attributes = set(re.findall(r'\s([a-z:]+)="', made))
    assert attributes <= {"display", "class", "mathvariant", "stretchy"}


@pytest.mark.parametrize("source", [r"\frac{", r"\unknown{x}", "{" * 40 + "}" * 40, "x" * 1_001, r"\left("])
def test_a_formula_that_is_not_understood_stands_as_it_was_written(source):
    made = typeset(f"${source}$")
    assert "<math" not in made and source.replace("&", "&amp;") in made


def test_a_formula_that_does_not_end_keeps_its_mark():
    assert (
        re.sub("<[^>]*>", "", typeset(r"So \[ 3 \times 4 = 12 \) \( x \]")).strip()
        == r"So \[ 3 \times 4 = 12 \) \( x \]"
    )


def test_a_box_is_drawn_around_what_is_boxed():
    assert typeset(r"\boxed{\frac{1}{2}}").startswith('<p><span class="boxed"><math')


def test_a_very_long_text_stays_as_it_is():
    assert typeset("*a* " * LONGEST_TEXT).startswith("<pre>*a* *a*")


@pytest.mark.parametrize(
    "part",
    ["*", "$", r"\boxed{", "[", "`", "> ", "_a", r"\(", r"\[", "$$a", "|a", "- ", r"\begin{align}", "^{", "$x_{"],
)
def test_hostile_texts_take_no_time(part):
    began = time.process_time()
    typeset((part * LONGEST_TEXT)[:LONGEST_TEXT])
    assert time.process_time() - began < 3
