"""Hidden states at the steps of recorded trajectories: one pass of the frozen model over what it once wrote.

The tokens are the recorded ones, so nothing is tokenised anew, and every layer and position can be had from the same
trajectories, whichever engine wrote them. Read by Hugging Face's own forward, kept in shards (`reflective.shards`).

Letters: B rows, T positions, H hidden size, n steps of a trajectory, N of a problem's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reflective.errors import CheckpointError, InputError
from reflective.judge.format import Format, step_positions
from reflective.records import Record
from reflective.shards import Place, Position, Shard, path_of, read_shard
from reflective.train.progress import Note

PROBLEMS = 16  # read together
BATCH_TOKENS = 8192  # through the model at once, padding included


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A recorded trajectory as the model reads it: its tokens behind the prompt's, and where its steps end."""

    prompt: list[int]
    tokens: list[int]
    steps: list[int]  # indices into `tokens`

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.tokens

    def index(self, step: int, position: Position) -> int:
        """Where in `ids` the state for a step is read, for a position that is a single one."""
        return len(self.prompt) + step - (position == "before")

    def read(self, hidden: Tensor, position: Position) -> Tensor:
        """The states of the steps (n, H), from those of all of `ids` (T, H)."""
        first = len(self.prompt)
        if position != "mean":
            return hidden[[self.index(step, position) for step in self.steps]]
        starts = [0, *(step + 1 for step in self.steps)]
        # the first token of a step is drawn one position before it
        means = [hidden[first + a - 1 : first + b].float().mean(0) for a, b in zip(starts, self.steps)]
        return torch.stack(means) if means else hidden[:0]


def sequences(record: Record, format: Format) -> list[TokenSequence]:
    """The trajectories of a record that keeps token ids. Raises `InputError` for one that does not."""
    prompt = list(record.prompt_ids)
    if record.trajectories and not prompt:
        raise InputError(f"no token ids were kept of {record.key!r:.60}, so its steps can't be read again.")
    return [
        TokenSequence(prompt, list(t.token_ids), step_positions(format, t.token_ids, prompt))
        for t in record.trajectories
    ]


def read_features(
    model: Any, format: Format, records: Sequence[Record], places: Sequence[Place], folder: Path, note: Note
) -> None:
    """Read records at all these places into the shards of a run folder; what is there is not read again.

    Raises `CheckpointError` where the shards that are there are of another format.
    """
    missing = [record for record in records if record.trajectories and not _has(folder, record, places)]
    for start in range(0, len(missing), PROBLEMS):
        if start % (20 * PROBLEMS) == 0:
            note(f"  reading hidden states, problem {start + 1:,} of {len(missing):,}")
        part = missing[start : start + PROBLEMS]
        rows = [sequences(record, format) for record in part]
        read = iter(_read(model, [row for group in rows for row in group], places))
        for record, group in zip(part, rows, strict=True):
            _add(folder, record, group, [next(read) for _ in group], places)


def _has(folder: Path, record: Record, places: Sequence[Place]) -> bool:
    path = path_of(folder, record.extra["number"])
    return path.is_file() and set(places) <= set(read_shard(path, places).features)


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """What a pass over a trajectory gave: states (n, H) by place, and the log-probability of each token."""

    states: Mapping[Place, Tensor]
    logprobs: list[float]


def _add(
    folder: Path, record: Record, rows: Sequence[TokenSequence], read: Sequence[_Reading], places: Sequence[Place]
) -> None:
    """Write the shard of a record, with what it held before."""
    number, steps = record.extra["number"], [row.steps for row in rows]
    path = path_of(folder, number)
    old = read_shard(path) if path.is_file() else Shard(record.key, [len(row.tokens) for row in rows], steps)
    if old.features and old.steps != steps:
        raise CheckpointError(f"'{path}' holds the features of steps that end elsewhere. Remove it.")
    states = {place: torch.cat([r.states[place] for r in read]) for place in places}  # (N, H) each
    logprobs = torch.tensor([value for r in read for value in r.logprobs], dtype=torch.float64)
    shard = replace(
        old, steps=steps, features={**old.features, **states}, figures={"logprobs": logprobs, **old.figures}
    )
    shard.write(folder, number)


@torch.inference_mode()
def _read(model: Any, rows: Sequence[TokenSequence], places: Sequence[Place]) -> list[_Reading]:
    """Each trajectory's states and log-probabilities, in the order of the rows."""
    found: dict[int, _Reading] = {}
    for batch in batches([len(row.ids) for row in rows], BATCH_TOKENS):
        ids = pad_sequence([torch.tensor(rows[i].ids) for i in batch], batch_first=True)  # (B, T)
        # padding stands on the right, where no token that counts can see it
        out = model(input_ids=ids.to(model.device), use_cache=False, output_hidden_states=True)
        for b, i in enumerate(batch):
            row = rows[i]
            states = {
                place: row.read(out.hidden_states[place.layer][b], place.position).cpu() for place in places
            }  # (n, H) each
            begin, end = len(row.prompt), len(row.ids)
            logits = out.logits[b, begin - 1 : end - 1].float()  # each token's logits stand one before it
            chosen = logits.gather(1, ids[b, begin:end, None].to(logits.device)).squeeze(1)
            found[i] = _Reading(states, (chosen - logits.logsumexp(-1)).tolist())
    return [found[i] for i in range(len(rows))]


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
