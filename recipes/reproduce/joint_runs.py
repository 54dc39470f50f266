"""Joint runs of the studies 4 and 7: begun from a given head, and sampled on test problems when they have gone so far.

A run is `reflective.train.joint`'s own, with the settings of [trainer] and of a variant over them. That it goes on
from its newest checkpoint, as the same run, is what lets it be looked at on its way.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from judges import is_written
from lab import SEEDS, Lab, count_lines, search_settings
from sampling import sample
from settings import Table, merged

from reflective.engines.torch import TorchEngine
from reflective.errors import TrainingError
from reflective.judge.judge import Judge
from reflective.models import Checkpoint, load_checkpoint, save_checkpoint
from reflective.records.manifest import RECORDS
from reflective.settings import make_settings
from reflective.tasks import TASKS
from reflective.train.joint.config import JointConfig
from reflective.train.joint.run import train_joint

TRAINED = "trained"  # the folder of the trainer in a run's folder


@dataclass(frozen=True, slots=True)
class Look:
    """What is sampled of a model that is looked at: test problems and trajectories of each."""

    problems: int
    trajectories: int


def begin(lab: Lab, folder: Path, judge: Judge) -> Path:
    """A checkpoint of the model with this judge, to start from; what is there stays."""
    if not folder.is_dir():
        checkpoint = lab.checkpoint()
        whole = Checkpoint(checkpoint.model, checkpoint.tokenizer, judge, folder.name)
        save_checkpoint(folder, whole, dtype=torch.float32)
    return folder


def joint_config(lab: Lab, start: Path, output: Path, steps: int, seed: int, variant: Table) -> JointConfig:
    """The settings of a run: ours, those of [trainer], those of the variant."""
    data, trainer = lab.settings.data, lab.settings.trainer
    ours: Table = {
        "data": {
            "source": "mixture",
            "families": list(data.families or TASKS),
            "levels": list(data.levels),
            "held_out": 0,
        },
        "log": {"evaluate_every": 0, "keep": 1, "save_every": 1_000_000, "report_to": [], "plot": False},
        "save_dtype": "float32",
    }
    its_own = {"model": str(start), "output": str(output), "steps": steps, "seed": seed}
    return make_settings(JointConfig, merged(ours, trainer, variant, its_own))


def steps_told(settings: Table, steps: int) -> str:
    """How much a run learns from, in words."""
    rollouts = settings["trainer"]["rollouts"]
    return f"{steps} steps of {rollouts['problems']} × {rollouts['group']} trajectories"


def run_to(lab: Lab, run: Path, start: Path, steps: int, seed: int, variant: Table, look: Look) -> None:
    """Let a run go on to `steps` and sample the model that it has come to, into `run/step-NNNN`."""
    target = look_folder(run, steps)
    if is_looked_at(target, look):
        return
    reached = run / "reached"
    if not reached.exists() or int(reached.read_text()) != steps:
        lab.note(f"{run.name}: to step {steps}")
        result = train_joint(joint_config(lab, start, run / TRAINED, steps, seed, variant), note=lambda text: None)
        if result.interrupted:
            raise KeyboardInterrupt
        if result.steps < steps:
            raise TrainingError(f"{run} ended after step {result.steps} of {steps}. Remove it and start again.")
        reached.write_text(f"{steps}\n")
    look_at(lab, run / TRAINED / "model", target, look)


def look_at(lab: Lab, model: Path, target: Path, look: Look) -> None:
    """Sample a checkpoint on the first test problems."""
    if is_looked_at(target, look):
        return
    data = lab.settings.data
    engine = TorchEngine.from_checkpoint(load_checkpoint(str(model)), max_rows=data.rows)
    problems = lab.problems("test")[: look.problems]
    sample(engine, problems, look.trajectories, target, search_settings(data, SEEDS["test"]), lab.note)
    engine.close()


def look_folder(run: Path, steps: int) -> Path:
    """Where the records lie of what a run had come to after some steps."""
    return run / f"step-{steps:04d}"


def is_looked_at(target: Path, look: Look) -> bool:
    """Whether all problems are sampled."""
    return is_written(target) and count_lines(target / RECORDS) >= look.problems


def tidy(run: Path) -> None:
    """Remove what only serves to go on: checkpoints with their optimizer."""
    for path in (run / TRAINED).glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
