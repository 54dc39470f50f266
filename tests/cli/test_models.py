"""The commands in process, on a tiny model in a folder."""

import json
import shutil
import sys

import pytest


@pytest.fixture
def folder(tiny_checkpoint_folder):
    return str(tiny_checkpoint_folder("qwen2"))


def test_score_reads_standard_input(run, folder, monkeypatch, tmp_path):
    line = json.dumps({"prompt": "a <think>", "response": "b.\n\n</think>"}).encode()
    file = tmp_path / "in"
    file.write_bytes(line)
    with open(file) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, _ = run("score", "-", "--model", folder)
    assert code == 0 and len(json.loads(out)["step_scores"]) == 1


def test_info_tells_parameters_layer_and_step_tokens(run, folder):
    code, out, _ = run("info", folder)
    assert code == 0
    for name in ("parameters backbone", "parameters head", "head layer", "head step tokens"):
        assert name in out
    data = json.loads(run("info", folder, "--json")[1])
    assert data["parameters"]["head"] > 0 and data["head"]["step_tokens"]


@pytest.mark.parametrize("command", [["solve", "hi", "--model"], ["info"]])
@pytest.mark.parametrize("model", ["/no/such/folder", "nobody/no-such-model", "EMPTY"])
def test_a_model_that_is_none_is_one_line(run, command, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(*command, str(tmp_path) if model == "EMPTY" else model)
    assert code in (1, 2) and out == "" and err.count("\n") == 1 and "Traceback" not in err


def test_a_model_without_a_head_is_one_line_that_says_what_to_do(run, folder, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    shutil.rmtree(plain / "sprm")
    code, out, err = run("solve", "hi", "--model", str(plain))
    assert (code, out) == (1, "") and "no SPRM head" in err and "reflective train head" in err
    assert err.count("\n") == 1


def test_a_reference_checkpoint_is_imported(run, folder, tmp_path):
    import torch

    from reflective.models import load_checkpoint

    source, out = tmp_path / "reference", tmp_path / "ours"
    shutil.copytree(folder, source)
    head = load_checkpoint(folder, dtype="float32").head
    weights = dict(head.named_parameters())
    first, second = sorted((w for w in weights.values() if w.dim() == 2), key=lambda w: -w.shape[0])
    biases = sorted((w for w in weights.values() if w.dim() == 1), key=lambda w: -w.shape[0])
    names = {"0.weight": first, "0.bias": biases[0], "3.weight": second, "3.bias": biases[1]}
    torch.save({name: tensor.detach() for name, tensor in names.items()}, source / "score_module.pt")
    shutil.rmtree(source / "sprm")
    code, printed, err = run("import", str(source), str(out))
    assert (code, printed) == (0, f"{out}\n") and "reflective solve" in err
    assert run("info", str(out))[0] == 0
    assert run("import", folder, str(tmp_path / "x"))[0] == 1
