"""Put a fitted head into the package, with its card and an entry in the index, if the figures bear it out.

    python recipes/real/ship.py --head runs/real/0.5b/heads/plain \\
        --records recipes/real/records/qwen2.5-coder-0.5b-gsm8k/plain.jsonl.gz \\
        --hub-id Qwen/Qwen2.5-Coder-0.5B-Instruct --weights "dequantised from Q4_K_M"

A head is shipped where best of k is ahead of a single sample beyond noise on the test problems, and the better of best
of k and the vote that its scores weigh is not behind majority voting, which needs no head. Its weights are stored in
bfloat16; `fit.py` has rounded them before it scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import Judged, report
from fit import read
from safetensors.torch import save_file

from reflective.cli import exit_code
from reflective.evaluate.selectors import LABELS
from reflective.judge.config import HEAD_FILE
from reflective.models import save_judge
from reflective.models.shipped import INDEX

AGGREGATIONS = {
    "geometric_mean": "A response's score is the geometric mean of its steps'.",
    "last": "A response's score is its last step's, on which alone the head was fitted.",
}
POSITIONS = {
    "before": " at the end of each paragraph of a response",
    "mean": ", the mean over each paragraph of a response, which vLLM does not hand out",
}
HEADS = Path(__file__).resolve().parents[2] / "src/reflective/heads"
CARD = """\
# {name}

A score head for {hub_id} ({parameters:,} parameters, bfloat16): it tells which of
several responses to a word problem is likely to be right. The model itself is not in this folder and is not changed.

## What it is for

`reflective solve "…" --model {hub_id} --effort high` finds it by itself. It reads
`hidden_states[{layer}]`{position}{logprobs}.
{aggregation}

## Data, recipe and seed

{data}: {problems:,} training problems × {trajectories} responses at temperature {temperature}, at most
{max_tokens} tokens, and {validation_problems:,} validation problems × {validation_trajectories}, which chose the layer,
the epoch and the calibration. Weights of the model: {weights}; sampled with {dtype}.
Seed {seed}. `config.json` holds every setting.

    python recipes/real/sample.py --model … --output …
    python recipes/real/fit.py --model … --samples … --position {where}

## Measured

`python recipes/real/figures.py {records}`

{figures}

## Limits

English word problems of grade school; other kinds of problems were not part of its training, and its scores
may be worth nothing there (`docs/real-models.md` says what was measured). A score compares the responses to one
problem, and proves nothing. Licence: Apache-2.0.
"""


def objection(judged: Judged) -> str:
    """Why a head should not be shipped; "" where nothing speaks against it."""
    gain = judged.gain("single")
    if gain.outcome != "better":
        return f"not ahead of a single sample beyond noise: {gain.sentence('best of k', 'a single sample')}"
    if "majority" in judged.values:
        gains = {name: judged.gain("majority", name) for name in ("best_of_n", "weighted")}
        name, most = max(gains.items(), key=lambda item: item[1].difference)
        if most.difference < 0:
            return f"majority voting is ahead: {most.sentence(LABELS[name], 'majority voting')}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship it, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", required=True, metavar="FOLDER", help="a head that fit.py saved")
    parser.add_argument("--records", required=True, metavar="FILE", help="what it says of the test responses")
    parser.add_argument("--hub-id", required=True, metavar="OWNER/MODEL")
    parser.add_argument("--weights", default="as published", help="where the model's weights come from")
    parser.add_argument("--to", default=str(HEADS), metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)

    records = Path(args.records)
    if reason := objection(Judged.read(records)):
        print(f"not shipped: {reason}", file=sys.stderr)
        return 1
    judge, name = read(Path(args.head)), args.hub_id.rpartition("/")[2].lower()
    assert judge.head is not None
    folder = save_judge(Path(args.to) / name, judge)
    state = {key: tensor.bfloat16().contiguous() for key, tensor in judge.head.state_dict().items()}
    save_file(state, str(folder / HEAD_FILE), metadata={"format": "pt"})
    settings = judge.config.provenance["trained_with"]
    names = (
        "data",
        "problems",
        "validation_problems",
        "trajectories",
        "validation_trajectories",
        "temperature",
        "max_tokens",
        "dtype",
        "seed",
    )
    card = CARD.format(
        name=name,
        hub_id=args.hub_id,
        parameters=sum(tensor.numel() for tensor in state.values()),
        layer=judge.config.layer,
        where=judge.config.feature_position,
        position=POSITIONS[judge.config.feature_position],
        aggregation=AGGREGATIONS[judge.config.aggregation],
        logprobs=", and the log-probabilities of its tokens" if judge.config.logprob_features else "",
        weights=args.weights,
        records=records.parent.name if records.is_absolute() else records.parent.as_posix(),
        figures=report(records.parent),
        **{key: settings[key] for key in names},
    )
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    index = Path(args.to) / INDEX
    heads = [head for head in json.loads(index.read_text(encoding="utf-8"))["heads"] if head["name"] != name]
    heads.append({"name": name, "hub_ids": [args.hub_id], "summary": f"{settings['data']}, {args.hub_id}"})
    index.write_text(json.dumps({"heads": heads}, indent=2) + "\n", encoding="utf-8")
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
