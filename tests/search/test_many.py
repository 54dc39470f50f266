"""Several problems at a time give what one at a time gives."""

import os
import signal

import pytest

from reflective import EngineError, Problem, Scripted, ScriptedEngine
from reflective.search import Majority, Settings, solve, solve_many


def script(problem, index, seed):
    steps = 1 + seed % 4
    return Scripted(
        "hm.\n\n" * steps + f"</think>\\boxed{{{seed % 5}}}", logits=[(seed >> i) % 5 - 2.0 for i in range(steps)]
    )


def outcome(solution):
    return solution.answer, solution.selected, solution.trajectories, solution.usage, solution.notes


@pytest.mark.parametrize("in_flight", [1, 8, 1000])
def test_every_problem_is_solved_as_if_alone(in_flight):
    problems = [Problem(f"problem number {i}", id=str(i)) for i in range(12)]
    together = {
        problem.id: solution
        for problem, solution in solve_many(ScriptedEngine(script, max_rows=5), problems, 4, in_flight=in_flight)
    }
    assert len(together) == 12
    for problem in problems:
        assert outcome(together[problem.id]) == outcome(solve(ScriptedEngine(script), problem, 4))


def test_prompts_are_read_once_and_the_engine_is_kept_full():
    engine = ScriptedEngine(lambda *_: Scripted("a b c d e f g h</think> \\boxed{1}"), max_rows=8)
    problems = [f"problem number {i}" for i in range(16)]
    assert len(list(solve_many(engine, problems, 4, in_flight=16))) == 16
    assert engine.prefix_paid == 16 * 4
    assert engine.tokens_written / engine.steps > 0.85 * 8


def test_problems_are_drawn_only_as_room_appears():
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield f"problem {len(drawn)}"

    solutions = solve_many(ScriptedEngine(script), endless(), 4, in_flight=8)
    for _ in range(3):
        next(solutions)
    assert len(drawn) < 12
    solutions.close()


def test_a_problem_that_can_not_be_solved_is_data_not_a_crash():
    problems = ["fine one", "word " * 500, " ", "fine two"]
    engine = ScriptedEngine(script, context_length=200)
    outcomes = dict(solve_many(engine, problems, 2))
    assert len(outcomes) == 4
    assert outcomes["fine one"].answer is not None and outcomes["fine two"].answer is not None
    assert outcomes[problems[1]].trajectories == () and "at most 200" in outcomes[problems[1]].notes[0]
    assert "empty" in outcomes[" "].notes[0] and outcomes[" "].confidence == 0.0


def test_dropping_the_iterator_stops_everything():
    engine = ScriptedEngine([Scripted("x", endless=True)])
    engine_free = solve_many(engine, ["a", "b"], 3, settings=Settings(max_tokens=50), strategy=Majority())
    next(engine_free)
    engine_free.close()
    assert not engine.busy


def test_ctrl_c_waits_for_the_step_then_stops_everything():
    def press(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    engine = ScriptedEngine([Scripted("x", endless=True)], on_step=press)
    with pytest.raises(KeyboardInterrupt):
        list(solve_many(engine, ["a", "b"], 3))
    assert not engine.busy and engine.tokens_written == 4 * 6  # the step that was interrupted was finished


def test_an_engine_failure_is_raised_once():
    def fail(step):
        if step >= 3:
            raise EngineError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        list(solve_many(ScriptedEngine(script, on_step=fail), ["a", "b"], 2))


def test_ctrl_c_in_solve_ends_with_what_is_there():
    def press(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    solution = solve(ScriptedEngine([Scripted("x", endless=True)], on_step=press), "what", 2)
    assert solution.interrupted and solution.trajectories[0].tokens == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
