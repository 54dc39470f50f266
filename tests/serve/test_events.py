"""What a search over steps tells clients: forks with where they come from, and running scores over shared steps."""

import pytest

pytest.importorskip("fastapi")

from reflective import Scripted, ScriptedEngine
from reflective.search import Beam, solve
from reflective.serve.events import EventWriter, solved


def test_forks_are_told_and_running_scores_count_the_steps_that_they_share():
    script = [
        Scripted(f"a{i}.\n\nb{i}.\n\nc{i}.\n\n</think>\\boxed{{{i}}}", logits=[i / 4, i / 2, i - 3.0]) for i in range(7)
    ]
    writer, told = EventWriter("beam", "geometric_mean"), []
    engine = ScriptedEngine(script)
    solution = solve(engine, "what", 4, strategy=Beam(), on_event=lambda event: told.append(writer.write(event)))
    forks = {e["trajectory"]: (e["parent"], e["at"]) for e in told if e and e["type"] == "forked"}
    assert forks == {t.index: (t.parent, t.at) for t in solution.trajectories if t.parent is not None} != {}
    running = {e["trajectory"]: e["running"] for e in told if e and e["type"] == "step"}
    assert running == pytest.approx({t.index: t.score for t in solution.trajectories if t.index in running})
    assert {e["reason"] for e in told if e and e["type"] == "finished"} <= {"think_end", "eos"}
    fates = solved(solution, {})["trajectories"]
    assert {f["index"]: (f["parent"], f["at"]) for f in fates if "parent" in f} == forks
