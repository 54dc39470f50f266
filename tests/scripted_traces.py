"""Scripted trajectories of many lengths, scores and answers, and their records."""

import random

from reflective import Problem, Scripted, ScriptedEngine
from reflective.grading import record_of
from reflective.search import Majority, solve
from reflective.search.simulate import Trace, traces_of

PROBLEM = Problem("What is 2 + 2?", answer="4", id="sum")


def varied(seed: int = 0, *, endless: float = 0.1):
    """A script: each trajectory has 1 to 9 steps of 3 to 12 words, a score that tells something, and an answer."""

    def script(problem: str, index: int, _: int) -> Scripted:
        rng = random.Random(f"{seed}/{problem}/{index}")
        right = rng.random() < 0.5
        steps = [" ".join(["word"] * rng.randint(3, 12)) + ".\n\n" for _ in range(rng.randint(1, 9))]
        answer = "4" if right else rng.choice(["5", "6", "none at all"])
        said = f"\\boxed{{{answer}}}" if answer[0].isdigit() else answer
        logits = [rng.gauss(1.0 if right else -1.0, 1.5) for _ in steps]
        sure = [rng.gauss(3.0 if right else 2.0, 1.0) for _ in range(50)]
        return Scripted(
            "".join(steps) + "</think>" + said, logits, endless=rng.random() < endless, confidences=sure, logprob=-0.5
        )

    return script


def recorded(script, problem: Problem = PROBLEM, k: int = 12, max_tokens: int = 90) -> list[Trace]:
    """The traces of all k trajectories, written to their ends."""
    from reflective.search import Settings

    engine = ScriptedEngine(script)
    solution = solve(engine, problem, k, strategy=Majority(), settings=Settings(max_tokens=max_tokens))
    record = record_of(solution, 0)
    return traces_of(record, [t.token_confidences for t in solution.trajectories])


def problems(count: int, k: int = 12, **options) -> list[list[Trace]]:
    """The traces of several problems."""
    return [recorded(varied(seed, **options), k=k) for seed in range(count)]
