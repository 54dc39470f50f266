"""An estimate of what joint training of a model takes, from the model's shape: memory of each GPU, and hours. No torch.

It is for choosing a configuration to launch with, and lies within some ten percent of what is measured; every term has
its line below. Memory is that of mixed precision: float32 weights, gradients and Adam moments, bfloat16 arithmetic.

Letters: N parameters, H hidden size, L layers, T tokens of a trajectory with its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from reflective.errors import InputError
from reflective.models.shape import BF16, Shape, shape_of
from reflective.settings import at_least

Way = Literal["ddp", "fsdp2", "zero3"]

STATE_BYTES: Final = 16  # a trained parameter: weight 4, gradient 4, two moments of Adam 4 + 4
REFERENCE_BYTES: Final = 4  # the reference model of the KL term is held as the policy is
BOUNDARY_BYTES: Final = 2  # what checkpointing keeps of a layer: its bfloat16 input
LAYER_BYTES: Final = 34  # a token and unit of H that a layer keeps for its backward, in bfloat16 (arXiv 2205.05198)
LOGIT_TOKENS: Final = 256  # tokens whose logits TRL holds at once, in float32, with their gradient
OVERHEAD_BYTES: Final = 3 * 2**30  # CUDA context, NCCL buffers, fragments
USABLE: Final = 0.92  # of a GPU's memory
SHIPPED_GPUS: Final = (8, 16)  # the launches that recipes/accelerate has configurations for
EFFICIENCY: Final = 0.4  # share of the peak that a training step reaches
WRITING_EFFICIENCY: Final = 0.05  # of the peak that generation reaches, with some hundreds of rows a GPU


@dataclass(frozen=True, slots=True)
class Work:
    """The batch and the machine. `peak` is a GPU's bfloat16 FLOP/s."""

    gpus: int = 8
    gpu_gib: float = 80.0
    peak: float = 989e12  # H100, dense
    trajectories: int = 256  # a step
    tokens: int = 8192  # of a trajectory, its prompt included
    micro_batch: int = 1
    steps: int = 400
    kl: bool = True
    checkpointing: bool = True

    def __post_init__(self) -> None:
        at_least(self, 1, "gpus", "trajectories", "tokens", "micro_batch", "steps", "peak")
        if not self.gpu_gib > 0:
            raise InputError(f"gpu_gib must be above 0, got {self.gpu_gib}.")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU while a step learns."""

    state: int
    gathered: int
    reference: int
    activations: int
    logits: int
    overhead: int = OVERHEAD_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.gathered + self.reference + self.activations + self.logits + self.overhead


def memory(shape: Shape, work: Work, way: Way) -> Memory:
    """What a training step needs on each GPU. Rollouts by vLLM sleep meanwhile."""
    parts = 1 if way == "ddp" else work.gpus
    trained = shape.parameters + shape.head_parameters
    # two layers are whole at a time (the next is fetched early), and the embedding and LM head while they are used
    widest = max(2 * shape.layer_parameters, shape.vocabulary * shape.hidden)
    tokens = work.micro_batch * work.tokens
    layer = tokens * shape.hidden * LAYER_BYTES
    kept = shape.layers * tokens * shape.hidden * BOUNDARY_BYTES + layer if work.checkpointing else shape.layers * layer
    return Memory(
        state=STATE_BYTES * trained // parts,
        gathered=0 if way == "ddp" else BF16 * widest,
        reference=REFERENCE_BYTES * shape.parameters // parts if work.kl else 0,
        activations=kept,
        logits=2 * 4 * LOGIT_TOKENS * shape.vocabulary,
    )


def step_seconds(shape: Shape, work: Work) -> tuple[float, float]:
    """Seconds of a step: writing the trajectories, and learning from them."""
    tokens = work.trajectories * work.tokens
    # 2·N a token forward, 4·N backward, 2·N more where checkpointing runs the forward again; 2·N for the old
    # log-probabilities and 2·N for the reference
    passes = 6 + (2 if work.checkpointing else 0) + 2 + (2 if work.kl else 0)
    learning = passes * shape.parameters * tokens / (work.gpus * work.peak * EFFICIENCY)
    writing = 2 * shape.parameters * tokens / (work.gpus * work.peak * WRITING_EFFICIENCY)
    return writing, learning


def fits(shape: Shape, work: Work, way: Way) -> bool:
    """Whether a step fits into the GPUs."""
    return memory(shape, work, way).total <= USABLE * work.gpu_gib * 2**30


def advised(shape: Shape, work: Work) -> Way | None:
    """The simplest way that fits; None where none does."""
    return next((way for way in ("ddp", "fsdp2") if fits(shape, work, way)), None)


def plan(model: str, work: Work) -> dict[str, Any]:
    """All of it as plain values: what `reflective train plan` prints."""
    shape = shape_of(model)
    writing, learning = step_seconds(shape, work)
    hours = (writing + learning) * work.steps / 3600
    way = advised(shape, work)
    nodes = -(-work.gpus // 8)
    return {
        "model": model,
        "parameters": shape.parameters,
        "head_parameters": shape.head_parameters,
        "gpus": work.gpus,
        "gib_of_a_gpu": work.gpu_gib,
        "gib": {name: round(memory(shape, work, name).total / 2**30, 1) for name in ("ddp", "fsdp2", "zero3")},
        "kv_gib_of_a_trajectory": round(shape.kv_bytes * work.tokens / 2**30, 2),
        "advised": way,
        "configuration": f"recipes/accelerate/{way}-{nodes}x8.yaml" if way and work.gpus in SHIPPED_GPUS else None,
        "seconds_of_a_step": {"writing": round(writing, 1), "learning": round(learning, 1)},
        "hours": round(hours, 1),
        "gpu_hours": round(hours * work.gpus, 0),
    }
