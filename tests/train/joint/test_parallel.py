"""Two processes on the CPU: DDP and FSDP2, where one of them has no step at all; and the launchers' configurations.

Accelerate starts FSDP on accelerators only, so FSDP2 is tested as accelerate applies it: each decoder layer, then the
whole model, with the head inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from safetensors.torch import load_file

from reflective.models import load_checkpoint
from reflective.train.joint.checkpoints import whole_checkpoints
from train.joint.fakes import tiny_joint

TESTS = Path(__file__).parents[2]
RECIPES = TESTS.parent / "recipes/accelerate"
RUN = """
import sys
from pathlib import Path
import torch.distributed as dist
from train.joint.fakes import tiny_joint
from reflective.train.joint.run import prepare
from reflective.train.joint.batch import NO_STEP

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
run = prepare(tiny_joint(folder, micro_batch=2, steps=steps, rollouts={"max_tokens": 6},
                         log={"save_every": 1, "evaluate_every": 2, "evaluate_group": 2}))
trainer = run.trainer
compute = trainer.compute_loss

def without_steps(model, inputs, **_):
    if trainer.accelerator.process_index == 1:  # nothing for the head on this rank
        inputs = {**inputs, "step_index": inputs["step_index"].clamp(max=NO_STEP)}
    return compute(model, inputs)

trainer.compute_loss = without_steps
assert dist.is_initialized()
print(run.train())
assert not dist.is_initialized()  # a process that ends in the group is aborted now and then
"""


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tiny import tiny_checkpoint
from trl.trainer.utils import add_fused_lm_head
from reflective.judge.loss import spr_loss
from reflective.train.joint.scored_model import attach_head

dist.init_process_group("gloo")
rank = dist.get_rank()
ids = torch.stack([torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(r)) for r in range(2)])
index = torch.tensor([[[3, 9], [5, -1], [12, 15]], [[-1, -1]] * 3])  # the second rank has no step
outcomes = torch.tensor([1, 0, 1])

def made():
    checkpoint = tiny_checkpoint("qwen3", dropout=0.0)
    add_fused_lm_head(checkpoint.model, outputs=("log_probs", "entropy"))
    attach_head(checkpoint.model, checkpoint.judge.head, 2, 0.5)
    return checkpoint.model.train()

def loss_of(model, r, reduce):
    out = model(input_ids=ids[r], attention_mask=torch.ones_like(ids[r]), labels=ids[r], fused_lm_head=True,
                step_index=index[r])
    spr = spr_loss(out.step_logits, outcomes, index[r] >= 0, reduce_counts=reduce)
    return -out.log_probs.mean() + spr.loss

def summed(counts):
    dist.all_reduce(counts)
    return counts

model = made()
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
loss_of(model, rank, summed).backward()
found = {n: p.grad.full_tensor() for n, p in model.named_parameters()}

plain = made()
counts = torch.zeros(2)
with torch.no_grad():
    for r in range(2):
        loss_of(plain, r, lambda c: counts.add_(c).clone())
(sum(loss_of(plain, r, lambda c: counts) for r in range(2)) / 2).backward()
for name, parameter in plain.named_parameters():
    torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
assert any(n.startswith("sprm.") and found[n].abs().sum() > 0 for n in found)
print("equal")
dist.destroy_process_group()
"""


def launch(script: Path, *arguments: str) -> str:
    """Run a script in two processes that meet on this machine."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def launched(folder: Path, *, steps: int) -> None:
    script = folder / "run.py"
    script.write_text(RUN, encoding="utf-8")
    tiny_joint(folder)  # the model and the problems are made once
    launch(script, str(folder), str(steps))


@pytest.mark.long
def test_two_processes_train_though_one_has_no_step(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    launched(whole, steps=3)
    (parts / "model-qwen3").symlink_to(whole / "model-qwen3")
    launched(parts, steps=2)
    launched(parts, steps=3)  # goes on from the second step
    assert [p.name for p in whole_checkpoints(parts / "run")] == ["checkpoint-2", "checkpoint-3"]
    trained, untrained = load_checkpoint(whole / "run/model"), load_checkpoint(whole / "model-qwen3")
    assert trained.head is not None and untrained.head is not None
    assert not torch.equal(trained.head.hidden.weight, untrained.head.hidden.weight)
    for name in ("model.safetensors", "sprm/head.safetensors"):
        ours, theirs = (load_file(folder / "run/model" / name) for folder in (whole, parts))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.slow
def test_pieces_of_the_model_get_the_gradient_of_the_whole(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED, encoding="utf-8")
    assert launch(script).count("equal") == 2


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
