"""The page with real clicks: what is told is shown, what is written stays text, and the keyboard reaches all of it."""

from __future__ import annotations

import json
import re
import threading

import pytest

from recorded import lane, run, solved

pytestmark = pytest.mark.slow

ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
GOOD = lane(0, [("5 + 7 = 12.", 0.9), ("So $\\frac{1}{2}$ is **it**.", 0.8)], "\\frac{1}{2}")
BAD = lane(1, [("5 + 7 = 12.", 0.9), (f"5 + 7 = 13. {ATTACK}", 0.1)], "13")
ALSO_BAD = lane(2, [("5 - 7 = 13.", 0.2), ("13 it is.", 0.3)], "13")
RUN = run(3, GOOD, BAD, ALSO_BAD, [{"type": "content", "delta": "\\boxed{\\frac{1}{2}}"}])


def ask(page, recorded, problem="What is 1/2?"):
    page.goto(recorded.url)
    page.get_by_label("Problem").fill(problem)
    page.get_by_role("button", name="Solve").click()


def test_an_example_is_asked_and_its_run_shown(page, recorded):
    recorded.events = [*RUN, solved(0, "\\frac{1}{2}", "13")]
    page.goto(recorded.url)
    assert "nano answers problems like these" in page.locator("#examplenote").inner_text()
    page.get_by_role("button", name="countdown").click()
    page.get_by_text("high", exact=False).first.click()
    page.get_by_role("button", name="Solve").click()
    answer = page.get_by_role("region", name="Answer")
    answer.wait_for()
    (asked,) = recorded.asked
    assert asked["messages"][0]["content"].startswith("Using all the numbers 5, 7, 12")
    assert asked["reflective"] == {"events": True, "steps": True, "effort": "high", "answers": "all"}
    assert isinstance(asked["seed"], int) and asked["stream"] is True

    lanes = page.locator("#lanes .lane")
    assert lanes.count() == 3
    label = lanes.nth(0).get_attribute("aria-label")
    assert label == "Trajectory 0, selected: done · 40, 2 steps, score 0.849, answer \\frac{1}{2}"
    assert [cell.get_attribute("class") for cell in lanes.nth(1).locator("i").all()] == ["c9", "c1"]

    told = answer.inner_text()
    assert "85 %" in told and "1,234 written" in told and "1.50 s" in told
    assert "Majority vote would have said 13 (written so by 2 of 3)." in told
    answer.get_by_text("Selections side by side").click()
    table = answer.locator("table", has_text="selection")
    assert [row.inner_text().split("\t") for row in table.locator("tbody tr").all()] == [
        ["best score", "\\frac{1}{2}"],
        ["vote weighted by score", "\\frac{1}{2}"],  # 0.849 to 0.3 + 0.245
        ["majority vote", "13"],
        ["trajectory 0 alone", "\\frac{1}{2}"],
    ]
    answer.locator("math mfrac").wait_for()  # the answer is set, not shown as LaTeX
    page.locator("#detail h2", has_text="Trajectory 0").wait_for()  # the selected one opens by itself
    assert page.locator("#detail .steps math mfrac").count() == 1
    assert page.locator("#detail .steps strong").inner_text() == "it"
    assert page.locator("#detail .badge").all_inner_texts() == ["0.90", "0.80"]


def test_what_a_model_writes_stays_text(page, recorded):
    recorded.events = [*RUN, solved(1, ATTACK, ATTACK, notes=[ATTACK], strategy=ATTACK)]
    ask(page, recorded, ATTACK)
    page.locator("#answer .final p").wait_for()
    page.locator("#detail .text:not(.raw)").first.wait_for()
    assert page.title() == "reflective"
    assert page.locator("img").count() == 0 and page.locator("main script").count() == 0
    assert ATTACK in page.locator("#answer .final").inner_text()


def test_the_leader_is_marked_while_it_leads_and_one_that_is_let_go_is_seen_to_be(page, recorded):
    gone = {"type": "cancelled", "trajectory": 1, "why": "strategy"}
    recorded.events = run(2, lane(0, [("One.", 0.6)], None), lane(1, [("Two.", 0.9)], None), [gone])
    recorded.held["cancelled"] = threading.Event()
    ask(page, recorded)
    page.locator(".lane.leader", has_text="0.900").wait_for()
    recorded.held["cancelled"].set()
    page.locator(".lane.cancelled").wait_for()
    assert page.locator(".lane.leader .index").inner_text().split() == ["▶", "0"]  # the one that is left
    assert "let go" in page.locator(".lane.cancelled").inner_text()
    page.get_by_text("Decisions").click()
    assert "trajectory 1 was let go: strategy" in page.locator("#decisions").inner_text()
    assert "The stream ended without an answer." in page.get_by_role("alert").inner_text()


def test_a_run_can_be_stopped_and_the_server_notices(page, recorded):
    recorded.events = run(1, *[[{"type": "text", "trajectory": 0, "delta": "on and on "}]] * 3000)
    recorded.pause = 0.02
    ask(page, recorded)
    page.locator(".lane.writing").wait_for()
    page.keyboard.press("Escape")
    page.locator(".lane.stopped").wait_for()
    assert page.get_by_role("button", name="Solve").is_visible()
    assert page.locator("#status").inner_text().startswith("stopped · 1 trajectory")
    assert recorded.gone.wait(30)  # the stream alone would go on for a minute


def test_two_trajectories_stand_side_by_side_with_what_they_share(page, recorded):
    recorded.events = [*RUN, solved(0, "\\frac{1}{2}", "13")]
    ask(page, recorded)
    page.locator("#detail h2", has_text="Trajectory 0").wait_for()
    page.locator(".lane").nth(1).click(modifiers=["Shift"])
    page.locator("#detail .opened").nth(1).wait_for()
    assert "The first step is the same in both." in page.locator("#detail").inner_text()
    assert page.locator("#detail li.same").count() == 2
    left, right = (opened.bounding_box() for opened in page.locator("#detail .opened").all())
    assert abs(left["y"] - right["y"]) < 1 and right["x"] > left["x"] + left["width"]
    page.get_by_role("button", name="Close trajectory 0").click()
    assert [t.split() for t in page.locator("#detail h2").all_inner_texts()] == [["Trajectory", "1"]]


def test_many_steps_fold_and_a_long_step_is_cut_until_it_is_asked_for(page, recorded):
    steps = [(f"Step {i}.", 0.5 + i / 100) for i in range(40)]
    steps[20] = ("The low one.", 0.05)
    steps[39] = ("long " * 1000, 0.9)
    recorded.events = [*run(1, lane(0, steps, "4")), solved(0, "4", None)]
    ask(page, recorded)
    page.get_by_role("button", name="Show all 40 steps").wait_for()
    shown = page.locator("#detail .steps .number").all_inner_texts()
    assert shown == ["1", "2", "3", "21", "38", "39", "40"]  # both ends, and the lowest score
    assert "17 steps folded, scores 0.53 to 0.69" in page.locator("#detail").inner_text()
    page.get_by_role("button", name="Show all 40 steps").click()
    assert page.locator("#detail .steps .number").count() == 40
    assert page.get_by_role("button", name="Fold", exact=True).get_attribute("aria-expanded") == "true"
    assert page.locator("#detail .text.long").count() == 1
    page.get_by_role("button", name="Show all 4,999 characters").click()
    assert page.locator("#detail .text.long").count() == 0


def test_a_saved_run_is_loaded_and_replayed_as_it_was(page, recorded, tmp_path):
    recorded.events = [*RUN, solved(0, "\\frac{1}{2}", "13")]
    ask(page, recorded)
    page.locator("#answer .final math").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    file = tmp_path / "run.json"
    download.value.save_as(file)
    saved = json.loads(file.read_text())
    assert [event["type"] for _, event in saved["events"]][:2] == ["id", "started"] and "authorization" not in str(
        saved
    )
    before = page.locator("#lanes").inner_text()

    page.goto(recorded.url)
    page.locator("#file").set_input_files(file)
    page.locator("#answer .final math").wait_for()
    assert page.locator("#lanes").inner_text() == before
    assert page.get_by_label("Problem").input_value() == "What is 1/2?"
    page.get_by_label("Speed of the replay").select_option("10")
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("button", name="Solve").wait_for()
    page.locator("#answer .final math").wait_for()
    assert page.locator("#lanes").inner_text() == before
    assert len(recorded.asked) == 1


def saved(version, *events):
    return json.dumps({"format": "reflective run", "version": version, "events": [[0, event] for event in events]})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "The file is not JSON."),
        ("[1]", "not a saved run"),
        (saved(9), "version 9"),
        (saved(1, {"type": "constructor"}), "does not know"),
        (saved(1, {"type": "started", "k": 1e9}), "odd number"),
        (saved(1, {"type": "text", "trajectory": -1, "delta": ""}), "no trajectory -1"),
        (saved(1, {"type": "step", "trajectory": 0, "score": 7, "running": 1}), "outside 0 to 1"),
        (saved(1, {"type": "text", "delta": "a"}), "no trajectory undefined"),
        (saved(1, {"type": "lost", "events": 1, "trajectory": "constructor"}), "no trajectory constructor"),
        (
            saved(1, {"type": "finished", "trajectory": 0, "reason": "eos", "score": "high"}),
            "step score outside 0 to 1",
        ),
        (saved(1, {"type": "finished", "trajectory": 0, "reason": "eos", "answer": 5}), "finished whose answer"),
        (saved(1, solved(0, "1", "1", confidence="sure")), "solved whose confidence"),
        (saved(1, solved(0, "1", "1", timing={"total_s": "long"})), "solved whose timing"),
        (
            saved(1, solved(0, "1", "1", trajectories=[{"index": 0, "steps": [{"text": {}, "score": 1}]}])),
            "trajectories",
        ),
        (saved(1, solved(0, "1", "1", notes="none")), "solved whose notes"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(page, recorded, content, told):
    page.goto(recorded.url)
    page.locator("#file").set_input_files({"name": "run.json", "mimeType": "", "buffer": content.encode()})
    page.get_by_role("alert").wait_for()
    assert told in page.get_by_role("alert").inner_text()


def test_an_end_that_is_no_end_is_done(page, recorded):
    events = [{"type": "finished", "trajectory": i, "reason": reason} for i, reason in enumerate(["eos", "toString"])]
    told = solved(0, "1", None, trajectories=[{"index": 1, "finish_reason": "constructor"}])
    page.goto(recorded.url)
    file = {"name": "run.json", "mimeType": "", "buffer": saved(1, *run(2, events), told).encode()}
    page.locator("#file").set_input_files(file)
    page.locator("#answer .final").wait_for()
    assert [lane.get_attribute("class") for lane in page.locator("#lanes .lane").all()] == [
        "lane done leader selected",
        "lane done",
    ]


def test_text_is_written_in_its_own_direction(page, recorded):
    """Right to left where the first letter is, each paragraph by itself; what is ours, and formulas, stay."""
    hebrew = "\u05db\u05de\u05d4 \u05d4\u05dd 12?"
    steps = [(f"{hebrew} $x+1$\n\nlike this\n\n- {hebrew}", 0.9)]
    recorded.events = [
        *run(2, lane(0, steps, hebrew), lane(1, steps, "four")),
        solved(0, hebrew, "four"),
    ]
    ask(page, recorded, hebrew)
    page.locator("#answer .final p").wait_for()
    page.locator("#detail .text:not(.raw) math").first.wait_for()

    def directions(selector):
        return page.locator(selector).evaluate_all("all => all.map((one) => getComputedStyle(one).direction)")

    assert directions("#problem, #asked, #answer .final p, #detail .said p") == ["rtl"] * 4
    assert directions("#detail .steps .text > *") == ["rtl", "ltr", "rtl"]
    assert directions("#lanes .tail") == ["rtl", "ltr"] and directions("#answer .vote b, #status") == ["ltr", "ltr"]
    assert set(directions("#detail math")) == {"ltr"}


def test_long_words_do_not_widen_the_page(page, recorded):
    word, other = "x" * 3000, "\u202e" + "y" * 3000
    recorded.events = [
        *run(2, lane(0, [(word, 0.9)], word), lane(1, [(word, 0.8)], other)),
        solved(0, word, other, notes=[word], strategy=word),
    ]
    ask(page, recorded, word)
    page.locator("#answer .final").wait_for()
    for name in ("Selections side by side", "2 answers as they are written", "Decisions"):
        page.get_by_text(name).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_verdict_goes_to_feedback(page, recorded):
    recorded.events = [*RUN, solved(0, "\\frac{1}{2}", "13")]
    ask(page, recorded)
    page.get_by_role("button", name="The answer is wrong").click()
    page.get_by_text("Stored.").wait_for()
    assert recorded.feedback == [{"id": "chatcmpl-1", "verdict": "wrong"}]


def test_a_key_is_asked_for_where_there_are_keys(page, recorded):
    recorded.key = "a-key"
    recorded.events = [*RUN, solved(0, "\\frac{1}{2}", "13")]
    page.goto(recorded.url)
    page.get_by_label("Key", exact=True).fill("another")
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("dialog").wait_for()  # asked again
    page.get_by_label("Key", exact=True).fill("a-key")
    page.get_by_role("button", name="Use it").click()
    page.locator("#model", has_text="nano").wait_for()
    page.get_by_label("Problem").fill("1/2?")
    page.keyboard.press("Control+Enter")
    page.locator("#answer .final math").wait_for()


def test_the_keyboard_alone_moves_opens_and_compares(page, recorded):
    recorded.events = [*RUN, solved(2, "13", "13")]
    page.goto(recorded.url)
    page.get_by_label("Problem").fill("x")
    page.keyboard.press("Control+Enter")
    page.locator("#detail h2", has_text="Trajectory 2").wait_for()
    page.locator(".lane[tabindex='0']").focus()  # the open one is the one that Tab reaches
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.locator("#detail h2", has_text="Trajectory 0").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("c")
    page.locator("#detail h2", has_text="Trajectory 1").wait_for()
    assert page.locator("#detail .opened").count() == 2


def test_order_by_score_puts_the_best_first_and_what_was_let_go_last(page, recorded):
    gone = {"type": "cancelled", "trajectory": 0, "why": "strategy"}
    recorded.events = [*RUN, gone, solved(1, "13", "13")]
    ask(page, recorded)
    page.locator("#answer:not([hidden])").wait_for()
    page.get_by_label("Order").select_option("score")
    page.locator("#lanes li:first-child .lane[aria-label^='Trajectory 1']").wait_for()
    labels = [node.get_attribute("aria-label") for node in page.locator(".lane").all()]
    assert [re.search(r"\d", label)[0] for label in labels] == ["1", "2", "0"]


def test_another_model_has_no_examples_and_the_page_says_so(page, recorded):
    recorded.model = "somebody's"
    page.goto(recorded.url)
    page.get_by_text("There are no examples for this model").wait_for()
    assert page.locator("#examples button").count() == 0


def test_lost_events_are_made_up_for_by_the_outcome(page, recorded):
    fates = [{"index": 0, "score": 0.6, "finish_reason": "eos", "tokens": 9, "answer": "4"}]
    fates[0]["steps"] = [{"text": "One.", "score": 0.9}, {"text": "Two.", "score": 0.4}]
    lost = {"type": "lost", "events": 7}
    recorded.events = [*run(1, lane(0, [("One.", 0.9)], None), [lost]), solved(0, "4", None, trajectories=fates)]
    ask(page, recorded)
    page.locator("#detail .steps .number").nth(1).wait_for()
    assert page.locator("#detail .badge").all_inner_texts() == ["0.90", "0.40"]
    assert page.locator(".lane i").count() == 2


def test_without_scores_the_first_trajectory_is_open_and_a_cut_response_is_no_headline(page, recorded):
    written = [{"type": "text", "trajectory": i, "delta": f"Response {i} that goes on"} for i in range(2)]
    cut = [{"type": "finished", "trajectory": i, "reason": "length", "score": None, "tokens": 5} for i in range(2)]
    content = [{"type": "content", "delta": "Response 0 that goes on"}]
    recorded.events = [*run(2, written, cut, content), solved(None, None, None, score=None)]
    ask(page, recorded)
    page.locator("#answer .text").get_by_text("Response 0 that goes on").wait_for()
    assert page.locator("#answer .final").count() == 0
    assert page.locator("#detail h2").all_inner_texts() == ["Trajectory 0"]
    assert page.locator("#detail .live").inner_text() == "Response 0 that goes on"
    assert page.locator(".lane .tail").all_inner_texts() == ["Response 0 that goes on", "Response 1 that goes on"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_inaccessible(page, recorded, axe, scheme, width):
    gone = {"type": "cancelled", "trajectory": 2, "why": "strategy"}
    recorded.events = [*RUN, gone, solved(0, "\\frac{1}{2}", "13", notes=["a note"])]
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    ask(page, recorded)
    page.locator("#answer .final math").wait_for()
    page.get_by_role("button", name="Compare").click()
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate(axe)  # not as a script element, which the content-security policy forbids
    result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in result["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
