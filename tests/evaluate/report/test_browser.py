"""The page in a real browser: everything is drawn, and what a model wrote stays text."""

import shutil
import subprocess

import pytest

from reflective import Problem, Scripted, ScriptedEngine
from reflective.evaluate.report import page, read_runs
from reflective.evaluate.run import Plan, run_benchmark
from reflective.search import BestOfN, Prune, Settings

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]


def script(prompt, index, seed):
    answer = "4" if seed % 3 else ATTACK
    return Scripted(f"{ATTACK} one.\n\ntwo.\n\n</think>{ATTACK}\\boxed{{{answer}}}", [1.0 if seed % 3 else -1.0, 0.5])


def drawn(path, tmp_path):
    """The page's elements after its script has run."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_plots_and_problems_are_drawn_and_nothing_hostile_runs(tmp_path):
    rows = [
        Problem(f"2+2? {ATTACK} {i}", "4", id=f"p{i}", family=ATTACK if i % 2 else "sum", kind="exact")
        for i in range(6)
    ]
    plan = Plan(4, BestOfN("all"), Settings(max_tokens=200), {"name": ATTACK})
    for name in ("one", "two"):
        run_benchmark(ScriptedEngine(script, name=name), rows, plan, tmp_path / name)
    runs = read_runs([tmp_path / "one", tmp_path / "two"])
    path = tmp_path / "report.html"
    path.write_text(page(runs, title="a report"), encoding="utf-8")
    dom = drawn(path, tmp_path)
    assert "<title>a report</title>" in dom and "<img" not in dom
    assert dom.count("<svg") == dom.count('<article class="fig') >= 12
    assert dom.count('<span class="tally">') == 6  # the list of problems, which the script fills last
    assert dom.count('class="step"') >= 2 and "&lt;img src=x" in dom


def test_what_was_let_go_says_at_which_token_and_why(tmp_path):
    plan = Plan(4, Prune(every=4, marks=(4,), survivors=1), Settings(max_tokens=90), {"name": "x"})
    engine = ScriptedEngine([Scripted("Go.\n\n" + " on" * 9 + "</think>\\boxed{4}", [float(i)]) for i in range(4)])
    run_benchmark(engine, [Problem("q?", "4", id="a")], plan, tmp_path / "run")
    path = tmp_path / "report.html"
    path.write_text(page(read_runs([tmp_path / "run"])), encoding="utf-8")
    dom = drawn(path, tmp_path)
    assert dom.count("tokens · token 4: pruned") == 2 == dom.count(">let go<")


def test_text_is_written_in_its_own_direction(tmp_path):
    hebrew = "\u05db\u05de\u05d4 \u05d4\u05dd 12?"
    engine = ScriptedEngine([Scripted(f"{hebrew}.\n\n</think>{hebrew} \\boxed{{4}}", [1.0])])
    plan = Plan(1, BestOfN("all"), Settings(max_tokens=90), {"name": "x"})
    run_benchmark(engine, [Problem(hebrew, "4", id="a")], plan, tmp_path / "run")
    path = tmp_path / "report.html"
    found = "document.querySelectorAll('[dir=auto]')"
    told = f"<script>document.title = Array.from({found}, (e) => `${{e.className}}:${{getComputedStyle(e).direction}}`)"
    path.write_text(f"{page(read_runs([tmp_path / 'run']))}{told}</script>", encoding="utf-8")
    title = drawn(path, tmp_path).partition("<title>")[2].partition("</title>")[0]
    assert title == "t:rtl,problem:rtl,:ltr,:ltr,ans:ltr,think:rtl,said:rtl"
