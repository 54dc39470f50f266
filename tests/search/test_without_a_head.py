"""Models without a head, and models that reason in their response: solved by agreement or probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reflective import EngineError, InputError, Problem, Reflective, Scripted, ScriptedEngine
from reflective.engines.scripted import WHOLE_RESPONSE


def engine(*scripts: Scripted, scored: bool = False, **options: int) -> ScriptedEngine:
    return ScriptedEngine(list(scripts), scored=scored, format=WHOLE_RESPONSE, **options)


def says(answer: str, logprob: float = -1.0) -> Scripted:
    return Scripted(f"First a step.\n\nSo it is \\boxed{{{answer}}}", logprob=logprob)


def test_the_most_frequent_answer_is_the_default_and_no_confidence_is_claimed() -> None:
    solution = Reflective(engine(says("4"), says("5", -0.1), says("4"))).solve("what", effort=3)
    assert (solution.strategy, solution.answer, solution.confidence) == ("majority", "4", None)
    assert [t.finish_reason for t in solution.trajectories] == ["eos"] * 3  # nothing is continued
    assert solution.best is not None and solution.best.answer_text.startswith("First a step.")
    assert solution.best.thinking == ""


def test_without_final_answers_the_most_probable_response_is_chosen() -> None:
    prose = [Scripted("The sea is calm tonight", logprob=p) for p in (-2.0, -0.5, -1.0)]
    solution = Reflective(engine(*prose)).solve("a line of verse", effort=3)
    assert solution.selected == 1 and solution.answer is None
    assert any("most probable" in note for note in solution.notes)


def test_selection_by_log_probability_can_be_asked_for() -> None:
    solution = Reflective(engine(says("4"), says("5", -0.1), says("4"))).solve("what", effort=3, strategy="logprob")
    assert (solution.strategy, solution.answer, solution.selected) == ("logprob", "5", 1)


@pytest.mark.parametrize("strategy", ["best_of_n", "weighted"])
def test_strategies_that_rest_on_scores_are_refused_and_name_the_others(strategy: str) -> None:
    model = Reflective(engine(says("4")))
    with pytest.raises(EngineError, match=rf"'{strategy}' selects by step scores.*strategy majority, logprob"):
        model.solve("what", strategy=strategy)


def test_a_response_that_was_cut_never_votes() -> None:
    cut = Scripted("It is \\boxed{9} or so", endless=True)
    solution = Reflective(engine(cut, says("4"), cut)).solve("what", effort=3, max_tokens=12)
    assert solution.answer == "4" and [t.answer for t in solution.trajectories] == [None, "4", None]
    assert solution.trajectories[0].answer_text == "" and "9" in solution.trajectories[0].thinking
    assert "2 of 3 responses were not finished" in solution.notes[0]


def test_an_answer_that_was_cut_is_none() -> None:
    script = Scripted("one.\n\n</think>It is \\boxed{9} at least", endless=True, logits=[1.0])
    solution = Reflective(ScriptedEngine([script])).solve("what", effort=1, answer_tokens=6)
    assert solution.answer is None and solution.best is not None and "9" in solution.best.answer_text


def test_a_whole_response_is_scored_to_its_end() -> None:
    script = [
        Scripted("a step.\n\nso \\boxed{4}", logits=[2.0, -1.0]),
        Scripted("b.\n\nso \\boxed{5}", logits=[1.0, 1.0]),
    ]
    solution = Reflective(engine(*script, scored=True)).solve("what", effort=2)
    assert [len(t.steps) for t in solution.trajectories] == [2, 2]
    assert [t.steps[-1].position for t in solution.trajectories] == [t.tokens - 1 for t in solution.trajectories]
    assert (solution.strategy, solution.answer) == ("weighted", "5")  # geometric means 0.49 and 0.73


def scored(answer: str, logit: float) -> Scripted:
    return Scripted(f"a step.\n\nso \\boxed{{{answer}}}", logits=[logit, logit])


def test_with_scores_the_votes_of_whole_responses_are_weighed_for_all_of_them_state_an_answer() -> None:
    model = Reflective(engine(scored("4", 0.5), scored("5", 1.0), scored("4", 0.4), scored=True))
    assert model.solve("what", effort=3).answer == "4"
    assert model.solve("what", effort=3, strategy="best_of_n").answer == "5"
    marks = Reflective(ScriptedEngine([Scripted("a.\n\n</think>so \\boxed{4}", logits=[1.0])]))
    assert marks.plan()[1].name == "best_of_n"  # where an answer costs tokens of its own


def test_without_final_answers_to_vote_on_scores_that_were_learned_from_such_do_not_decide() -> None:
    drawn = ((0.1, -1.0), (2.0, -2.0), (1.0, -0.5))
    prose = [Scripted("The sea is calm tonight", logits=[logit], logprob=logprob) for logit, logprob in drawn]
    solution = Reflective(engine(*prose, scored=True)).solve("a line of verse", effort=3)
    assert (solution.selected, solution.answer, solution.confidence) == (2, None, None)
    assert any("most probable" in note for note in solution.notes)
    alone = Reflective(engine(*prose, scored=True)).solve("a line of verse", effort=1)
    assert alone.notes == ("no final answer was found in the answer's text",), "of one alone nobody expects a vote"


class Chat(ScriptedEngine):
    """An engine that keeps what it was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[list[dict[str, str]]] = []

    def encode_messages(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        self.asked.append([dict(m) for m in messages])
        return self.encode_prompt(messages[-1]["content"])


def test_messages_and_a_system_message_are_what_the_model_reads() -> None:
    made = Chat([says("4")], format=WHOLE_RESPONSE, scored=False)
    model, asked = Reflective(made), made.asked
    turns = [
        {"role": "user", "content": "2?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    solution = model.solve(turns, effort=1)
    assert asked == [turns] and solution.problem.text == "2+2?" and solution.answer == "4"
    model.solve("2+2?", effort=1, system="Be brief.")
    assert asked[1] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    with pytest.raises(InputError, match="given twice"):
        model.solve([{"role": "system", "content": "x"}, *turns], effort=1, system="Be brief.")
    for bad in ([], [{"role": "user"}], ["2+2?"], [{"role": "user", "content": 4}]):
        with pytest.raises(InputError, match="messages must be a list"):
            model.solve(bad, effort=1)  # type: ignore[arg-type]


def test_equal_questions_in_other_conversations_have_seeds_of_their_own() -> None:
    model = Reflective(Chat([says("4")], format=WHOLE_RESPONSE, scored=False))

    def seed(*turns: str) -> int:
        messages = tuple({"role": "user", "content": turn} for turn in turns)
        return model.solve(Problem("2+2?", messages=messages), effort=1).trajectories[0].seed

    assert seed() == seed("2+2?") == model.solve("2+2?", effort=1).trajectories[0].seed
    assert seed("1+1?", "2+2?") != seed()


def test_settings_that_are_not_given_are_the_models_own() -> None:
    from dataclasses import replace

    from reflective.judge.judge import Judge

    made = engine(says("4"))
    made.judge = Judge(replace(made.judge.config, sampling={"temperature": 0.7, "top_p": 0.8}))
    model = Reflective(made)
    assert model.plan()[2].sampling.temperature == 0.7 and model.plan()[2].sampling.top_p == 0.8
    assert model.plan(temperature=0.0)[2].sampling.temperature == 0.0
