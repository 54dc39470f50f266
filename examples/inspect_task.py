"""A task for inspect_ai. pip install inspect-ai openai, then, with the server running:

export REFLECTIVE_BASE_URL=http://127.0.0.1:8000/v1 REFLECTIVE_API_KEY=none
inspect eval examples/inspect_task.py --model openai-api/reflective/nano
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def multiples() -> Task:
    """Two least common multiples."""
    question = "Find the Least Common Multiple (LCM) of these numbers: {}"
    pairs = {"14, 20": "140", "4, 6": "12"}
    samples = [Sample(input=question.format(pair), target=target) for pair, target in pairs.items()]
    return Task(dataset=samples, solver=generate(), scorer=includes())
