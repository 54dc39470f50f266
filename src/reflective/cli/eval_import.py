"""`reflective eval import`: generations and scores of other tools become a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
Turn a JSON-lines file with responses, and where they are there scores and verdicts, into a run folder, so that our
selectors, metrics and reports work on it. Fields are named by OURS=THEIRS; a dot goes into an object. Ours are problem,
answer, responses, scores, correct, id, tokens, family, filter. Without verdicts the answers are graded."""
EXAMPLES = """\
examples:
  reflective eval import theirs.jsonl --fields responses=outputs scores=rewards correct=labels --output runs/theirs
  reflective eval import results.jsonl --format reference --output runs/reference
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("file", metavar="FILE.jsonl", help="a problem per line, or a response per line")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the run folder to write")
    parser.add_argument(
        "--format", default="plain", choices=("plain", "reference", "lm-eval"), help="field names to begin with"
    )
    parser.add_argument("--fields", nargs="+", default=[], metavar="OURS=THEIRS", help="other names of fields")
    parser.add_argument("--filter", metavar="NAME", help="where several judged the same responses (default: the first)")
    parser.add_argument("--kind", default="math", metavar="K", help="the grader (default: math)")
    parser.add_argument("--model", default="imported", metavar="NAME", help="what the responses are from")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Import and say where."""
    from reflective.cli.common import field_mapping
    from reflective.evaluate.exchange import PRESETS, import_run

    fields = PRESETS[args.format].replaced(field_mapping(args.fields))
    notes: list[str] = []
    count = import_run(
        Path(args.file), Path(args.output), fields, kind=args.kind, model=args.model, filter=args.filter, notes=notes
    )
    for note in notes:
        say(f"note: {note}")
    if args.json:
        print_json({"output": args.output, "problems": count, "notes": notes})
    else:
        print(args.output)
        say(f"{count:,} problems; try: reflective report {args.output}")
    return DONE
