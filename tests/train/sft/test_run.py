from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflective.errors import CheckpointError, InputError, TrainingError
from reflective.files import folder_lock
from reflective.settings import make_settings, read_settings
from reflective.train.progress import stop_on_signals
from reflective.train.sft import checkpoints
from reflective.train.sft.batches import micro_batches
from reflective.train.sft.checkpoints import newest_checkpoint
from reflective.train.sft.config import SFTConfig
from reflective.train.sft.learner import Learner
from reflective.train.sft.peers import Peers
from reflective.train.sft.reports import StepReport
from reflective.train.sft.run import SFTResult, _Run, train_sft
from train.sft.fakes import ARCHITECTURE, tiny_config

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from train.sft.fakes import tiny_config
from reflective.train.sft.run import train_sft

if __name__ == "__main__":
    config = tiny_config(Path(sys.argv[1]), checkpoint_steps=3, log_steps=1, processes=int(sys.argv[2]))
    sys.exit(train_sft(config).exit_code)
"""


def run(config: SFTConfig) -> tuple[SFTResult, list[StepReport]]:
    reports: list[StepReport] = []
    return train_sft(config, report=reports.append, note=lambda text: None), reports


def made_ready(config: SFTConfig) -> _Run:
    return _Run(config, Peers(), lambda report: None, lambda text: None)


def process(folder: Path, processes: int = 1) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", RUN, str(folder), str(processes)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def newest_step(folder: Path) -> int:
    checkpoint = newest_checkpoint(folder / "run/checkpoints")
    return int(checkpoint.name.removeprefix("step-")) if checkpoint else 0


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and running.poll() is None:
        assert time.monotonic() < deadline, "the run wrote no checkpoint"
        time.sleep(0.01)


def test_a_model_learns_small_sums(tmp_path: Path) -> None:
    result, reports = run(tiny_config(tmp_path, max_tokens=40_000, log_steps=1, validate_steps=10))
    validated = [report.validation["all"] for report in reports if report.validation]
    assert result.tokens >= 40_000 and result.steps == len(reports)
    assert reports[0].loss > 5.0  # about log(384), of a model that knows nothing
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert result.validation["all"] < validated[0]
    assert result.validation["all"] == pytest.approx(result.validation["validation"])


def test_the_result_is_a_plain_checkpoint_with_two_unused_ids(tmp_path: Path) -> None:
    result, _ = run(tiny_config(tmp_path, max_tokens=500, save_dtype="bfloat16"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(result.folder), AutoTokenizer.from_pretrained(result.folder)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.config.vocab_size % 64 == 0 and model.config.vocab_size >= len(tokenizer) + 2
    assert not {".bin", ".pt", ".pth", ".pkl"} & {path.suffix for path in (tmp_path / "run").rglob("*")}


def test_the_loss_is_that_of_each_example_alone(tmp_path: Path) -> None:
    trainer = made_ready(tiny_config(tmp_path, precision="float32"))
    batch = max(micro_batches(trainer.cache, 256, pad_id=trainer.pad_id), key=lambda b: b.ids.numel() - b.tokens)
    together = trainer.learner.token_losses(batch)
    for row, example in enumerate(batch.examples):
        ids = torch.tensor(
            trainer.cache.tokens[trainer.cache.offsets[example] : trainer.cache.offsets[example + 1]]
        ).long()
        learn = torch.tensor(trainer.cache.learn[trainer.cache.offsets[example] : trainer.cache.offsets[example + 1]])
        logits = trainer.model(input_ids=ids[None]).logits[0]
        alone = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")[learn[1:]]
        torch.testing.assert_close(together[batch.rows == row], alone, atol=1e-4, rtol=1e-4)


def test_micro_batches_do_not_change_the_gradient(tmp_path: Path) -> None:
    small, large = (made_ready(tiny_config(tmp_path, micro_tokens=n, step_tokens=10**6))._learn() for n in (64, 4096))
    assert small == pytest.approx(large, rel=1e-4)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    everything = {"step_tokens": 10**6, "micro_tokens": 1000, "max_tokens": 30_000, "log_steps": 1}
    results = []
    for processes in (1, 2):
        config = tiny_config(tmp_path, **everything, processes=processes, output=str(tmp_path / str(processes)))
        result, reports = run(config)
        results.append([report.loss for report in reports] + [result.validation["all"]])
    assert len(results[0]) >= 3
    assert results[0] == pytest.approx(results[1], rel=1e-3)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, processes: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert process(whole, processes).wait(timeout=300) == 0
    rng = random.Random(processes)
    for least in (3, 9):
        running = process(killed, processes)
        wait_for(lambda least=least: newest_step(killed) >= least, running)
        time.sleep(rng.random() * 0.2)
        running.kill()
        running.wait()
    assert process(killed, processes).wait(timeout=300) == 0
    a, b = (load_file(folder / "run/model/model.safetensors") for folder in (whole, killed))
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    running = process(tmp_path)
    wait_for(lambda: newest_step(tmp_path) > 0, running)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "to go on from" in told and "Ctrl-C again stops at once" in told
    assert not (tmp_path / "run/model").exists()
    assert process(tmp_path).wait(timeout=300) == 0
    assert (tmp_path / "run/model/config.json").exists()


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    run(tiny_config(tmp_path, max_tokens=500))
    run(tiny_config(tmp_path, max_tokens=1000))  # a longer run is the same run
    with pytest.raises(TrainingError, match="other settings"):
        run(tiny_config(tmp_path, seed=5))


def test_a_second_start_of_a_complete_run_leaves_the_head(tmp_path: Path) -> None:
    first, _ = run(tiny_config(tmp_path, max_tokens=500, save_dtype="bfloat16"))
    head = first.folder / "sprm" / "head.safetensors"
    head.parent.mkdir()
    head.write_text("fitted to these weights")
    (first.folder / "README.md").write_text("a card")
    before = (first.folder / "model.safetensors").stat().st_mtime_ns
    again, reports = run(tiny_config(tmp_path, max_tokens=500, save_dtype="bfloat16"))
    assert not reports and again.folder == first.folder and head.exists()
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == before
    run(tiny_config(tmp_path, max_tokens=1500, save_dtype="bfloat16"))  # other weights: not their head
    assert not head.exists() and (first.folder / "README.md").exists()


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", "config.json"])
def test_half_a_model_is_written_anew(tmp_path: Path, lost: str) -> None:
    first, _ = run(tiny_config(tmp_path, max_tokens=500))
    (first.folder / lost).unlink()
    run(tiny_config(tmp_path, max_tokens=500))
    assert (first.folder / lost).exists()


def test_an_older_model_is_replaced_where_a_kill_came_before(tmp_path: Path) -> None:
    first, _ = run(tiny_config(tmp_path, max_tokens=500))
    old = load_file(first.folder / "model.safetensors")
    further = made_ready(tiny_config(tmp_path, max_tokens=1500))
    further._learn()
    further._learn()
    further._save()  # and is killed
    _, reports = run(tiny_config(tmp_path, max_tokens=600))
    new = load_file(first.folder / "model.safetensors")
    assert not reports and any(not old[name].equal(new[name]) for name in old)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        run(tiny_config(tmp_path))


def test_a_missing_tokenizer_or_device_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer: .*nowhere"):
        run(tiny_config(tmp_path, tokenizer=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="device 'cuda:77' is not there"):
        run(tiny_config(tmp_path, device="cuda:77"))
    assert not (tmp_path / "run").exists()


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Learner, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", full)
        with pytest.raises(TrainingError, match="out of memory in step 1: .*Lower micro_tokens, then start again"):
            run(tiny_config(tmp_path))
    run(tiny_config(tmp_path, max_tokens=500))
    monkeypatch.setattr(Learner, "step", full)
    with pytest.raises(TrainingError, match="step 3: .*another output"):
        run(tiny_config(tmp_path))


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run(tiny_config(tmp_path, checkpoint_steps=1))
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_half_an_old_checkpoint_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)  # as if killed before
        run(tiny_config(tmp_path, max_tokens=1500, checkpoint_steps=1, keep_checkpoints=1))
    folder = tmp_path / "run/checkpoints"
    assert len(checkpoints.checkpoints(folder)) == 1 and len(list(folder.iterdir())) > 1
    run(tiny_config(tmp_path, max_tokens=1500, checkpoint_steps=1, keep_checkpoints=1))
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_the_first_ctrl_c_is_answered_by_the_process_that_leads(
    rank: str | None, lines: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.requested and capfd.readouterr().err.count("\n") == lines


def test_a_time_budget_ends_the_run_decayed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_tokens=None, max_minutes=1.5 / 60, log_steps=1)
    began = time.monotonic()
    _, reports = run(config)
    assert 1.4 < time.monotonic() - began < 30
    assert reports[-1].lr < 0.3 * max(report.lr for report in reports)


def test_a_model_can_be_trained_further(tmp_path: Path) -> None:
    first, reports = run(tiny_config(tmp_path, max_tokens=20_000, log_steps=1))
    changes = {"architecture": None, "tokenizer": None, "model": str(first.folder), "output": str(tmp_path / "more")}
    _, further = run(tiny_config(tmp_path, max_tokens=1000, log_steps=1, **changes))
    assert further[0].loss < 0.8 * reports[0].loss


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Lower the rates"):
        run(tiny_config(tmp_path, optimizer={"muon_lr": 1e30, "adamw_lr": 1e30, "warmup": 0.0}))


def test_a_missing_tensorboard_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notes: list[str] = []
    train_sft(tiny_config(tmp_path, max_tokens=500, tensorboard=True), report=lambda report: None, note=notes.append)
    assert any("TensorBoard is not installed" in note for note in notes)


def test_an_unknown_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'optimizer.muon_lr'"):
        tiny_config(tmp_path, optimizer={"muonlr": 0.1})
    with pytest.raises(InputError, match="'hidden_sizes'"):
        run(tiny_config(tmp_path, architecture=ARCHITECTURE | {"hidden_sizes": 3}))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": None},
        {"model": "also"},
        {"architecture": None},
        {"tokenizer": None},
        {"seed": "one"},
        {"seed": True},
        {"precision": "float16"},
        {"step_tokens": 0},
        {"optimizer": {"warmup": 0.8, "decay": 0.4}},
        {"data": {}},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        tiny_config(tmp_path, **changes)


def test_the_recipe_of_nano_is_a_valid_configuration() -> None:
    config = read_settings(SFTConfig, TESTS.parent / "recipes/nano/sft.toml", max_minutes=None, output="elsewhere")
    assert config.output == "elsewhere" and config.architecture is not None
    assert make_settings(SFTConfig, asdict(config)) == config
