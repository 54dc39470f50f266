"""The look before sampling: it shows a response, tells what a run would meet, and stops for the true reason."""

from __future__ import annotations

import pytest

from reflective import Problem, Scripted, ScriptedEngine, TrainingError
from reflective.engines.scripted import BETWEEN_MARKS, WHOLE_RESPONSE
from reflective.judge.format import Format
from reflective.search import Settings
from reflective.train.head.look import PROBLEMS, TRAJECTORIES, Look, look

PROBLEM_SET = [Problem(f"What is {i} + 2?", str(i + 2)) for i in range(12)]
GOOD = [Scripted("two steps.\n\nso \\boxed{4}"), Scripted("one.\n\nso \\boxed{9}")]


def looked(scripts: list[Scripted], max_tokens: int = 20, format: Format = WHOLE_RESPONSE) -> tuple[Look, str]:
    said: list[str] = []
    engine = ScriptedEngine(scripts, scored=False, format=format)
    return look(engine, PROBLEM_SET, Settings(max_tokens=max_tokens), 1000, said.append), "\n".join(said)


def test_a_response_is_shown_with_its_steps_and_what_sampling_will_take_is_told() -> None:
    seen, said = looked(GOOD)
    assert seen.trajectories == PROBLEMS * TRAJECTORIES and seen.ended == seen.answered == 1.0
    assert seen.steps == 2.0 and seen.right is not None and 0 < seen.right < 0.2  # 4 is right for one of six problems
    assert "two steps ⏎\n\nso \\boxed{4} ⏎" in said.replace("two steps.", "two steps") and "2.0 steps" in said
    assert "sampling 1,000 responses will take about" in said
    assert seen.seconds(48) == pytest.approx(2 * seen.seconds(24))


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        (
            [Scripted("on and on", endless=True)],
            r"0% of the responses ended within 20 tokens\. Allow more with --max-tokens\.$",
        ),
        ([Scripted("a step.\n\nthe sea is calm")], "0% of the responses state a final answer.*--prompt"),
        ([Scripted("so \\boxed{1000}")], "all 24 responses are wrong.*easier"),
    ],
)
def test_what_would_teach_a_head_nothing_is_said_before_hours_are_lost(scripts: list[Scripted], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        looked(scripts)


def test_marks_are_named_where_reasoning_that_never_closes_may_be_between_none() -> None:
    with pytest.raises(TrainingError, match="--max-tokens.*--marks whole"):
        looked([Scripted("on and on", endless=True)], format=BETWEEN_MARKS)
