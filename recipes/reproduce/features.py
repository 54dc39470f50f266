"""Hidden states at the steps of recorded trajectories: one pass of the frozen model over what it once wrote.

The tokens are the sampled ones, so nothing is tokenised anew, and every layer and position can be had from the same
trajectories. Read by Hugging Face's own forward in float32, kept in bfloat16 as `reflective.train.rollouts` does.

Letters: B rows, T positions, H hidden size, n steps of a trajectory, N of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reflective.files import disk_errors, whole_file
from reflective.judge.format import Format, step_positions
from reflective.judge.logprobs import step_logprobs
from reflective.records import Record
from reflective.train.progress import Note

SHARD_PROBLEMS = 16
BATCH_TOKENS = 8192  # through the model at once, padding included
LOGPROBS = "logprobs"

Position = Literal["before", "at"]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, as an index into `hidden_states`, and a position: the step token's, or the one before it."""

    layer: int
    position: Position

    def __str__(self) -> str:
        return f"{self.layer}/{self.position}"


@dataclass(frozen=True, slots=True)
class Written:
    """A recorded trajectory as the model reads it: its tokens behind the prompt's, and where its steps end."""

    prompt: list[int]
    tokens: list[int]
    steps: list[int]  # indices into `tokens`

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.tokens

    def index(self, step: int, position: Position) -> int:
        """Where in `ids` the state for a step is read."""
        return len(self.prompt) + step - (position == "before")


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a problem's trajectories, one after the other."""

    positions: list[list[int]]  # of the step tokens of each trajectory
    features: Tensor  # (N, H) bfloat16
    logprobs: Tensor  # (N, 2): mean and lowest token log-probability of each step

    @property
    def counts(self) -> list[int]:
        """n of each trajectory."""
        return [len(places) for places in self.positions]


def sequences(record: Record, format: Format) -> list[Written]:
    """The trajectories of a record that was sampled with `keep_ids`."""
    prompt = record.extra["prompt_ids"]
    return [Written(prompt, ids, step_positions(format, ids, prompt)) for ids in record.extra["token_ids"]]


def read_features(
    model: Any, format: Format, records: Sequence[Record], places: Sequence[Place], folder: Path, note: Note
) -> None:
    """Read all records at all places into shards of `folder`; shards that are there are not read again."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(0, len(records), SHARD_PROBLEMS)
    for number, start in enumerate(shards):
        path = folder / f"shard-{number:05d}.safetensors"
        if path.is_file():
            continue
        if number % 20 == 0:
            note(f"  reading hidden states, shard {number + 1} of {len(shards)}")
        part = records[start : start + SHARD_PROBLEMS]
        rows = [sequences(record, format) for record in part]
        tensors = _read(model, [row for group in rows for row in group], places)
        info = {record.key: [row.steps for row in group] for record, group in zip(part, rows, strict=True)}
        with disk_errors(path), whole_file(path) as temporary:
            save_file(tensors, str(temporary), metadata={"steps": json.dumps(info, ensure_ascii=False)})


def load_features(folder: Path, place: Place) -> dict[str, Steps]:
    """By problem, what `read_features` left of one place."""
    found: dict[str, Steps] = {}
    for path in sorted(folder.glob("shard-*.safetensors")):
        with safe_open(str(path), "pt") as file:
            info: dict[str, list[list[int]]] = json.loads(file.metadata()["steps"])
            features, logprobs = file.get_tensor(str(place)), file.get_tensor(LOGPROBS)
        start = 0
        for key, positions in info.items():
            end = start + sum(map(len, positions))
            found[key] = Steps(positions, features[start:end], logprobs[start:end])
            start = end
    return found


@torch.inference_mode()
def _read(model: Any, rows: Sequence[Written], places: Sequence[Place]) -> dict[str, Tensor]:
    """The states (N, H) at each place and the log-probabilities (N, 2) of all steps, in the order of the rows."""
    width = model.config.get_text_config().hidden_size
    states: dict[str, list[Tensor]] = {str(place): [torch.empty(0, width)] * len(rows) for place in places}
    logprobs: list[Tensor] = [torch.empty(0, 2)] * len(rows)
    for batch in batches([len(row.ids) for row in rows], BATCH_TOKENS):
        ids = pad_sequence([torch.tensor(rows[i].ids) for i in batch], batch_first=True)  # (B, T)
        # padding stands on the right, where no token that counts can see it
        out = model(input_ids=ids.to(model.device), use_cache=False, output_hidden_states=True)
        for b, i in enumerate(batch):
            row = rows[i]
            if not row.steps:
                continue
            for place in places:
                at = [row.index(step, place.position) for step in row.steps]
                states[str(place)][i] = out.hidden_states[place.layer][b, at].cpu()  # (n, H)
            begin, end = len(row.prompt), len(row.prompt) + row.steps[-1] + 1
            logits = out.logits[b, begin - 1 : end - 1].float()  # each token's logits stand one before it
            chosen = logits.gather(1, ids[b, begin:end, None].to(logits.device)).squeeze(1)
            values = (chosen - logits.logsumexp(-1)).tolist()
            logprobs[i] = torch.tensor(step_logprobs(values, row.steps))
    tensors = {name: torch.cat(parts).bfloat16().contiguous() for name, parts in states.items()}
    return tensors | {LOGPROBS: torch.cat(logprobs).float().contiguous()}


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in groups of similar length, at most `tokens` with their padding where one alone is not longer."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
