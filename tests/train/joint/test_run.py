"""A run from its configuration to its model: killed and resumed, stopped, and refused for what can be known."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from safetensors.torch import load_file

from reflective.errors import CheckpointError, InputError, TrainingError
from reflective.files import folder_lock
from reflective.models import load_checkpoint
from reflective.models.digest import weights_digest
from reflective.train.joint.checkpoints import WRITING, check_settings, whole_checkpoints
from reflective.train.joint.reporting import read_curves
from reflective.train.joint.run import JointResult, prepare, train_joint
from reflective.train.progress import Stop
from tiny import tiny_folder, tiny_model
from train.joint.fakes import HERE, STEP_TOKENS, problems, tiny_joint

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]
# a run that says where it is, and can be made to die there
RUN = """
import os, signal, sys
from pathlib import Path
from train.joint.fakes import tiny_joint
from reflective.train.joint import run
from reflective.train.joint.trl import checkpoints as saving

folder, where, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
made = run.prepare(tiny_joint(folder, **EXTRA))
trainer = made.trainer

def die_in(name, owner):
    inner = getattr(owner, name)
    def dying(*args, **kwargs):
        if trainer.state.global_step == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    setattr(owner, name, dying)

if where == "rollout":
    die_in("step", trainer.rollout_func.engine)
elif where == "backward":
    die_in("backward", trainer.accelerator)
elif where == "checkpoint":
    die_in("_save_pending", trainer)  # behind the weights and the optimizer
elif where == "publishing":
    die_in("publish", saving)
made.train()
"""


def trained(folder: Path, **changes: Any) -> tuple[JointResult, list[str]]:
    notes: list[str] = []
    return train_joint(tiny_joint(folder, **changes), note=notes.append), notes


def process(folder: Path, where: str, when: int, extra: dict[str, Any]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    code = RUN.replace("EXTRA", repr(extra))
    command = [sys.executable, "-c", code, str(folder), where, str(when)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = folder / "run/model"
    return {**load_file(model / "model.safetensors"), **load_file(model / "sprm/head.safetensors")}


def assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


# checkpoints at every step, so that some fall inside a generation
KILLED: dict[str, Any] = {"log": {"save_every": 1}, "policy": {"minibatches": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_joint(folder)
    running = process(folder, "nowhere", 0, KILLED)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    return folder


@pytest.mark.long
@pytest.mark.parametrize("where", ["rollout", "backward", "checkpoint", "publishing"])
def test_a_killed_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path, where: str) -> None:
    killed, extra = tmp_path, KILLED
    (killed / "model-qwen3").symlink_to(whole / "model-qwen3")
    (killed / "problems.jsonl").symlink_to(whole / "problems.jsonl")
    running = process(killed, where, 2 if where == "rollout" else 3, extra)
    _, told = running.communicate(timeout=300)
    assert running.returncode == -signal.SIGKILL, told
    kept = [p.name for p in whole_checkpoints(killed / "run")]
    assert kept[-1] == ("checkpoint-3" if where == "backward" else "checkpoint-2")
    assert all((killed / "run" / name / "trainer_state.json").is_file() for name in kept)
    running = process(killed, "nowhere", 0, extra)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0 and "going on from" in told, told
    assert_same_weights(whole, killed)
    assert not (killed / "run" / WRITING).exists()


@pytest.mark.parametrize(
    "extra",
    [
        {"policy": {"iterations": 2, "schedule": "linear"}, "log": {"evaluate_every": 2, "evaluate_group": 2}},
        {"lora": {"rank": 2}},
        {"data": {"held_out": 20}},
    ],
    ids=["inside a generation", "adapters", "in the second epoch"],
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, extra: dict[str, Any]) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    trained(whole, **extra)
    (stopped / "model-qwen3").symlink_to(whole / "model-qwen3")
    (stopped / "problems.jsonl").symlink_to(whole / "problems.jsonl")
    stop = Stop()
    run = prepare(tiny_joint(stopped, **extra), note=lambda _: None, stop=stop)
    inner = run.trainer.training_step

    def step(*args: Any) -> Any:
        stop.requested = run.trainer.state.global_step == 2
        return inner(*args)

    run.trainer.training_step = step
    result = run.train()
    assert result.interrupted and result.exit_code == 130 and result.steps == 3
    assert not (stopped / "run/model").exists()
    result, _ = trained(stopped, **extra)
    assert not result.interrupted and result.steps == 4
    assert_same_weights(whole, stopped)
    ours, theirs = (read_curves(folder / "run") for folder in (stopped, whole))
    assert ours["reward"] == theirs["reward"] and ours["spr/spr_loss"] == theirs["spr/spr_loss"]
    assert ours["spr/spr_loss"][0] == [1, 2, 3, 4]


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_saves_after_a_whole_step(tmp_path: Path) -> None:
    tiny_joint(tmp_path)
    code = (
        "from train.joint.fakes import tiny_joint; from pathlib import Path; import sys\n"
        "from reflective.train.joint.run import train_joint\n"
        f"sys.exit(train_joint(tiny_joint(Path({str(tmp_path)!r}), steps=1000)).exit_code)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    running = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(read_curves(tmp_path / "run").get("reward", ([], []))[0]) > 1, running)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130 and "start the same command again" in told
    assert whole_checkpoints(tmp_path / "run")


def test_the_result_is_a_checkpoint_with_its_trained_head(tmp_path: Path) -> None:
    config = {"log": {"evaluate_every": 2, "evaluate_group": 2, "plot": True, "report_to": ["tensorboard"]}}
    result, notes = trained(tmp_path, save_dtype="bfloat16", **config)
    loaded = load_checkpoint(result.folder)
    assert loaded.head is not None and loaded.config is not None
    assert loaded.config.format.step_ids == set(STEP_TOKENS) and loaded.config.calibration is None
    assert loaded.model.config.use_cache  # though the trainer turns it off
    assert loaded.config.provenance["trained_with"]["model"] == "model-qwen3"
    assert str(tmp_path) not in json.dumps(loaded.config.to_json())
    untrained = load_checkpoint(tmp_path / "model-qwen3", dtype="float32")
    assert untrained.head is not None
    assert not torch.equal(loaded.head.hidden.weight, untrained.head.hidden.weight)
    assert not torch.equal(loaded.model.lm_head.weight.float(), untrained.model.lm_head.weight.float())
    assert not {".bin", ".pkl"} & {path.suffix for path in (tmp_path / "run").rglob("*")}
    curves = read_curves(tmp_path / "run")
    assert curves["reward"][0] == [1, 2, 3, 4] and curves["eval_spr/single"][0] == [0, 2, 4]
    for name in ("spr/gap", "spr/kept", "spr/spr_loss", "entropy", "tokens_per_s", "rollout/tokens_per_s"):
        assert name in curves, sorted(curves)
    assert (tmp_path / "run/curves.png").stat().st_size > 10_000
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert any("held out" in note for note in notes)


def test_the_reference_model_is_asked_where_kl_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, policy={"kl": 0.01}, steps=2)
    assert capsys.readouterr().err == "", "its bar, while it is loaded"
    kl = read_curves(tmp_path / "run")["kl"][1]
    assert kl[0] == pytest.approx(0.0, abs=1e-6) and kl[1] > 1e-6


def test_generation_by_the_trainer_itself_works_too(tmp_path: Path) -> None:
    result, _ = trained(tmp_path, rollouts={"engine": "trl"}, steps=2)
    assert result.steps == 2 and "spr/spr_loss" in result.figures


def test_a_model_without_a_head_gets_one(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    tiny_folder(plain)
    for path in (plain / "sprm").iterdir():
        path.unlink()
    (plain / "sprm").rmdir()
    result, notes = trained(tmp_path, model=str(plain), steps=1)
    assert "the head is new" in notes and load_checkpoint(result.folder).head is not None


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    trained(tmp_path, steps=1)
    trained(tmp_path, steps=2)  # a longer run is the same run
    with pytest.raises(CheckpointError, match="another model, other problems or other settings"):
        trained(tmp_path, steps=2, seed=7)
    tiny_folder(tmp_path / "model-qwen3", "qwen3", seed=1, step_token_ids=STEP_TOKENS)  # under the same name
    with pytest.raises(CheckpointError, match="another model"):
        trained(tmp_path, steps=3)


def test_what_only_memory_decides_may_change(tmp_path: Path) -> None:
    trained(tmp_path, steps=1)
    changes = {"micro_batch": 2, "rollouts": {"rows": 3}, "gradient_checkpointing": True}
    result, notes = trained(tmp_path, steps=2, **changes)
    assert result.steps == 2 and any("going on from" in note for note in notes)


def test_a_generation_is_not_cut_anew(tmp_path: Path) -> None:
    settings = {"log": {"save_every": 1}, "policy": {"iterations": 2}}
    trained(tmp_path, steps=1, **settings)
    with pytest.raises(CheckpointError, match="2 micro-batches, and now there would be 4"):
        trained(tmp_path, steps=2, micro_batch=2, **settings)


def test_a_run_that_has_saved_nothing_may_have_other_settings(tmp_path: Path) -> None:
    check_settings(tmp_path, "one")
    check_settings(tmp_path, "other")
    (tmp_path / "checkpoint-1").mkdir()
    check_settings(tmp_path, "other")
    with pytest.raises(CheckpointError, match="other settings"):
        check_settings(tmp_path, "one")
    (tmp_path / "settings.json").unlink()
    with pytest.raises(CheckpointError, match=r"no settings\.json belongs"):
        check_settings(tmp_path, "other")


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        trained(tmp_path, steps=1)
    assert trained(tmp_path, steps=1)[0].steps == 1


def test_a_run_does_not_depend_on_who_looks_at_it(tmp_path: Path) -> None:
    ones, others = tmp_path / "one", tmp_path / "other"
    for folder in (ones, others):
        folder.mkdir()
    trained(ones, steps=3)
    for name in ("model-qwen3", "problems.jsonl"):
        (others / name).symlink_to(ones / name)
    trained(others, steps=3, log={"evaluate_every": 1, "evaluate_group": 2})
    assert_same_weights(ones, others)


def test_a_full_disk_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="a checkpoint takes"):
        trained(tmp_path, steps=1)


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "scheduler.pt"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    trained(tmp_path, steps=1)
    path = tmp_path / "run" / "checkpoint-1" / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=rf"checkpoint-1' is damaged \({name} is cut off\)"):
        trained(tmp_path, steps=2)
    path.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        trained(tmp_path, steps=2)


@pytest.mark.parametrize("when", ["before", "while it looks"])
def test_a_stop_before_the_first_step_is_heeded(tmp_path: Path, when: str) -> None:
    stop = Stop(requested=when == "before")
    run = prepare(tiny_joint(tmp_path, log={"evaluate_every": 2}), note=lambda _: None, stop=stop)
    look = run.trainer.evaluate

    def evaluate(*arguments: Any, **options: Any) -> Any:
        stop.requested = True
        return look(*arguments, **options)

    run.trainer.evaluate = evaluate
    result = run.train()
    assert result.interrupted and result.steps == 0
    assert not whole_checkpoints(tmp_path / "run") and not (tmp_path / "run/model").exists()


def test_a_stop_while_a_run_looks_behind_a_step_keeps_the_step(tmp_path: Path) -> None:
    stop = Stop()
    run = prepare(tiny_joint(tmp_path, log={"evaluate_every": 2}), note=lambda _: None, stop=stop)
    look = run.trainer.evaluate

    def evaluate(*arguments: Any, **options: Any) -> Any:
        stop.requested = run.trainer.state.global_step == 2
        return look(*arguments, **options)

    run.trainer.evaluate = evaluate
    result = run.train()
    assert result.interrupted and result.steps == 2
    assert [p.name for p in whole_checkpoints(tmp_path / "run")] == ["checkpoint-2"]


def test_speed_counts_the_seconds_of_a_step_once(tmp_path: Path) -> None:
    run = prepare(tiny_joint(tmp_path, steps=1), note=lambda _: None)
    trainer = run.trainer
    trainer._tokens = 100.0
    trainer._metrics["train"]["step_time"] = [2.0]
    trainer.model.eval()
    trainer.log({})  # of a look at held-out problems, while a line of training is still to come
    trainer.model.train()
    trainer.log({})
    assert trainer.state.log_history[-1]["tokens_per_s"] == 50.0


def test_speed_is_told_where_a_generation_serves_several_steps(tmp_path: Path) -> None:
    trained(tmp_path, policy={"minibatches": 2})
    steps, speeds = read_curves(tmp_path / "run")["tokens_per_s"]
    assert steps == [1, 3] and all(speed > 0 for speed in speeds)


def test_a_run_that_nobody_can_grade_is_told(tmp_path: Path) -> None:
    name = f"{HERE}:nobody_knows"
    _, notes = trained(tmp_path, rewards={"functions": [name], "outcome": name}, steps=2)
    assert sum("0% of the trajectories could be graded" in note for note in notes) == 1
    assert not any("entropy" in note and "collapsed" in note for note in notes)


def test_one_other_weight_is_another_model() -> None:
    model, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    known = weights_digest(model, head)
    assert weights_digest(model, head) == known != weights_digest(model)
    with torch.no_grad():
        head.bias += 1e-6
    assert weights_digest(model, head) != known


def test_the_same_weights_with_other_settings_are_another_model() -> None:
    model = tiny_model("qwen3")
    known = weights_digest(model)
    model.config.rms_norm_eps *= 2
    assert weights_digest(model) != known


def test_a_generation_is_not_shared_anew_among_processes(tmp_path: Path) -> None:
    settings = {"log": {"save_every": 1}, "policy": {"iterations": 2}}
    trained(tmp_path, steps=1, **settings)
    newest = tmp_path / "run" / "checkpoint-1"
    shutil.copy(newest / "rollouts-0.safetensors", newest / "rollouts-1.safetensors")
    with pytest.raises(CheckpointError, match=r"2 process\(es\) share"):
        trained(tmp_path, steps=2, **settings)


def test_own_rewards_are_added_by_weight(tmp_path: Path) -> None:
    functions = [f"{HERE}:chance", f"{HERE}:length"]
    result, _ = trained(tmp_path, rewards={"functions": functions, "weights": [1.0, 0.5]}, steps=1)
    figures = result.figures
    mean = figures[f"rewards/{HERE}:chance/mean"], figures[f"rewards/{HERE}:length/mean"]
    assert figures["reward"] == pytest.approx(mean[0] + 0.5 * mean[1])


def test_own_rewards_see_the_gold_answer(tmp_path: Path) -> None:
    name = f"{HERE}:of_the_answer"
    result, _ = trained(tmp_path, rewards={"functions": [name], "outcome": name}, steps=1)
    assert result.figures["reward"] == 1.0  # each question asks for the sum that its answer is


def test_a_run_that_is_complete_is_not_trained_further(tmp_path: Path) -> None:
    first, _ = trained(tmp_path, steps=2)
    weights = (first.folder / "model.safetensors").read_bytes()
    shutil.rmtree(first.folder)  # as when it was killed before the model was written
    again, notes = trained(tmp_path, steps=2)
    assert again.steps == 2 and not any("step      3" in note for note in notes)
    assert (again.folder / "model.safetensors").read_bytes() == weights
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_answers_are_verified(tmp_path: Path) -> None:
    result, notes = trained(tmp_path, rewards={"functions": ["verify"], "outcome": "verify"}, steps=2)
    assert result.figures["reward"] == 0.0  # random text answers nothing
    assert any("all wrong" in note and "easier" in note for note in notes)


@pytest.mark.parametrize("name", ["broken", "too_few"])
def test_a_reward_function_that_fails_is_told_and_then_ends_the_run(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    rewards = {"functions": [f"{HERE}:{name}"], "outcome": f"{HERE}:{name}"}
    with pytest.raises(TrainingError, match="3 times in a row"):
        train_joint(tiny_joint(tmp_path, rewards=rewards), note=notes.append)
    assert sum("left out" in note for note in notes) == 2


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_change(tmp_path: Path) -> None:
    run = prepare(tiny_joint(tmp_path), note=lambda _: None)
    before = {n: p.clone() for n, p in run.trainer.model.named_parameters()}
    rewards = run.trainer._generate_and_score_completions
    run.trainer._generate_and_score_completions = lambda rows: {
        **rewards(rows),
        "advantages": torch.full((len(rows),), torch.nan),
    }
    with pytest.raises(TrainingError, match="diverged"):
        run.train()
    assert all(torch.equal(p, before[n]) for n, p in run.trainer.model.named_parameters())


def test_a_full_gpu_ends_the_run_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(tiny_joint(tmp_path), note=lambda _: None)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(run.trainer, "compute_loss", full)
    with pytest.raises(TrainingError, match=r"out of memory in step 1: .* 2 GiB\. Lower micro_batch") as found:
        run.train()
    assert "\n" not in str(found.value)


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(tiny_joint(tmp_path, log={"save_every": 1}), note=lambda _: None)
    save = torch.save

    def full(*args: Any, **kwargs: Any) -> None:
        if run.trainer.state.global_step == 2:
            raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run.train()
    assert [p.name for p in whole_checkpoints(tmp_path / "run")] == ["checkpoint-1"]
    assert not (tmp_path / "run" / WRITING).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollouts": {"group": 1}}, "group is 1"),
        ({"rollouts": {"temperature": 0.0}}, "temperature is 0"),
        ({"micro_batch": 3}, "Choose micro_batch"),
        ({"data": {"held_out": 24}}, "held_out"),
        ({"rollouts": {"problems": 50, "group": 2}}, "a step takes 50"),
        ({"device": "gpu"}, "device must be one of"),
        ({"head": {"layer": -1}}, "fresh = true"),
        ({"head": {"step_rule": "paper"}}, "fresh = true"),
        ({"data": {"source": None}}, "source"),
        ({"rewards": {"functions": ["no.such:thing"], "outcome": "no.such:thing"}}, "can't be found"),
        ({"rewards": {"functions": ["nonsense"], "outcome": "nonsense"}}, "package.module:function"),
        ({"trl": {"learning_rat": 1.0}}, "Did you mean 'learning_rate'"),
        ({"trl": {"generation_batch_size": 3}}, "TRL refuses"),
        ({"trl": {"temperature": 0.5}}, "another table sets it"),
        ({"trl": {"top_p": 0.5}}, "don't read it"),
        ({"head": {"filter": "sprr"}}, "self_supervised"),
        ({"policie": {"lr": 1.0}}, "Did you mean 'policy'"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"policy": {"clip": -1.0}}, "clip is -1.0; it must be 0 or more"),
        ({"policy": {"clip_high": float("nan")}}, "clip_high is nan; it must be 0 or more"),
        ({"lora": {"rank": -1}}, "rank is -1; it must be 0 or more"),
        ({"log": {"report_to": ["wandbee"]}}, "'wandbee' is unknown or not installed"),
        ({"data": 5}, "data must be a table"),
        ({"data": {"fields": {"problem": 5}}}, "data.fields.problem must be str"),
        ({"head": {"fresh": True, "logprob_features": True}, "rollouts": {"engine": "trl"}}, "log-probabilities"),
    ],
)
def test_what_can_be_known_is_refused_before_the_first_step(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(tiny_joint(tmp_path, **changes), note=lambda _: None)


def test_pieces_of_weights_are_no_food_for_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="lie in pieces"):
        prepare(tiny_joint(tmp_path), note=lambda _: None)


def test_problems_that_cannot_be_used_are_left_out_and_told(tmp_path: Path) -> None:
    path = problems(tmp_path)
    more = [{"problem": "What is π?", "answer": "see the appendix, page 3 \\text{and 4"}]
    more += [{"problem": "Read: " + "x" * 600, "answer": "1"}]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in more))
    notes: list[str] = []
    rewards = {"functions": ["verify"], "outcome": "verify"}
    run = prepare(tiny_joint(tmp_path, rewards=rewards, data={"held_out": 0}), note=notes.append)
    assert len(run.trainer.train_dataset) == 24
    assert any("no grader reads" in note for note in notes) and any("no room" in note for note in notes)


def test_a_dataset_without_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"problem": "What is 1 + 1?"}\n')
    rewards = {"functions": ["verify"], "outcome": "verify"}
    with pytest.raises(InputError, match="no gold answer"):
        prepare(tiny_joint(tmp_path, rewards=rewards, data={"held_out": 0}), note=lambda _: None)
