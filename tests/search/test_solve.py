"""The whole search, on scripted trajectories."""

import sys
from collections import Counter
from types import FrameType

import pytest

from reflective import ContextError, EngineError, InputError, Problem, Scripted, ScriptedEngine
from reflective.engines.scripted import WHOLE_RESPONSE
from reflective.search import (
    Answering,
    BestOfN,
    Finished,
    Majority,
    Settings,
    Single,
    Solved,
    Started,
    StepScored,
    attempt,
    resolve_effort,
    solve,
    stream,
    trajectory_seed,
)


def thought(answer, *logits):
    """A thinking with a step a logit, and its answer."""
    return Scripted("so it is.\n\n" * len(logits) + f"</think>\n\n\\boxed{{{answer}}}", logits=logits)


SCRIPT = [thought(1, 0.0), thought(2, 3.0), thought(3, 1.0), thought(4, -2.0)]
CUT = Scripted("never done.\n\n", logits=[9.0], endless=True)


class Half:
    """A calibration that halves the evidence."""

    def confidence(self, strategy, evidence, k, *, score=None, mean_logprob=None):
        self.asked = (strategy, k)
        self.told = (score, mean_logprob)
        return None if evidence is None else evidence / 2


def test_best_of_n_answers_only_from_the_best_thinking():
    engine = ScriptedEngine(SCRIPT)
    solution = solve(engine, "what", 4)
    assert (solution.answer, solution.selected, solution.answer_text) == ("2", 1, "\\boxed{2}")
    assert [t.finish_reason for t in solution.trajectories] == ["think_end", "eos", "think_end", "think_end"]
    assert engine.submitted == 5
    assert solution.notes == () and not solution.interrupted and solution.effort == 4


def test_the_prompt_is_paid_once_and_completion_tokens_are_exact():
    engine = ScriptedEngine(SCRIPT)
    solution = solve(engine, "what is it", 4)
    assert solution.usage.prompt_tokens == len(engine.encode_prompt("what is it")) == engine.prefix_paid
    assert solution.usage.completion_tokens == engine.tokens_written == sum(t.tokens for t in solution.trajectories)


def test_answers_all_writes_every_answer_and_chooses_the_same():
    solution = solve(ScriptedEngine(SCRIPT), "what", 4, strategy=BestOfN(answers="all"))
    assert solution.selected == 1
    assert [t.answer for t in solution.trajectories] == ["1", "2", "3", "4"]


def test_majority_writes_every_answer():
    script = [thought(7, 0.0), thought(2, 3.0), thought(7, 1.0)]
    solution = solve(ScriptedEngine(script), "what", 3, strategy=Majority(), calibration=Half())
    assert (solution.answer, solution.selected) == ("7", 2)
    assert solution.confidence == pytest.approx(1 / 3)


def test_confidence_comes_from_the_calibration_and_is_unknown_without():
    calibration = Half()
    solution = solve(ScriptedEngine(SCRIPT), "what", 4, calibration=calibration)
    assert solution.confidence == pytest.approx(solution.trajectories[1].score / 2)
    assert calibration.asked == ("best_of_n", 4)
    assert calibration.told == (solution.best.score, solution.best.mean_logprob)
    assert solve(ScriptedEngine(SCRIPT), "what", 4).confidence is None


@pytest.mark.parametrize("strategy", [BestOfN(), Majority(), Single()])
def test_a_budget_of_one_is_one_trajectory_and_its_answer(strategy):
    engine = ScriptedEngine(SCRIPT)
    solution = solve(engine, "what", 1, strategy=strategy)
    assert (solution.answer, solution.selected, len(solution.trajectories)) == ("1", 0, 1)
    assert engine.submitted == 2


def test_all_unfinished_gives_no_answer_a_note_and_no_confidence():
    solution = solve(ScriptedEngine([CUT]), "what", 3, settings=Settings(max_tokens=12), calibration=Half())
    assert (solution.answer, solution.answer_text, solution.selected, solution.confidence) == (None, "", None, 0.0)
    assert solution.notes == ("no trajectory finished its reasoning within 12 tokens; allow more with max_tokens",)
    assert all(t.finish_reason == "length" for t in solution.trajectories)


def test_whole_responses_that_were_cut_are_called_responses_and_claim_nothing_without_a_calibration():
    script = [Scripted("It goes on", endless=True), Scripted("It is \\boxed{4}.", logits=[1.0])]
    engine = ScriptedEngine(script, format=WHOLE_RESPONSE)
    solution = solve(engine, "what", 1, settings=Settings(max_tokens=12))
    assert solution.notes == ("no response was finished within 12 tokens; allow more with max_tokens",)
    assert (solution.answer, solution.confidence) == (None, None)
    assert solve(engine, "what", 1, settings=Settings(max_tokens=12), calibration=Half()).confidence == 0.0
    solution = solve(engine, "what", 2, settings=Settings(max_tokens=12))
    assert (solution.answer, solution.notes) == ("4", ("1 of 2 responses was not finished within 12 tokens",))


def test_an_unfinished_thinking_is_never_selected_however_high_its_score():
    solution = solve(ScriptedEngine([CUT, thought(5, -3.0)]), "what", 2, settings=Settings(max_tokens=12))
    assert (solution.answer, solution.selected) == ("5", 1)
    assert solution.notes == ("1 of 2 trajectories did not finish its reasoning within 12 tokens",)


def test_no_scored_step_falls_back_to_log_probability():
    script = [Scripted("a</think>\\boxed{1}", logprob=-3.0), Scripted("b</think>\\boxed{2}", logprob=-1.0)]
    solution = solve(ScriptedEngine(script), "what", 2, calibration=Half())
    assert solution.answer == "2" and solution.confidence is None and "log-probability" in solution.notes[0]


def test_an_empty_answer_makes_way_for_the_next_best():
    script = [Scripted("so.\n\n</think>", logits=[5.0]), thought(3, 1.0)]
    solution = solve(ScriptedEngine(script), "what", 2)
    assert (solution.answer, solution.selected) == ("3", 1)


def test_a_cut_answer_and_an_answer_without_a_result_are_noted():
    chatty = Scripted("so.\n\n</think>Well I would say it is hard", logits=[5.0], endless=True)
    solution = solve(ScriptedEngine([chatty]), "what", 1, settings=Settings(answer_tokens=6))
    assert "cut after 6 tokens" in solution.notes[0] and "no final answer" in solution.notes[1]
    assert solution.answer is None and solution.answer_text and solution.confidence is None


def test_the_stream_tells_everything_by_trajectory_index():
    events = list(stream(ScriptedEngine(SCRIPT), "what", 4))
    assert isinstance(events[0], Started) and events[0].k == 4
    assert isinstance(events[-1], Solved) and events[-1].solution.answer == "2"
    assert {event.id for event in events if isinstance(event, StepScored)} == {0, 1, 2, 3}
    assert [event.id for event in events if isinstance(event, Answering)] == [1]
    assert [e.trajectory.finish_reason for e in events if isinstance(e, Finished) and e.id == 1] == ["think_end", "eos"]


def test_the_first_trajectories_of_a_larger_budget_are_those_of_a_smaller_one():
    def script(problem, index, seed):
        return thought(seed % 1000, (seed % 7) - 3.0)

    small = solve(ScriptedEngine(script), "what", 8, strategy=Majority())
    large = solve(ScriptedEngine(script), "what", 32, strategy=Majority())
    assert large.trajectories[:8] == small.trajectories
    assert len({t.seed for t in large.trajectories}) == 32


def test_seeds_are_stable_across_versions_and_differ_by_every_argument():
    assert trajectory_seed(0, 0, "What is 2 + 2?") == 792252970043071136
    seeds = {trajectory_seed(s, i, p) for s in (0, 1) for i in (0, 1) for p in ("a", "b")}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)


def interrupt_at(step, error=KeyboardInterrupt):
    def on_step(number):
        if number == step:
            raise error

    return on_step


def test_an_interrupt_gives_the_best_of_what_is_there():
    script = [thought(1, 0.0), thought(2, 0.0, 3.0, 3.0, 3.0, 3.0), CUT]
    engine = ScriptedEngine(script, on_step=interrupt_at(10))
    solution = solve(engine, "what", 3)
    assert solution.interrupted and solution.selected == 0 and solution.answer is None
    assert [t.finish_reason for t in solution.trajectories] == ["think_end", "cancelled", "cancelled"]
    assert solution.trajectories[1].tokens == 10 and "stopped" in solution.notes[0]
    assert not engine.busy


def test_an_interrupt_keeps_the_answers_that_are_written():
    script = [thought(1, 0.0), CUT]
    engine = ScriptedEngine(script, on_step=interrupt_at(20))
    solution = solve(engine, "what", 2, strategy=Majority(), settings=Settings(max_tokens=100))
    assert (solution.interrupted, solution.answer, solution.selected) == (True, "1", 0)


def test_an_interrupt_while_the_answer_is_written_keeps_the_thinking():
    engine = ScriptedEngine([thought(1, 0.0)], on_step=interrupt_at(5))
    solution = solve(engine, "what", 1)
    assert solution.interrupted and solution.selected == 0 and solution.trajectories[0].finish_reason == "think_end"


def test_a_dropped_stream_stops_its_trajectories():
    engine = ScriptedEngine([CUT])
    events = stream(engine, "what", 4)
    for _ in range(6):
        next(events)
    events.close()
    assert not engine.busy and engine.cancelled == 4


def test_an_engine_failure_is_raised():
    engine = ScriptedEngine(SCRIPT, on_step=interrupt_at(2, EngineError("NaN")))
    with pytest.raises(EngineError, match="NaN"):
        solve(engine, "what", 2)


@pytest.mark.parametrize("problem", ["", "  \n ", Problem("")])
def test_a_blank_problem_is_refused(problem):
    with pytest.raises(InputError, match="empty"):
        solve(ScriptedEngine(SCRIPT), problem, 1)


def test_broken_text_is_refused():
    with pytest.raises(InputError, match="UTF-8"):
        solve(ScriptedEngine(SCRIPT), "what \udcff", 1)


def test_a_problem_longer_than_the_context_is_refused_with_both_lengths():
    with pytest.raises(ContextError, match="10,002 tokens.*at most 4,096"):
        solve(ScriptedEngine(SCRIPT), "word " * 10_000, 1)


def test_budgets_are_bounded_by_the_context():
    engine = ScriptedEngine([CUT], context_length=40)
    solution = solve(engine, "one two three", 1)
    assert solution.trajectories[0].tokens == 36 - 9  # a quarter of the room is kept for the answer


@pytest.mark.parametrize(("effort", "k"), [("low", 2), ("medium", 8), ("high", 32), (5, 5), ("12", 12)])
def test_effort_names_and_numbers(effort, k):
    assert resolve_effort(effort) == k


@pytest.mark.parametrize("effort", [0, -3, "ultra", "", "0", "-3", "1.5", 2.0, True, None, 10**9])
def test_impossible_efforts_are_refused_in_one_line(effort):
    with pytest.raises(InputError, match=r"low \(2\), medium \(8\), high \(32\)") as error:
        resolve_effort(effort)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("budget", [{"max_tokens": 0}, {"answer_tokens": -1}])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(InputError, match="1 or more"):
        Settings(**budget)


def test_the_bookkeeping_of_a_problem_is_linear_in_its_trajectories() -> None:
    """Calls within `attempt`, resumed generators among them."""

    def calls(k: int) -> int:
        counted = Counter[str]()

        def count(frame: FrameType, event: str, _: object) -> None:
            counted[frame.f_code.co_filename] += event == "call"

        sys.setprofile(count)
        try:
            solve(ScriptedEngine([Scripted("a.\n\n</think>4", [1.0])]), "what", k, strategy=Majority())
        finally:
            sys.setprofile(None)
        return counted[attempt.__file__]

    assert calls(160) < 10 * calls(20)
