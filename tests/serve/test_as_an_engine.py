"""The server as the engine of another process: what our client of chat completions sends, our server takes."""

from __future__ import annotations

import pytest

from reflective import Reflective, Scripted
from serve.conftest import Chatting, serving

SETTINGS = (
    {},
    {"repetition_penalty": 1.3},
    {"temperature": 0.0, "top_k": 5, "min_p": 0.2, "top_p": 0.5, "seed": 2**40},
    {"stop": ["stop here"], "max_tokens": 7, "answer_tokens": 3, "system": "Be short."},
)


@pytest.fixture(scope="module")
def client():
    script = [Scripted("a step.\n\n</think>It is \\boxed{4}.", [1.0])]
    served = Reflective(Chatting(script))
    with (
        serving(served) as server,
        Reflective.from_pretrained("scripted", engine=f"{server.url}/v1", require_head=False) as client,
    ):
        yield client


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings) or "none")
def test_every_setting_of_our_client_is_taken_by_our_server(client, settings):
    solution = client.solve("what", effort=2, **settings)
    assert solution.strategy == "majority" and len(solution.trajectories) == 2
    assert settings.get("max_tokens") or solution.answer == "4"
