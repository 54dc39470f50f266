"""Options of a strategy: by name and value, from Python and from the command line, checked before a model is loaded."""

import json

import pytest

from reflective import InputError, Reflective, Scripted, ScriptedEngine
from reflective.cli import main
from reflective.options import plan
from reflective.search import BestOfN, Majority, Single, get_strategy


def test_options_become_arguments_of_the_strategy():
    assert get_strategy("majority", options={"quorum": 1}).quorum == 1.0
    for marks in ([16, 32], "[16, 32]", "16,32"):
        assert get_strategy("prune", options={"marks": marks}).marks == (16, 32)
    assert get_strategy("majority", options={"quorum": "0.25"}).quorum == 0.25, "as a command line gives it"
    assert get_strategy("best_of_n", options={"answers": "all"}).answers == "all"
    assert get_strategy("best_of_n", "all").answers == "all"


def test_what_differs_from_the_default_is_told():
    assert Majority(0.5).options == {"quorum": 0.5}
    assert Majority().options == {} == Single().options
    assert BestOfN("all").options == {"answers": "all"}


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("majority", {"quorums": 1}, "unknown option of majority 'quorums'. Did you mean 'quorum'"),
        ("majority", {"quorum": "much"}, "option of majority quorum must be float, got 'much'"),
        ("best_of_n", {"answers": "some"}, "must be one of 'selected', 'all', got 'some'"),
        ("single", {"width": 2}, "unknown option of single 'width'"),
        ("auto", {"width": 2}, "go with a strategy's name, not with 'auto'"),
        (BestOfN(), {"answers": "all"}, "not with a strategy that is made already"),
    ],
)
def test_what_a_strategy_does_not_have_is_refused(strategy, options, message):
    with pytest.raises(InputError, match=message):
        plan({"strategy": strategy, "strategy_options": options})


def test_a_setting_that_a_heads_sampling_does_not_have_is_refused():
    with pytest.raises(InputError, match="unknown setting in the head's sampling 'temprature'. Did you mean"):
        plan({}, sampling={"temprature": 1.0})


def test_the_front_door_takes_them():
    model = Reflective(ScriptedEngine([Scripted("so.\n\n</think>\\boxed{4}", logits=[1.0])]))
    for answers, ends in (("all", ["eos", "eos"]), ("selected", ["eos", "think_end"])):
        solution = model.solve("what", effort=2, strategy="best_of_n", strategy_options={"answers": answers})
        assert [t.finish_reason for t in solution.trajectories] == ends


def test_the_command_line_takes_them(capsys):
    problem = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
    command = ["solve", problem, "--effort", "1", "--strategy", "majority", "--json", "-q"]
    assert main([*command, "--strategy-option", "quorum=0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "140"
    for option, message in (("quorum", "write it as NAME=VALUE"), ("limit=3", "unknown option of majority 'limit'")):
        assert main([*command, "--strategy-option", option]) == 2
        assert message in capsys.readouterr().err
