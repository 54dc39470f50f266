"""The report: the same figures everywhere, one file that fetches nothing, and nothing of a model's making runs."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from reflective import InputError, Problem, Scripted, ScriptedEngine, read_records
from reflective.evaluate.report import markdown, page, paired_tests, read_runs, write_plots
from reflective.evaluate.report.browse import problems_to_show, steps_of
from reflective.evaluate.report.figures import figures
from reflective.evaluate.report.page import embedded
from reflective.evaluate.run import Plan, run_benchmark
from reflective.records import TrajectoryRecord
from reflective.records.manifest import RECORDS
from reflective.search import BestOfN, Prune, Settings

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 <!-- & `|` ]]> {{ 7*7 }} {% raw %}"


def script(prompt, index, seed):
    right = (seed >> 5) % 3 > 0
    return Scripted(
        f"one {HOSTILE}.\n\ntwo.\n\n</think>{HOSTILE} \\boxed{{{4 if right else HOSTILE}}}",
        [0.5 + right + (seed % 7) / 9, -1.0 + right],
    )


def solve(folder, *, name="model", problems=9, **changes):
    rows = [
        Problem(
            f"2+2? {i} {HOSTILE}",
            "4",
            id=f"p{i}{HOSTILE if i == 0 else ''}",
            family=["sum", HOSTILE][i % 2],
            kind="exact",
            metadata={"level": i % 3},
        )
        for i in range(problems)
    ]
    plan = Plan(
        **(
            {
                "effort": 4,
                "strategy": BestOfN("all"),
                "settings": Settings(max_tokens=300),
                "benchmark": {"name": HOSTILE},
            }
            | changes
        )
    )
    run_benchmark(ScriptedEngine(script, name=name), rows, plan, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return solve(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return solve(tmp_path_factory.mktemp("runs") / "two", name=HOSTILE, settings=Settings(seed=5, max_tokens=300))


class Reader(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._open = tag

    def handle_data(self, data):
        if self._open == "script" and data.strip():
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._open = None


def data_of(text):
    return json.loads(Reader(text).scripts[0])


def test_nothing_that_a_model_wrote_is_markup(folder, other):
    text = page(read_runs([folder, other]), title=HOSTILE)
    reader = Reader(text)
    assert reader.tags.count("script") == 2 and "img" not in reader.tags and len(reader.scripts) == 2
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "49" not in re.findall(r"<title>(.*?)</title>", text)[0]
    # the data come back as they were
    shown = data_of(text)["runs"][0]["problems"]
    assert any(HOSTILE in p["text"] for p in shown) and any(
        HOSTILE in str(t["answer"]) or t["answer"] == "4" for t in shown[0]["trajectories"]
    )


def test_the_script_puts_no_text_into_markup():
    from importlib import resources

    code = (resources.files("reflective.evaluate.report") / "page.js").read_text()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttp",
        "import(",
    ):
        assert word not in code


def test_the_page_fetches_nothing(folder):
    text = page(read_runs([folder]))
    reader = Reader(text)
    assert not {"link", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert [v for n, v in reader.attributes if n in ("src", "href") and not v.startswith("#")] == []
    assert "url(" not in text.split("<main")[0] and "@import" not in text
    assert "default-src 'none'" in text


def test_json_in_a_page_is_json_and_no_markup():
    data = {"a": HOSTILE, "b": [float("nan"), 1.5, float("inf")], "c": None}
    text = embedded(data)
    assert "<" not in text and ">" not in text and "&" not in text and "\u2028" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": [None, 1.5, None], "c": None}


def test_markdown_holds_the_figures_and_no_markup(folder, other):
    runs = read_runs([folder, other])
    text = markdown(runs, {"plot": "plots/x.png"})
    assert "<script" not in text and "<img" not in text and "![plot](plots/x.png)" in text
    assert f"{runs[0].summary.curves['best_of_n'].last.value:.3f}" in text
    assert "Is one better?" in text and "AUC within problems" in text
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) > 2
    json.dumps(text)


def test_figures_are_those_of_the_summary(folder):
    (run,) = read_runs([folder])
    found = {f.id: f for f in figures([run])}
    assert {
        "accuracy",
        "selection",
        "scaling",
        "histogram",
        "roc",
        "reliability_score",
        "by_family",
        "by_level",
    } <= set(found)
    curve = next(s for s in found["accuracy"].series if s.id == "best_of_n")
    assert curve.y == tuple(p.value for p in run.summary.curves["best_of_n"].points) and curve.x == (1, 2, 3, 4)
    tokens = run.summary.figures["tokens_per_trajectory"].value
    assert found["scaling"].series[0].x == pytest.approx([k * tokens for k in (1, 2, 3, 4)])
    for s in found["histogram"].series:
        assert sum(s.y) == pytest.approx(1.0)
    assert {s.id for s in found["by_level"].series} >= {"single", "best_of_n", "oracle"}
    assert found["by_level"].categories == ("0", "1", "2")
    drawn = {f["id"]: f for f in data_of(page([run]))["figures"]}
    assert drawn["accuracy"]["series"][1]["y"] == pytest.approx(curve.y, rel=1e-4)


def test_every_plot_is_an_image_and_a_table(folder, other, tmp_path):
    pytest.importorskip("matplotlib")
    runs = read_runs([folder, other])
    wanted = [f for f in figures(runs) if f.id in ("accuracy", "by_family", "histogram", "runs_scaling")]
    written = write_plots(wanted, tmp_path / "plots")
    assert len(written) == len(wanted) == 7
    for path in written.values():
        image = tmp_path / path
        assert image.read_bytes().startswith(b"\x89PNG") and image.stat().st_size > 5000
        rows = list(csv.DictReader(image.with_suffix(".csv").open(encoding="utf-8")))
        assert rows and set(rows[0]) == {"series", "x", "y", "low", "high"}


def test_a_run_without_a_right_answer_has_its_plots(tmp_path):
    """Selection, given that a right one is there, is undefined then: there is no such figure, and no empty one."""
    pytest.importorskip("matplotlib")
    plan = Plan(2, BestOfN("all"), Settings(max_tokens=30), {"name": "x"})
    engine = ScriptedEngine(lambda prompt, index, seed: Scripted("one.\n\n</think>\\boxed{3}", [0.5]))
    run_benchmark(engine, [Problem("q?", "4", id="a", kind="exact")], plan, tmp_path / "run")
    drawn = figures(read_runs([tmp_path / "run"]))
    assert "accuracy" in {f.id for f in drawn} and "selection" not in {f.id for f in drawn}
    assert len(write_plots(drawn, tmp_path / "plots")) == len(drawn)


def test_runs_are_compared_over_common_problems(folder, other, tmp_path):
    a, b = read_runs([folder, other])
    tests = paired_tests(a, b)
    assert tests["chosen"].problems == 9
    mean = a.table.right.mean() - b.table.right.mean()
    assert tests["single"].difference == pytest.approx(mean)
    assert paired_tests(b, a)["single"].difference == pytest.approx(-mean)
    fewer = solve(tmp_path / "few", problems=4, effort=2)
    (c,) = read_runs([fewer])
    assert paired_tests(a, c)["best_of_n"].problems == 4
    assert tests["chosen"].sentence(a.name, b.name) in page([a, b]) or "&#" in page([a, b])


def test_a_run_in_which_nothing_finished_says_why_above_its_figures(tmp_path):
    (run,) = read_runs([solve(tmp_path / "cut", problems=2, settings=Settings(max_tokens=2))])
    assert run.notes[0].startswith("no response was finished within max_tokens (2)")
    assert page([run]).index(run.notes[0]) < page([run]).index('<div class="tile">')


def test_an_unfinished_run_says_so_and_an_empty_one_is_refused(folder, tmp_path):
    import shutil

    part = tmp_path / "part"
    shutil.copytree(folder, part)
    kept = (part / RECORDS).read_bytes().splitlines(keepends=True)
    (part / RECORDS).write_bytes(b"".join(kept[:3]) + kept[3][:50])
    (run,) = read_runs([part])
    assert any("3 of 9 problems" in note for note in run.notes) and any("cut off" in note for note in run.notes)
    (part / RECORDS).write_bytes(b"")
    with pytest.raises(InputError, match="no record yet"):
        read_runs([part])
    with pytest.raises(InputError, match="named twice"):
        read_runs([folder, folder])


def test_the_page_holds_as_many_problems_as_its_budget_allows(folder):
    (run,) = read_runs([folder])
    everything = problems_to_show(run, 10**9)
    assert [p["key"] for p in everything] == list(run.table.keys)
    some = problems_to_show(run, 9000)
    assert 1 <= len(some) < 9 and some == problems_to_show(run, 9000)
    assert len(problems_to_show(run, 1)) == 1


def test_steps_are_cut_where_they_ended(folder):
    record = next(read_records(folder / RECORDS))
    t = record.trajectories[0]
    steps, rest = steps_of(t)
    assert "".join(text for text, _ in steps) + rest == t.thinking and len(steps) == 2
    assert [score for _, score in steps] == pytest.approx(list(t.step_scores))
    guessed, _ = steps_of(replace(t, step_ends=()))
    assert [text.strip() for text, _ in guessed] == [text.strip() for text, _ in steps]
    apart, rest = steps_of(TrajectoryRecord(0, 0, 5, "eos", 0.5, (0.0, 1.0), (1, 2), None, thinking="no ends"))
    assert [text for text, _ in apart] == ["", ""] and rest == "no ends"


def test_a_page_without_scores_answers_or_texts_is_a_page_too(tmp_path):
    def bare(prompt, index, seed):
        return Scripted("hm", endless=True, logprob=None)

    plan = Plan(2, BestOfN("all"), Settings(max_tokens=5), {"name": "x"}, texts=False)
    run_benchmark(
        ScriptedEngine(bare, scored=False), [Problem("q?", None, id="a"), Problem("r?", "1", id="b")], plan, tmp_path
    )
    runs = read_runs([tmp_path])
    assert "nan" not in markdown(runs).lower() and "NaN" not in page(runs).split("<script")[0]
    assert data_of(page(runs))["runs"][0]["problems"][0]["right"] is None


def test_the_page_and_the_figures_say_why_trajectories_were_let_go(tmp_path):
    """Eight rows whose scores rank them; at token 4 the worse half goes, at 8 two more."""

    def ranked(prompt, index, seed):
        return Scripted("Go.\n\n" + " on" * 60 + "</think>\\boxed{4}", logits=[float(index)])

    plan = Plan(8, Prune(every=4, marks=(4, 8), survivors=1), Settings(max_tokens=90), {"name": "x"})
    run_benchmark(ScriptedEngine(ranked), [Problem("q?", "4", id="a"), Problem("r?", "4", id="b")], plan, tmp_path)
    (run,) = read_runs([tmp_path])
    text = page([run])
    shown = {t["index"]: t["let_go"] for t in data_of(text)["runs"][0]["problems"][0]["trajectories"]}
    assert shown[0] == "token 4: pruned: score 0.500 is number 8 of 8, 4 go on"
    assert [bool(shown[i]) for i in range(8)] == [True] * 6 + [False] * 2
    assert run.summary.to_json()["figures"]["pruned"]["value"] == 6 / 8
    assert run.summary.figures["unfinished"].value == 0.0, "what was let go did not run out of tokens"
    assert "stopped_early" not in run.summary.figures and "let go: pruned" in markdown([run])
    assert "trajectories let go: pruned" in text
