"""Our questions are those of reasoning_gym: what is drawn in our own way is compared with what the package writes."""

from __future__ import annotations

import random
import re

import pytest

from reflective.tasks import get_task
from reflective.tasks.families.simple_equations import parse, render

pytest.importorskip("reasoning_gym")
sympy = pytest.importorskip("sympy")


def skeleton(text: str) -> str:
    """The wording without its numbers; lists of numbers shrink to one."""
    return re.sub(r"#(, #)+", "#", re.sub(r"\d+", "#", text))


def package_items(module: str, dataset: str, config: str, count: int = 40, **options: object) -> list[dict]:
    found = __import__(f"reasoning_gym.{module}", fromlist=[dataset])
    made = getattr(found, dataset)(getattr(found, config)(seed=1, size=count, **options))
    return [made[i] for i in range(count)]


def ours(name: str, count: int = 60) -> set[str]:
    return {problem.text for level in (1, 2, 3) for problem in get_task(name).problems("train", count, level)}


@pytest.mark.parametrize(
    ("name", "module", "dataset", "config", "options"),
    [
        ("countdown", "games.countdown", "CountdownDataset", "CountdownConfig", {"min_target": 10, "max_target": 99}),
        ("puzzle24", "games.puzzle24", "Puzzle24Dataset", "Puzzle24Config", {}),
        ("chain_sum", "arithmetic.chain_sum", "ChainSumDataset", "ChainSumConfig", {}),
        ("products", "arithmetic.products", "ProductsDataset", "ProductsConfig", {}),
        ("gcd", "arithmetic.gcd", "GCDDataset", "GCDConfig", {}),
        ("lcm", "arithmetic.lcm", "LCMDataset", "LCMConfig", {}),
        (
            "prime_factorization",
            "arithmetic.prime_factorization",
            "PrimeFactorizationDataset",
            "PrimeFactorizationConfig",
            {},
        ),
    ],
)
def test_questions_have_the_wording_of_the_package(
    name: str, module: str, dataset: str, config: str, options: dict[str, object]
) -> None:
    known = {
        skeleton(re.sub(r"(?<=problem: ).*(?= =$)", "#", item["question"].strip()))
        for item in package_items(module, dataset, config, **options)
    }
    drawn = {skeleton(re.sub(r"(?<=problem: ).*(?= =$)", "#", text)) for text in ours(name)}
    assert drawn <= known


def test_leg_counting_questions_are_rebuilt_from_the_package_template() -> None:
    from reasoning_gym.arithmetic.leg_counting import QUESTION_TEMPLATE

    for problem in get_task("leg_counting").problems("train", 30):
        animals = ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in problem.metadata["animals"])
        assert problem.text == QUESTION_TEMPLATE.format(animals=animals).strip()


def test_word_problems_end_like_those_of_the_package() -> None:
    suffix = " Give the result as your final answer. Do not include units."
    items = package_items(
        "arithmetic.gsm_symbolic.gsm_symbolic", "GSMSymbolicDataset", "GSMSymbolicDatasetConfig", count=5
    )
    assert all(item["question"].endswith(suffix) for item in items)
    assert all(text.endswith(suffix) for text in ours("gsm_symbolic", 20))


def test_equations_are_printed_as_sympy_prints_them() -> None:
    x = sympy.Symbol("x")
    rng = random.Random(0)
    for _ in range(300):
        coefficient = rng.choice([-1, 1]) * rng.randint(1, 12)
        constant = rng.randint(-9, 9)
        assert render(coefficient, constant, "x", 7) == f"{coefficient * x + constant} = 7"
        assert parse(render(coefficient, constant, "x", 7)) == (coefficient, constant, "x", 7)


def test_equation_questions_have_the_wording_of_the_package() -> None:
    def wording(text: str) -> str:
        before, equation = re.split(r"(?<=: )|(?<=equation: )", text, maxsplit=1)
        parse(equation)
        return re.sub(r"\b[a-z]\b(?= in| that|:)", "?", before)

    known = {
        wording(item["question"])
        for item in package_items("algebra.simple_equations", "SimpleEquationsDataset", "SimpleEquationsConfig")
        if item["metadata"]["variable"] in item["metadata"]["equation"]  # it may cancel out: 0 = 0
    }
    assert {wording(text) for text in ours("simple_equations")} == known


def test_countdown_answers_satisfy_the_package() -> None:
    from reasoning_gym.games.countdown import CountdownConfig, CountdownDataset

    grader = CountdownDataset(CountdownConfig(seed=0))
    task = get_task("countdown")
    for i, problem in enumerate(task.problems("train", 40, 2)):
        trace = task.trace(problem, random.Random(i))
        score = grader.score_answer(trace.answer, {"metadata": dict(problem.metadata)})
        assert (score == 1.0) == trace.learn_answer


def test_prime_factorizations_satisfy_the_package() -> None:
    from reasoning_gym.arithmetic.prime_factorization import PrimeFactorizationConfig, PrimeFactorizationDataset

    grader = PrimeFactorizationDataset(PrimeFactorizationConfig(seed=0))
    task = get_task("prime_factorization")
    for i, problem in enumerate(task.problems("train", 60, 2)):
        trace = task.trace(problem, random.Random(i))
        score = grader.score_answer(trace.answer, {"answer": problem.answer})
        assert (score == 1.0) == trace.learn_answer
