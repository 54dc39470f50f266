"""Several clients of one embedded engine, at once and in turns, get to the bit what each gets alone: nano."""

import threading

import pytest

from reflective import Problem, Reflective
from reflective.engines.base import Finished, Request
from reflective.engines.driver import Driver
from reflective.search import Solved

PROBLEMS = [Problem(f"What is {a} * {a + 3} - 7?", id=str(a)) for a in (4, 17, 23)]


@pytest.fixture(scope="module")
def nano():
    with Reflective.from_pretrained("nano", max_rows=24) as model:
        yield model


def outcome(solution):
    return solution.answer, solution.selected, solution.trajectories, solution.usage, solution.notes


def streamed(problem):
    def work(model):
        *_, solved = model.stream(problem, effort=8, seed=5)
        assert isinstance(solved, Solved)
        return outcome(solved.solution)

    return work


def many(model):
    pairs = model.solve_many(PROBLEMS, effort=4, strategy="weighted", temperature=0.8)
    return {problem.id: outcome(solution) for problem, solution in pairs}


def rollout(model):
    done = {}
    with Driver.of(model.engine).client() as client:
        prompt = model.engine.encode_prompt("What is the greatest common divisor of 84 and 126?")
        for seed in range(12):
            client.submit(Request(prompt, seed=seed, index=seed, until="eos"))
        while client.in_flight:
            for event in client.events():
                if isinstance(event, Finished):
                    done[event.trajectory.index] = event.trajectory
                    client.cancel(event.id)
    return done


def score(model):
    return [model.score(prompt="What is 2 + 2?<think>", response="2 + 2 = 4.\n\nSo 4.\n\n</think>4") for _ in range(5)]


WORKS = [streamed("What is 12 * 17 + 5?"), streamed("What is 8 * 7?"), many, rollout, score]


def test_at_once_in_several_threads(nano):
    alone = [work(nano) for work in WORKS]
    together = [None] * len(WORKS)

    def run(i):
        together[i] = WORKS[i](nano)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(WORKS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert not nano.engine.busy and not nano.engine._finished


def test_in_turns_in_one_thread(nano):
    def begin():
        first = nano.stream("What is 12 * 17 + 5?", effort=8, seed=5)
        second = nano.stream("What is 8 * 7?", effort="low", strategy="majority")
        return [first, second, nano.solve_many(PROBLEMS, effort=4)]

    def outcomes(items):
        solved = [item.solution for item in items if isinstance(item, Solved)]
        pairs = sorted((pair for pair in items if isinstance(pair, tuple)), key=lambda pair: pair[0].id)
        return [outcome(solution) for solution in (*solved, *(solution for _, solution in pairs))]

    alone = [outcomes(list(work)) for work in begin()]
    works, found = begin(), [[], [], []]
    while any(works):
        for i, work in enumerate(works):
            if work is not None and (item := next(work, None)) is not None:
                found[i].append(item)
            else:
                works[i] = None
    assert [outcomes(items) for items in found] == alone
    assert [len(items) for items in map(outcomes, found)] == [1, 1, 3]
    assert not nano.engine.busy and not nano.engine._finished
