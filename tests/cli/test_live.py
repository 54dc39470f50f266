"""Live rows: what a terminal shows while trajectories are written."""

import io
import re

import pytest
from rich.console import Console

from reflective import Scripted, ScriptedEngine
from reflective.cli.live import LiveRows
from reflective.search import Settings, stream

SCRIPT = [
    Scripted("one.\n\ntwo.\n\n</think>\\boxed{4}", logits=[3.0, -3.0]),
    Scripted("x.\n\n</think>\\boxed{5}", logits=[9.0]),
    Scripted("never.\n\n", logits=[1.0], endless=True),
]


def screen(k, width=100, height=30, script=SCRIPT):
    """The last picture."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="truecolor")
    with LiveRows(console) as rows:
        for event in stream(ScriptedEngine(script), "what  is\nit?", k, settings=Settings(max_tokens=20)):
            rows(event)
    raw = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    return raw, plain[plain.rindex("what is it?") :]


def test_a_row_a_trajectory_with_blocks_score_tokens_and_state():
    raw, picture = screen(3)
    rows = picture.splitlines()[1:4]
    assert re.search(r"^   0 █▁ +0\.\d{3} +\d+ thought", rows[0])
    assert re.search(r"^▶  1 █ +1\.000 +\d+ done", rows[1])
    assert re.search(r"^   2 ▆ +0\.731 +20 out of tok", rows[2])
    assert "3/3" in picture and "\x1b[38;2;" in raw


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 12), (40, 10), (20, 5)])
def test_many_rows_share_the_screen(width, height):
    _, picture = screen(32, width, height)
    assert all(len(line) <= width for line in picture.splitlines())
    if (width, height) == (80, 24):
        assert all(re.search(rf"[ ▶] {i:>2} ", picture) for i in range(32))


def test_titles_with_markup_are_text():
    _, picture = screen(1, script=[Scripted("[red]x.\n\n</think>[b]4[/b]")])
    assert "what is it?" in picture
