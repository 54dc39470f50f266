"""Does the stated risk hold? Records are split again and again: fit on one half, look at the other.

    python recipes/nano/splits.py runs/spend/validation runs/spend/test --splits 200

For each split a schedule is learnt and certified on one half of the problems, or with `--learn RUN` learnt on that run
and certified on the half; a split violates a risk where effort auto loses more than it on the other half, net, against
effort high. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from reflective.cli import exit_code
from reflective.errors import InputError
from reflective.evaluate.policies import problems_of
from reflective.search.certify import LEARNT, learn_then_test, orders_of, play_shares
from reflective.search.clocked import EVERY
from reflective.search.courses import Deck

RISKS = (0.01, 0.02, 0.03, 0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--learn", nargs="+", default=[], metavar="RUN", help="learn from these runs")
    parser.add_argument("--first", type=int, default=2, help="trajectories at once")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    problems, learn = (
        [traces for run in runs for traces in problems_of(Path(run))[1]] for runs in (args.runs, args.learn)
    )
    count, problems = len(problems), [*problems, *learn]
    if count < 2:
        raise InputError("the runs have no two problems, so there is nothing to split.")
    k = min(map(len, problems))
    decks = orders_of(Deck.of(problems, k, EVERY), args.seed)
    played = play_shares(decks, args.first, 1.0, "score")
    rng = random.Random(args.seed)
    outcomes: dict[float, list[tuple[float, float]]] = {risk: [] for risk in RISKS}  # loss and tokens on the other half
    for _ in range(args.splits):
        order = list(range(count))
        rng.shuffle(order)
        half = count // 2
        cut = 0 if learn else round(LEARNT * half)
        learnt = range(count, len(problems)) if learn else order[:cut]
        weights, limits = learn_then_test(played, learnt, order[cut:half], RISKS)
        for risk in RISKS:
            fine = [limit for limit in limits if limit.risk <= risk]
            if not fine:
                continue
            limit = min(fine, key=lambda limit: limit.tokens)
            held = played[limit.behind][0].take(order[half:])  # in the recorded order, as it would have gone
            found = held.played(weights, [limit.regret])[0]
            outcomes[risk].append((float(found.loss.mean()), found.tokens))
    figures = {
        str(risk): {
            "certified": len(rows),
            "violated": sum(loss > risk for loss, _ in rows) / args.splits,
            "loss": sum(loss for loss, _ in rows) / max(len(rows), 1),
            "tokens": sum(tokens for _, tokens in rows) / max(len(rows), 1),
        }
        for risk, rows in outcomes.items()
    }
    print(
        json.dumps(
            {
                "problems": count,
                "learnt": len(learn),
                "k": k,
                "splits": args.splits,
                "seed": args.seed,
                "risks": figures,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
