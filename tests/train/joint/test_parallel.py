"""Two processes on the CPU: DDP and FSDP2, where one of them has no step at all; and the launchers' configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from safetensors.torch import load_file

from reflective.checkpoint import load_checkpoint
from reflective.train.joint.saving import whole_checkpoints
from train.joint.fakes import tiny_joint

TESTS = Path(__file__).parents[2]
RECIPES = TESTS.parent / "recipes/accelerate"
RUN = """
import sys
from pathlib import Path
from train.joint.fakes import tiny_joint
from reflective.train.joint.run import prepare
from reflective.train.joint.steps import NO_STEP

folder, engine, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run = prepare(tiny_joint(folder, micro_batch=2, steps=steps, rollouts={"engine": engine, "max_tokens": 6},
                         log={"save_every": 1, "evaluate_every": 2, "evaluate_group": 2}))
trainer = run.trainer
compute = trainer._compute_loss

def without_steps(model, inputs):
    if trainer.accelerator.process_index == 1:  # nothing for the head on this rank
        inputs = {**inputs, "step_index": inputs["step_index"].clamp(max=NO_STEP)}
    return compute(model, inputs)

trainer._compute_loss = without_steps
print(run.train())
"""


def launched(folder: Path, engine: str, *, steps: int, fsdp: bool) -> None:
    script = folder / "run.py"
    script.write_text(RUN, encoding="utf-8")
    tiny_joint(folder)  # the model and the problems are made once
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    if fsdp:
        environment |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
        }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(folder), engine, str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "fsdp"), [("torch", False), ("trl", True)], ids=["ddp", "fsdp2"])
def test_two_processes_train_though_one_has_no_step(tmp_path: Path, engine: str, fsdp: bool) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    launched(whole, engine, steps=3, fsdp=fsdp)
    (parts / "model-qwen3").symlink_to(whole / "model-qwen3")
    launched(parts, engine, steps=2, fsdp=fsdp)
    launched(parts, engine, steps=3, fsdp=fsdp)  # goes on from the second step
    assert [p.name for p in whole_checkpoints(parts / "run")] == ["checkpoint-2", "checkpoint-3"]
    trained, untrained = load_checkpoint(whole / "run/model"), load_checkpoint(whole / "model-qwen3")
    assert trained.head is not None and untrained.head is not None
    assert not torch.equal(trained.head.hidden.weight, untrained.head.hidden.weight)
    for name in ("model.safetensors", "sprm/head.safetensors"):
        ours, theirs = (load_file(folder / "run/model" / name) for folder in (whole, parts))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_launcher_reads_the_configuration(path: Path) -> None:
    from accelerate.commands.config import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(path))
    kind, _, size = path.stem.rpartition("-")
    nodes, each = map(int, size.split("x"))
    assert (config.num_machines, config.num_processes) == (nodes, nodes * each)
    assert config.mixed_precision == "bf16"
    expected = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP, "zero3": DistributedType.DEEPSPEED}
    assert config.distributed_type == expected[kind]
    if kind == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if kind == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3


def test_every_way_has_a_configuration_for_one_and_two_nodes() -> None:
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    assert names == {f"{kind}-{nodes}x8" for kind in ("ddp", "fsdp2", "zero3") for nodes in (1, 2)}
