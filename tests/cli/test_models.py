"""The commands in process, on a tiny model in a folder."""

import json
import shutil
import sys

import pytest

from tiny import tiny_folder


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


def test_score_names_the_line_that_is_no_text_and_goes_on_with_the_others(run, folder, tmp_path):
    file = tmp_path / "in.jsonl"
    good, half = ({"prompt": "a <think>", "response": f"{end}.\n\n</think>"} for end in ("b", "\ud800"))
    file.write_text("".join(json.dumps(line) + "\n" for line in (good, half, good)))
    code, out, err = run("score", str(file), "--model", folder)
    assert code == 1 and [json.loads(line)["line"] for line in out.splitlines()] == [1, 3]
    assert f"{file}:2: response is not valid UTF-8 text" in err


def test_score_names_the_line_that_a_template_refuses_and_goes_on_with_the_others(run, tmp_path):
    model = tiny_folder(tmp_path / "model")
    template = model / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    user = {"role": "user", "content": "2 + 2?"}
    lines = [
        {"messages": [user], "response": "4.\n\n</think>4"},
        {"messages": [{"role": "system", "content": "Be brief."}, user], "response": "4.\n\n</think>4"},
        {"messages": [user], "response": "5.\n\n</think>5"},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = run("score", str(file), "--model", str(model))
    assert code == 1 and [json.loads(line)["line"] for line in out.splitlines()] == [1, 3]
    told = [line for line in err.splitlines() if line.startswith(f"{file}:2:")]
    assert len(told) == 1 and "refuses these messages (roles system, user): System role not supported" in told[0]
    code, out, err = run("solve", "2 + 2?", "--system", "Be brief.", "--model", str(model))
    assert code == 2 and out == "" and "System role not supported" in err


def test_a_terminal_is_told_that_a_model_is_being_loaded(run, folder, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, _, err = run("score", "/dev/null", "--model", folder)
    assert f"loading {folder} …" in err and err.index("\r") > err.index("loading")


def test_info_tells_parameters_layer_and_step_tokens(run, folder):
    code, out, _ = run("info", folder)
    assert code == 0
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert shown["parameters"] == "131,392" and ", 8,449 parameters, in " in shown["head"]
    assert shown["reasoning"] == "between <think> and </think>"
    assert shown["step tokens"] == r"257 '.\n\n'"
    assert shown["head reads"] == "the input of layer 2, before the step token"
    data = json.loads(run("info", folder, "--json")[1])
    assert data["parameters"]["head"] == 8449 and data["format"]["step_tokens"] == [{"id": 257, "text": ".\n\n"}]


def test_info_shows_a_few_of_many_step_tokens_and_all_of_them_as_json(run, folder, tmp_path):
    many = tmp_path / "many"
    shutil.copytree(folder, many)
    config = json.loads((many / "sprm" / "config.json").read_text())
    config["format"]["step_token_ids"] = list(range(200))
    (many / "sprm" / "config.json").write_text(json.dumps(config))
    (shown,) = [line for line in run("info", str(many))[1].splitlines() if line.startswith("step tokens")]
    assert shown.split()[2] == "200:" and shown.endswith("… (all with --json)") and len(shown) < 120
    assert len(json.loads(run("info", str(many), "--json")[1])["format"]["step_tokens"]) == 200


def test_info_shows_where_the_steps_of_a_response_fall(run):
    prompt = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
    code, out, _ = run("info", "nano", "--show", prompt)
    response = out.split("\n\n", 1)[1]
    head, text = response.split(":\n\n", 1)
    data = json.loads(run("info", "nano", "--show", prompt, "--json")[1])["response"]
    assert code == 0 and data["finished"] and data["marked"].strip() == text.strip()
    assert head.startswith(f"a response of {data['tokens']} tokens, {len(data['steps'])} steps, each ending at")
    assert text.count("⏎") == len(data["steps"]) > 1 and "⏎" not in text.split("</think>")[1]
    assert all(step.strip() in text for step in data["steps"])
    _, out, _ = run("info", "nano", "--show", prompt, "--max-tokens", "3")
    assert "a response of 3 tokens, no step in it; cut after 3 tokens, allow more with --max-tokens" in out
    code, out, err = run("info", "nano", "--max-tokens", "3")
    assert (code, out) == (2, "") and "with --show only" in err


@pytest.mark.parametrize("command", [["solve", "hi", "--model"], ["info"]])
@pytest.mark.parametrize("model", ["/no/such/folder", "nobody/no-such-model", "EMPTY"])
def test_a_model_that_is_none_is_one_line(run, command, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(*command, str(tmp_path) if model == "EMPTY" else model)
    assert code in (1, 2) and out == "" and err.count("\n") == 1 and "Traceback" not in err


def test_a_model_without_a_head_says_in_one_line_what_to_do(run, folder, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    shutil.rmtree(plain / "sprm")
    code, out, err = run("solve", "hi", "--model", str(plain), "--strategy", "best_of_n")
    assert (code, out) == (1, "") and "selects by step scores, and there are none" in err
    last = err.splitlines()[-1]
    assert "reflective train head" in last and "--strategy majority" in last
    # a head beside it is what was missing
    code, out, err = run("solve", "hi", "--model", str(plain), "--head", folder, "--max-tokens", "4", "--effort", "1")
    assert "no head" not in err and code in (0, 1)


def test_a_head_that_is_none_is_one_line(run, folder, tmp_path):
    code, out, err = run("info", folder, "--head", str(tmp_path))
    assert (code, out) == (1, "") and "name a folder with config.json and head.safetensors" in err
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
