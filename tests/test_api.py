"""The front door: `Reflective`, and how a solution is shown."""

import json
from html.parser import HTMLParser

import pytest

from reflective import CheckpointError, EngineError, InputError, Problem, Reflective, Scripted, ScriptedEngine
from reflective.render import percent, score_block, score_color, strip
from reflective.search import Majority, Solved, solve, solve_many, stream

SCRIPT = [
    Scripted("one <b>.\n\ntwo.\n\n</think>\\boxed{4}", logits=[2.0, -1.0]),
    Scripted("three.\n\n</think>\\boxed{5}", logits=[1.0]),
]


def model(**options):
    return Reflective(ScriptedEngine(SCRIPT, **options))


def test_solve_takes_effort_and_strategy_by_name_or_number():
    assert len(model().solve("what", effort="low").trajectories) == 2
    assert len(model().solve("what").trajectories) == 8
    solution = model().solve("what", effort=3, strategy="majority")
    assert (solution.strategy, solution.effort, solution.answer) == ("majority", 3, "4")
    assert model().solve("what", strategy=Majority(), effort=3).answer == "4"


def test_stream_ends_in_the_solution():
    *_, last = model().stream("what", effort=2)
    assert isinstance(last, Solved) and last.solution.answer == "5"


def test_solve_many_pairs_problems_with_solutions():
    outcomes = dict(model().solve_many(["a", "b", "c"], effort=2))
    assert {problem: solution.answer for problem, solution in outcomes.items()} == dict.fromkeys("abc", "5")


def test_options_reach_the_engine():
    seen = []

    class Spy(ScriptedEngine):
        def submit(self, request):
            seen.append(request)
            return super().submit(request)

    Reflective(Spy(SCRIPT)).solve(
        "what", effort=1, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, max_tokens=9, seed=3
    )
    sampling = seen[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 4, 0.1)
    assert seen[0].max_tokens == 9 and seen[0].seed != 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"efort": 3}, "Did you mean 'effort'"),
        ({"effort": "ultra"}, "low"),
        ({"strategy": "beams"}, "majority"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature is inf; it must be 0 .greedy. or more, at most 100"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"max_tokens": "many"}, "max_tokens is 'many'; it must be 1 or more"),
        ({"system": 5}, "system is 5; it must be a text"),
        ({"answers": "none"}, "'selected' or 'all'"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options, message):
    front = model()
    with pytest.raises(InputError, match=message):
        front.solve("what", **options)
    with pytest.raises(InputError, match=message):
        front.stream("what", **options)
    assert front.engine.submitted == 0


def test_an_unknown_engine_is_refused_before_a_model_is_loaded():
    with pytest.raises(InputError, match="unknown engine 'steam'"):
        Reflective.from_pretrained("no/such/model", engine="steam")


@pytest.mark.parametrize("threads", [0, 1.5, "two", 100_000_000])
def test_threads_that_no_machine_has_are_refused(threads):
    with pytest.raises(InputError, match="threads is "):
        Reflective.from_pretrained("nano", threads=threads)


@pytest.mark.parametrize("problem", [5, None, Problem(5), "half \ud800", [{"role": "user", "content": "\ud800"}]])
def test_what_is_no_problem_is_refused(problem):
    with pytest.raises(InputError):
        model().solve(problem)


def test_close_closes_the_engine():
    with model() as front:
        engine = front.engine
    assert engine.closed


def test_the_json_object_has_the_promised_keys():
    data = json.loads(json.dumps(model().solve("what", effort=2).to_json(), allow_nan=False))
    assert list(data) == [
        "version", "problem", "answer", "answer_text", "confidence", "effort", "strategy", "selected", "trajectories",
        "usage", "timing", "model", "seed", "notes", "interrupted",
    ]  # fmt: skip
    assert list(data["trajectories"][0]) == [
        "index", "thinking", "answer_text", "answer", "steps", "score", "tokens", "finish_reason", "parent", "at",
    ]  # fmt: skip
    assert data["trajectories"][0]["steps"][0] == {"text": "one <b>.", "score": pytest.approx(0.8808, abs=1e-4)}
    assert set(data["usage"]) == {"prompt_tokens", "completion_tokens"} and data["effort"] == 2


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_balanced_and_everything_is_escaped():
    engine = ScriptedEngine(
        [Scripted('<script>alert("x")</script>.\n\n</think><img src=x> \\boxed{<i>}', logits=[0.0])]
    )
    page = solve(engine, "</div><script>", 1)._repr_html_()
    checker = Balanced()
    checker.feed(page)
    assert checker.open == [] and not checker.seen & {"script", "img", "i"}
    assert "&lt;script&gt;" in page


def test_a_solution_prints_its_answer_confidence_and_rows():
    text = str(model().solve("what", effort=2))
    assert "answer      5" in text and "confidence  unknown" in text
    assert sum("tokens  " in line for line in text.splitlines()) == 2


def test_scores_have_heights_and_colours():
    assert [score_block(s) for s in (0.0, 0.5, 0.99, 1.0)] == ["▁", "▅", "█", "█"]
    assert score_color(0.0)[0] > score_color(0.0)[1] and score_color(1.0)[1] > score_color(1.0)[0]
    assert strip([1.0] * 50, width=10) == "…" + "█" * 9


@pytest.mark.parametrize(
    ("confidence", "text"),
    [
        (None, "unknown"),
        (0.0, "0 %"),
        (0.004, "under 1 %"),
        (0.62, "62 %"),
        (0.999, "over 99 %"),
        (1.0, "100 %"),
    ],
)
def test_confidence_for_a_human(confidence, text):
    assert percent(confidence) == text


def test_an_engine_without_scoring_of_given_text_says_so():
    with pytest.raises(EngineError, match="can't score given text"):
        model().score(prompt="a", response="b")


@pytest.mark.parametrize(
    "given", [{}, {"prompt": "a"}, {"response": "a"}, {"prompt": "a", "messages": [], "response": "b"}]
)
def test_score_wants_one_prompt_and_one_response(given):
    with pytest.raises(InputError, match="exactly one|either"):
        model().score(**given)


class TestWithATinyModel:
    @pytest.fixture(scope="class")
    def front(self, tiny_checkpoint_folder):
        return Reflective.from_pretrained(str(tiny_checkpoint_folder("qwen2")), dtype="float32", device="cpu")

    def test_a_folder_solves_and_repeats_itself(self, front):
        one, two = (front.solve("What is 2 + 2?", effort=3, max_tokens=24, answer_tokens=8, seed=5) for _ in range(2))
        assert one.trajectories == two.trajectories and one.answer == two.answer
        assert one.usage == two.usage and len(one.trajectories) == 3

    def test_scoring_again_what_was_written_gives_the_same_scores(self, front):
        prompt = front.engine.encode_prompt("What is 2 + 2?")
        text = front.engine.tokenizer.encode("a.\n\nb.\n\nc</think>4", add_special_tokens=False)
        by_ids = front.score(prompt_ids=prompt, response_ids=text)
        by_text = front.score(
            messages=[{"role": "user", "content": "What is 2 + 2?"}], response="a.\n\nb.\n\nc</think>4"
        )
        assert by_ids == by_text and len(by_ids.step_scores) == 2
        assert by_ids.score == pytest.approx((by_ids.step_scores[0] * by_ids.step_scores[1]) ** 0.5)

    def test_a_response_that_opens_the_thinking_itself_opens_it_once(self, front):
        messages = [{"role": "user", "content": "What is 2 + 2?"}]
        bare = front.score(messages=messages, response="a.\n\nb.\n\n</think>4")
        opened = front.score(messages=messages, response="<think>\na.\n\nb.\n\n</think>4")  # as in the template
        assert opened.step_scores == pytest.approx(bare.step_scores, abs=1e-6) and len(bare.step_scores) == 2
        assert opened.step_positions == tuple(position + 2 for position in bare.step_positions)

    def test_raw_text_is_taken_as_it_is(self, front):
        scored = front.score(prompt="Q: 2+2?\n<think>", response="a.\n\nb.\n\n</think>4")
        assert len(scored.step_positions) == 2
        assert front.score(prompt="no thinking", response="a.\n\nb").score is None

    @pytest.mark.parametrize(
        "given",
        [
            {"prompt": 3, "response": "a"},
            {"messages": [], "response": "a"},
            {"messages": [{"role": "user"}], "response": "a"},
            {"prompt_ids": [1, 10**6], "response": "a"},
            {"prompt_ids": [1, -1], "response": "a"},
            {"prompt_ids": "12", "response": "a"},
            {"prompt": "a", "response_ids": [1.5]},
            {"prompt": "half \ud800", "response": "a"},
            {"prompt": "a", "response": "\ud800"},
            {"messages": [{"role": "user", "content": "\ud800"}], "response": "a"},
        ],
    )
    def test_ids_and_messages_are_checked(self, front, given):
        with pytest.raises(InputError):
            front.score(**given)

    def test_a_model_without_a_head_solves_where_no_scores_are_needed(self, tiny_checkpoint_folder, tmp_path):
        import shutil

        folder = tmp_path / "plain"
        shutil.copytree(tiny_checkpoint_folder("qwen2"), folder)
        shutil.rmtree(folder / "sprm")
        with pytest.raises(CheckpointError, match="no SPRM head"):
            Reflective.from_pretrained(str(folder), require_head=True)
        front = Reflective.from_pretrained(str(folder), dtype="float32")
        assert "has no head" in front.engine.remark and "reflective train head" in front.engine.remark
        with pytest.raises(EngineError, match="'best_of_n' selects by step scores.*train head"):
            front.solve("hi", strategy="best_of_n")
        solution = front.solve("hi", effort=2, max_tokens=8, answer_tokens=4)
        assert solution.confidence in (None, 0.0) and all(t.score is None for t in solution.trajectories)
        with pytest.raises(CheckpointError, match="no SPRM head"):
            front.score(prompt="a", response="b")


def test_a_temperature_whose_inverse_is_no_number_is_greedy() -> None:
    model = Reflective.from_pretrained("nano")
    tiny, greedy = (
        model.solve("Find the Least Common Multiple (LCM) of these numbers: 14, 20", effort=1, temperature=t)
        for t in (2.2e-311, 0)
    )
    assert tiny.best.token_ids == greedy.best.token_ids and tiny.answer == "140"


@pytest.mark.parametrize("engine", [None, "nano", 3, ScriptedEngine])
def test_what_is_no_engine_is_refused_by_every_function_that_takes_one(engine):
    calls = (
        lambda: Reflective(engine),
        lambda: solve(engine, "what", 2),
        lambda: list(stream(engine, "what", 2)),
        lambda: list(solve_many(engine, ["what"], 2)),
        lambda: Reflective.from_pretrained(engine=engine),
    )
    for call in calls:
        with pytest.raises(InputError, match="engine is .* it must be an Engine|unknown engine"):
            call()


@pytest.mark.parametrize("source", [None, 3, b"nano"])
def test_a_source_that_names_nothing_is_refused(source):
    with pytest.raises(InputError, match="source is .*; it must be 'nano', a folder"):
        Reflective.from_pretrained(source)
