"""Answers that are nearly right, and answers that are right in another form. Written by hand; each was thought about.

A near miss is what a careless comparison would let pass. A like form is what a careless comparison would refuse.
"""

# ruff: noqa: E501  (tables)

from __future__ import annotations

# what the miss is about: (gold, answer) pairs, none of which is right
NEAR_MISSES: dict[str, list[tuple[str, str]]] = {
    "sign": [
        ("5", "-5"), ("-5", "5"), ("\\frac{1}{2}", "-\\frac{1}{2}"), ("-\\frac{3}{4}", "\\frac{3}{4}"), ("-x + 1", "x + 1"),
        ("2\\sqrt{3}", "-2\\sqrt{3}"), ("3 - 2i", "3 + 2i"), ("(1, -2)", "(1, 2)"), ("(-1, 2)", "(1, -2)"), ("\\pm 3", "3"),
        ("3", "\\pm 3"), ("1 - \\sqrt{2}", "1 + \\sqrt{2}"), ("e^{-2}", "e^{2}"), ("10^{-3}", "10^{3}"), ("y = 2x - 3", "y = 2x + 3"),
        ("-\\infty", "\\infty"), ("x^2 - 1", "1 - x^2"), ("\\{-1, 2\\}", "\\{1, 2\\}"), ("-0.25", "0.25"), ("a - b", "b - a"),
    ],
    "off by one": [
        ("204", "203"), ("204", "205"), ("99", "100"), ("0", "1"), ("1000", "999"), ("2^{10}", "1023"), ("2^{10}", "2^{11}"),
        ("10!", "9!"), ("\\binom{10}{3}", "\\binom{10}{4}"), ("\\frac{7}{12}", "\\frac{7}{13}"), ("\\frac{7}{12}", "\\frac{8}{12}"),
        ("n(n+1)/2", "n(n-1)/2"), ("2^{n}", "2^{n+1}"), ("1, 2, 3", "1, 2, 4"), ("(3, 4)", "(3, 5)"), ("[1, 10]", "[1, 11]"),
        ("\\sqrt{50}", "\\sqrt{51}"), ("\\log_2 9", "\\log_2 8"), ("12!", "12"), ("100000000000000000001", "100000000000000000000"),
    ],
    "rounding": [
        ("\\frac{1}{3}", "0.33"), ("\\frac{1}{3}", "0.3333"), ("\\pi", "3.14"), ("\\pi", "\\frac{22}{7}"), ("\\sqrt{2}", "1.41"),
        ("0.125", "0.13"), ("2.5", "3"), ("2.5", "2"), ("99.9", "100"), ("0.001", "0"), ("10^{-20}", "0"), ("e", "2.718"),
        ("1234567", "1234568"), ("1.0000001", "1"), ("3.5", "3\\frac{1}{3}"), ("0.\\overline{3}", "0.3"), ("0.\\overline{9}", "0.9"),
        ("\\frac{355}{113}", "\\pi"), ("6.02 \\times 10^{23}", "6.02 \\times 10^{22}"), ("123456789", "1.23 \\times 10^8"),
    ],
    "order": [
        ("(1, 2)", "(2, 1)"), ("(1, 2, 3)", "(1, 3, 2)"), ("(1, 2, 3)", "(3, 2, 1)"), ("(x, y)", "(y, x)"), ("\\frac{2}{3}", "\\frac{3}{2}"),
        ("2:3", "3:2"), ("2^3", "3^2"), ("\\binom{7}{2}", "\\binom{2}{7}"), ("21", "12"), ("0.12", "0.21"), ("x - y", "y - x"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}"),
        ("(0, 1), (1, 0)", "(1, 1), (0, 0)"), ("(1, \\pi)", "(\\pi, 1)"), ("\\log_2 3", "\\log_3 2"), ("a/b", "b/a"), ("[1, 2]", "[2, 1]"),
    ],
    "brackets": [
        ("(1, 2)", "[1, 2]"), ("[1, 2]", "(1, 2)"), ("(1, 2]", "[1, 2)"), ("[1, 2)", "[1, 2]"), ("(-\\infty, 2]", "(-\\infty, 2)"),
        ("[0, \\infty)", "(0, \\infty)"), ("x \\ge 2", "x > 2"), ("x < 2", "x \\le 2"), ("1 < x < 2", "1 \\le x < 2"),
        ("(1, 2) \\cup (3, 4)", "[1, 2) \\cup (3, 4)"), ("(1, 2)", "\\{1, 2\\}"), ("\\{1, 2\\}", "(1, 2)"), ("\\{1, 2\\}", "[1, 2]"),
        ("(1, 2)", "1, 2"), ("1, 2", "(1, 2)"), ("(-\\infty, \\infty)", "[0, \\infty)"), ("[2, 5]", "2, 5"), ("(2, 5)", "2 \\le x \\le 5"),
        ("(-1, 1)", "|x| \\le 1"), ("\\emptyset", "0"),
    ],
    "too many or too few": [
        ("1, 2", "1"), ("1", "1, 2"), ("1, 2, 3", "1, 2"), ("\\{1, 2\\}", "\\{1, 2, 3\\}"), ("\\{1, 2, 3\\}", "\\{1, 2\\}"),
        ("1, 2", "1, 2, 3, 4"), ("(1, 2)", "(1, 2, 0)"), ("3", "3 or 4"), ("3", "3, 4"), ("x = 1, y = 2", "x = 1"),
        ("(1, 2), (3, 4)", "(1, 2)"), ("\\pm 2", "2"), ("2, -2", "2"), ("5", "4 \\text{ or } 5"), ("(0, 1) \\cup (2, 3)", "(0, 1)"),
        ("1 \\pm \\sqrt{5}", "1 + \\sqrt{5}"), ("0, 1", "0, 0"), ("2", "2, 2, 3"), ("-1, 0, 1", "-1, 1"),
    ],
    "union and intersection": [
        ("(-\\infty, 0) \\cup (1, \\infty)", "(-\\infty, 0) \\cap (1, \\infty)"), ("(0, 1) \\cup (1, 2)", "(0, 2)"),
        ("\\mathbb{R} \\setminus \\{2\\}", "\\mathbb{R}"), ("x \\ne 2", "x = 2"), ("x \\ne 2", "x \\ne -2"), ("x > 2", "x < 2"),
        ("x > 2", "x > -2"), ("x \\le 3", "x \\le 4"), ("1 < x < 3", "1 < x < 4"), ("x > 2", "2 > x"),
        ("x < 1 \\text{ or } x > 2", "1 < x < 2"), ("[1, 2] \\cup [3, 4]", "[1, 4]"),
    ],
    "unit": [
        ("5 \\text{ cm}", "5 \\text{ m}"), ("5 \\text{ m}", "5 \\text{ m}^2"), ("5 \\text{ cm}^2", "5 \\text{ cm}^3"),
        ("60 \\text{ mph}", "60 \\text{ km/h}"), ("3 \\text{ hours}", "3 \\text{ minutes}"), ("\\$5", "5 \\text{ cents}"),
        ("5 \\text{ dollars}", "5 \\text{ euros}"), ("10 \\text{ kg}", "10 \\text{ g}"), ("90^\\circ", "90 \\text{ radians}"),
        ("45^\\circ", "\\frac{\\pi}{6}"), ("5 \\text{ m}", "500 \\text{ m}"), ("2 \\text{ feet}", "2 \\text{ inches}"),
        ("7 \\text{ days}", "7 \\text{ weeks}"), ("100 \\text{ m/s}", "100 \\text{ m/s}^2"), ("5 \\text{ N}", "5 \\text{ J}"),
    ],
    "percent and powers of ten": [
        ("25\\%", "0.025"), ("0.25", "2.5\\%"), ("0.5\\%", "0.5"), ("0.5", "0.5\\%"), ("150\\%", "0.15"), ("\\frac{1}{4}", "4\\%"),
        ("1,000", "1.000"), ("1000", "100"), ("10^6", "10^9"), ("5 \\text{ million}", "5"), ("5 \\text{ million}", "5 \\text{ billion}"),
        ("0.05", "0.5"), ("12.5", "125"), ("3.0 \\times 10^8", "3.0 \\times 10^{-8}"), ("75\\%", "\\frac{7}{5}"),
        ("1{,}234", "1.234"), ("12\\%", "1.2"),
    ],
    "formula": [
        ("x^2 + 2x + 1", "x^2 + 2x - 1"), ("x^2", "x^3"), ("x^2", "2x"), ("2x", "x + 2"), ("\\frac{1}{x}", "x"), ("\\sqrt{x}", "x"),
        ("\\sqrt{x^2}", "x"), ("\\sin x", "\\cos x"), ("\\sin 2x", "2\\sin x"), ("(a+b)^2", "a^2 + b^2"), ("\\log(ab)", "\\log a \\log b"),
        ("e^{x+y}", "e^x + e^y"), ("\\frac{a}{b+c}", "\\frac{a}{b} + \\frac{a}{c}"), ("2^{3^2}", "64"), ("-2^2", "4"), ("2\\pi r", "\\pi r^2"),
        ("x", "y"), ("x_1", "x_2"), ("\\frac{x+1}{2}", "x + \\frac{1}{2}"), ("\\sqrt{2} + \\sqrt{3}", "\\sqrt{5}"), ("|x|", "x"),
        ("\\sin x", "\\sin y"), ("n!", "n"), ("3\\sqrt{2}", "\\sqrt[3]{2}"), ("2\\frac{1}{2}", "2 \\cdot \\frac{1}{2}"), ("1\\frac{3}{4}", "\\frac{3}{4}"),
    ],
    "equation": [
        ("x = 5", "y = 5"), ("x = 5", "x = 6"), ("y = 2x + 3", "y = 3x + 2"), ("y = 2x + 3", "x = 2y + 3"), ("x^2 + y^2 = 4", "x^2 + y^2 = 2"),
        ("x^2 + y^2 = 4", "x^2 - y^2 = 4"), ("2x + 3y = 6", "2x + 3y = 7"), ("y = x^2", "y = x"), ("f(x) = x + 1", "f(x) = x - 1"),
        ("x = 1, y = 2", "x = 2, y = 1"), ("5", "x = 5 + 1"), ("x > 5", "x = 5"), ("a = 2", "2a = 2"),
    ],
    "base and notation": [
        ("52_8", "42"), ("101_2", "5_{10}"), ("52_8", "52_9"), ("4210_5", "4210_6"), ("10_2", "10_3"), ("1101_2", "1110_2"), ("121_3", "121_4"),
        ("7", "VII"), ("12", "1 2"), ("5", "five hundred"), ("3.14", "3,14"), ("2 + 3i", "2 + 3"), ("i", "1"), ("15", "F"),
        ("1/2/3", "1/(2/3)"),
    ],
    "words": [
        ("\\text{even}", "odd"), ("\\text{Evelyn}", "Eva"), ("\\text{Yes}", "No"), ("\\text{true}", "false"), ("\\text{Saturday}", "Sunday"),
        ("\\text{Monday}", "Mon and Tue"), ("\\text{no solution}", "0"), ("\\text{infinitely many}", "\\infty + 1"), ("\\text{(A)}", "B"),
        ("\\text{parabola}", "circle"), ("\\text{Alice and Bob}", "Alice"), ("\\text{red}", "not red"), ("\\text{increasing}", "decreasing"),
    ],
    "nothing, or no answer": [
        ("5", "x"), ("5", "?"), ("5", "\\ldots"), ("5", "\\text{the answer}"), ("5", "5 +"), ("5", "\\frac{5}{0}"), ("0", "\\text{nothing}"),
        ("1", "\\frac{0}{0}"), ("5", "\\sqrt{}"), ("5", "5 \\ne 5"), ("5", "NaN"), ("\\infty", "10^{100}"), ("5", "55"), ("5", "5.5.5"),
    ],
}  # fmt: skip

# whole responses, of which none answers right: gold, response, kind
NO_ANSWER: list[tuple[str, str, str]] = [
    # unfinished thinking
    ("5", "<think>\nSo the answer is \\boxed{5}.", "math"),
    ("5", "2 + 3 = 5, so the answer is 5", "math"),
    ("5", "The final answer is $\\boxed{5}$.\n\nWait, let me check", "math"),
    ("C", "<think>The answer is C.", "choice"),
    ("print(5)", "<think>\n```python\nprint(5)\n```", "code"),
    # only the thinking has it
    ("5", "<think>\\boxed{5}</think>I could not find it.", "math"),
    ("5", "\\boxed{5}</think>It can't be determined.", "math"),
    ("5", "so 5</think>", "math"),
    ("5", "so 5</think>\n\n", "math"),
    ("C", "It is C.</think>I am not sure.", "choice"),
    ("5", "a</think>b <think>\\boxed{5}</think>\\boxed{6}", "math"),
    ("5", "a</think>Let me think again. <think>\\boxed{5}", "math"),
    # the prompt's own box, and boxes that are no answer
    ("5", "hm</think>Put your final answer within \\boxed{}.", "math"),
    ("5", "hm</think>The answer goes in \\boxed{}: it is unknown, between 4 and 6.", "math"),
    ("5", "hm</think>\\boxed{}", "math"),
    ("5", "hm</think>\\boxed{5} is what many would say. It is \\boxed{6}.", "math"),
    ("5", "hm</think>First \\boxed{6}, then 5.", "math"),
    ("5", "hm</think>\\boxed{4}, \\boxed{5}", "math"),
    ("5", "hm</think>\\boxed{4} or \\boxed{5}", "math"),
    ("5", "hm</think>\\boxed{5", "math"),
    ("\\frac{1}{2}", "hm</think>\\boxed{\\frac{1}{2}", "math"),
    ("5", "hm</think>\\boxed{x = 4 \\text{ or } x = 5}", "math"),
    ("5", "hm</think>The answer is not 5.", "math"),
    ("5", "hm</think>The answer isn't $5$.", "math"),
    ("5", "hm</think>It is certainly not equal to 5.", "math"),
    ("C", "hm</think>The answer is not C.", "choice"),
    ("C", "hm</think>It can't be (C).", "choice"),
    ("5", "hm</think>Answer: 4 or 5", "math"),
    ("5", "hm</think>It is 4 or 5", "math"),
    ("5", "hm</think>#### 6\n5 was my first thought: #### 6", "math"),
    # letters
    ("C", "hm</think>The answer is \\boxed{D}. C is wrong.", "choice"),
    ("C", "hm</think>Both (C) and (D) fit.\nAnswer: C or D", "choice"),
    ("C", "hm</think>答案是D，不是C。", "choice"),
    ("C", "hm</think>ANSWER: $LETTER", "choice"),
    ("A", "hm</think>A closer look shows nothing.", "choice"),
    ("I", "hm</think>I do not know.", "choice"),
    ("C", "hm</think>故选：A、C", "choice"),
    ("AC", "hm</think>故选：A", "choice"),
]

# pairs that are right, in either direction unless they are among ONE_WAY
LIKE_FORMS: dict[str, list[tuple[str, str]]] = {
    "numbers": [
        ("27", "27.0"), ("27", "27."), ("27", "+27"), ("27", "027"), ("1000000", "1,000,000"), ("1000000", "10^6"), ("0.5", ".5"),
        ("0.5", "0.50"), ("1234.5", "1,234.5"), ("-3", "−3"), ("-3", "- 3"), ("3 \\times 10^8", "300000000"), ("6.02 \\times 10^{23}", "6.02e23"),
        ("120", "5!"), ("1024", "2^{10}"), ("10", "\\binom{5}{2}"), ("8", "2 \\cdot 4"), ("7", "\\left( 7 \\right)"), ("9", "3^2"),
        ("2", "\\sqrt{4}"), ("5", "|-5|"), ("0", "-0"), ("12345", "12\\,345"), ("11111", "11\\!111"),
    ],
    "fractions": [
        ("\\frac{1}{2}", "1/2"), ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "\\frac12"), ("\\frac{1}{2}", "\\dfrac{1}{2}"), ("\\frac{1}{2}", "\\tfrac 1 2"),
        ("\\frac{1}{2}", "\\frac{2}{4}"), ("\\frac{1}{2}", "½"), ("\\frac{1}{2}", "2^{-1}"), ("-\\frac{3}{4}", "\\frac{-3}{4}"),
        ("-\\frac{3}{4}", "\\frac{3}{-4}"), ("\\frac{7}{4}", "1\\frac{3}{4}"), ("\\frac{7}{4}", "1.75"), ("\\frac{1}{3}", "0.\\overline{3}"),
        ("\\frac{1}{3}", "0.33333333"), ("\\frac{22}{7}", "3\\frac{1}{7}"), ("\\frac{1}{8}", "0.125"), ("\\frac{a}{2}", "\\frac{1}{2}a"),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"), ("\\frac{3}{5}", "6/10"), ("\\frac{1}{6}", "{1 \\over 6}"),
    ],
    "formulas": [
        ("(x+1)^2", "x^2+2x+1"), ("2(x+y)", "2x+2y"), ("x^2-1", "(x-1)(x+1)"), ("\\sin^2 x + \\cos^2 x", "1"), ("\\sqrt{12}", "2\\sqrt{3}"),
        ("\\log_2 8", "3"), ("\\ln e", "1"), ("e^{i\\pi}", "-1"), ("\\sqrt[3]{27}", "3"), ("\\frac{x^2}{x}", "x"), ("a^{m}a^{n}", "a^{m+n}"),
        ("\\tan x", "\\frac{\\sin x}{\\cos x}"), ("n(n+1)/2", "\\frac{n^2+n}{2}"), ("3+4i", "4i+3"), ("2\\pi", "6.283185307"), ("x y", "yx"),
        ("\\frac{\\pi}{4}", "\\pi/4"), ("\\cos 60^\\circ", "0.5"), ("2^{n+1}", "2 \\cdot 2^n"), ("-x+1", "1-x"), ("5\\sqrt{5}", "5^{3/2}"),
        ("\\sum_{k=1}^{4} k", "10"), ("4!", "24"),
    ],
    "intervals": [
        ("(1, 2)", "1 < x < 2"), ("[1, 2]", "1 \\le x \\le 2"), ("(1, 2]", "x \\in (1, 2]"), ("(-\\infty, 3)", "x < 3"), ("[3, \\infty)", "x \\ge 3"),
        ("(0, \\infty)", "x > 0"), ("(1,2)\\cup(3,4)", "(3,4)\\cup(1,2)"), ("[0,1]", "[0, 1.0]"), ("(1, 2]", "\\left(1,2\\right]"),
        ("(-\\infty, 0) \\cup (0, \\infty)", "x \\ne 0"), ("x \\ge 3", "3 \\le x"),
        ("(-\\infty,-2]\\cup[2,\\infty)", "x \\le -2 \\text{ or } x \\ge 2"), ("[\\frac12, 1]", "[0.5, 1]"),
    ],
    "sets, lists and tuples": [
        ("1, 2, 3", "3, 2, 1"), ("\\{1, 2\\}", "\\{2, 1\\}"), ("1, 2", "\\{1, 2\\}"), ("1, 2", "1 and 2"), ("1, 2", "x = 1 \\text{ or } x = 2"),
        ("\\pm 2", "2, -2"), ("(1, 2)", "\\left(1, 2\\right)"), ("(1, 2)", "(1.0, 4/2)"), ("(1,2), (3,4)", "(3,4), (1,2)"), ("1,2", "1;2"),
        ("1 \\pm \\sqrt{2}", "1 + \\sqrt{2}, 1 - \\sqrt{2}"), ("\\{0\\}", "0"), ("(0.5, 1)", "(\\frac12, 1)"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}"), ("-1, 1", "\\{1,-1\\}"), ("\\emptyset", "\\{\\}"),
        ("(\\sqrt{4}, 3)", "(2, 3)"),
    ],
    "units": [
        ("5 \\text{ cm}", "5"), ("5", "5 \\text{ cm}"), ("5 \\text{ cm}", "5cm"), ("5 \\text{ cm}", "5 centimeters"), ("10\\text{ m}^2", "10 square meters"),
        ("90^\\circ", "90°"), ("90^\\circ", "90"), ("\\$5", "5 dollars"), ("\\$5.00", "5"), ("60 \\text{ mph}", "60 miles per hour"),
        ("3 \\text{ hours}", "3 h"), ("12 \\text{ apples}", "12"), ("5 \\text{ m/s}", "5 \\text{ meters per second}"), ("72", "72 \\text{ ways}"),
        ("20 \\text{ kg}", "20 kilograms"),
    ],
    "percent": [
        ("25\\%", "0.25"), ("25\\%", "\\frac14"), ("25\\%", "25"), ("25\\%", "25 percent"), ("150\\%", "1.5"), ("12.5\\%", "12.5 \\%"), ("0.1", "10\\%"),
        ("33\\frac{1}{3}\\%", "\\frac{1}{3}"),
    ],
    "equations": [
        ("x = 5", "5"), ("5", "x=5"), ("y = 2x + 3", "y = 3 + 2x"), ("y = 2x + 3", "2x - y + 3 = 0"), ("x^2+y^2=4", "y^2 + x^2 = 4"), ("42", "x + y = 42"),
        ("2x + 4y = 6", "x + 2y = 3"), ("f(x) = x + 1", "x + 1"), ("x = \\frac12", "x = 0.5"), ("y = x^2", "x^2"), ("5", "2 + 3 = 5"),
    ],
    "words and letters": [
        ("\\text{Evelyn}", "Evelyn"), ("\\text{even}", "Even"), ("\\text{(B)}", "B"), ("\\text{(B)}", "\\textbf{(B)}"), ("\\text{Yes}", "yes"),
        ("\\text{no solution}", "No solution."), ("\\text{Monday}", "monday"), ("\\mathrm{red}", "\\text{red}"), ("\\text{True}", "true"),
    ],
}  # fmt: skip

# right when the first is the gold; as a gold the second asks for more (a letter's value, an equation)
ONE_WAY = {("3 \\text{ hours}", "3 h"), ("42", "x + y = 42"), ("5", "2 + 3 = 5")}
