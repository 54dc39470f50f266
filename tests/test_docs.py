"""The documentation tells the truth: its commands run, its links lead somewhere, the names that it gives exist.

The ```bash, ```console and ```python blocks of a page run from top to bottom in one empty folder, the Python blocks in
one namespace. After `<!-- test: parse -->` a block is only parsed: it takes hours, needs a download or the checkout.
So are blocks that need nano where its weights are not there. ```text blocks show something and are not touched.

After `<!-- test: real model -->` a block works with a pretrained model of the reader's own, `path/to/model`: it runs
where REFLECTIVE_REAL_MODEL names the folder of one, and is only parsed elsewhere.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from reflective.verify import GRADERS

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "reflective"
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
PARSE_ONLY = "<!-- test: parse -->"
REAL_MODEL = "<!-- test: real model -->"
READERS_MODEL = Path("path/to/model")  # as the pages name it
LANGUAGES = ("bash", "console", "python")
NEEDS_MODEL = ("solve", "chat", "score", "info", "train", "eval", "report", "plan")
OTHER_PROGRAMS = ("make", "accelerate", "python", "pip", "git", "cat", "echo", "printf", "vllm")

# nothing but white space may stand between the marker and its block
BLOCK = re.compile(
    r"^(?P<mark><!-- [^\n]* -->\n\s*)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    mark: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The simple commands of a shell block, without here-documents and redirections."""
        code = re.sub(r"<<'(\w+)'\n.*?^\1$", "", self.code, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        if self.language == "console":
            code = "\n".join(line[2:] for line in code.splitlines() if line.startswith("$ "))
        found: list[list[str]] = []
        for line in code.splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            tokens = iter([*lexer, ";"])
            for token in tokens:
                if set(token) <= set("|&;"):
                    if words:
                        found.append(words)
                    words = []
                elif set(token) <= set("<>"):
                    next(tokens)
                else:
                    words.append(token)
        return found

    @property
    def runs(self) -> bool:
        """Whether all is here that it needs."""
        if self.mark == REAL_MODEL:
            return bool(os.environ.get("REFLECTIVE_REAL_MODEL"))
        return self.mark != PARSE_ONLY and (nano_is_there() or not self.needs_nano)

    @property
    def needs_nano(self) -> bool:
        """Whether nano is loaded."""
        if self.language == "python":
            return "from_pretrained(" in self.code or "load_checkpoint(" in self.code or "model." in self.code
        return any(c[0] == "reflective" and len(c) > 1 and c[1] in NEEDS_MODEL for c in self.commands)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are code."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            match["code"],
            (match["mark"] or "").strip(),
            text[: match.start("code")].count("\n") + 1,
        )
        for match in BLOCK.finditer(text)
        if match["language"] in LANGUAGES
    ]


def nano_is_there() -> bool:
    return (resources.files("reflective.nano") / "weights" / "config.json").is_file()


def linked(source: str, target: str) -> None:
    """Stand in for a copy of a file that nobody changes in place."""
    Path(target).symlink_to(Path(source).resolve())


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_every_block_parses(page):
    for block in blocks(page):
        assert block.mark in ("", PARSE_ONLY, REAL_MODEL), f"{page}:{block.line}: {block.mark!r} is not known"
        if block.language == "python":
            compile(block.code, f"{page}:{block.line}", "exec")
        else:
            assert block.commands, f"{page}:{block.line}: no command"
            for command in block.commands:
                check_command(command, f"{name(page)}:{block.line}")


def check_command(command: list[str], where: str) -> None:
    """The program is known, and what is said to it can be meant."""
    program, *arguments = command
    if program == "reflective":
        parse_reflective(arguments, where)
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        unknown = [a for a in arguments if "=" not in a and not a.startswith("-") and a not in targets]
        assert not unknown, f"{where}: make has no target {unknown}"
    elif program == "python" and arguments[:1] != ["-m"]:
        assert (REPOSITORY / arguments[0]).is_file(), f"{where}: no file {arguments[0]}"
    else:
        assert program in OTHER_PROGRAMS, f"{where}: {program!r} is not expected in the documentation"


def parse_reflective(arguments: list[str], where: str) -> None:
    """Arguments that the command line takes."""
    from reflective.cli import _parser, join_command

    arguments = join_command(arguments)
    parser, _ = _parser(arguments)
    message, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit as stop:  # --help ends so, too
        code = int(stop.code or 0)
    assert code == 0, f"{where}: reflective {shlex.join(arguments)}: {message.getvalue()}"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GRADERS, "_graders", dict(GRADERS._graders))  # what a block registers is gone again
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "REFLECTIVE_DEBUG": "1",
    }
    if os.environ.get("REFLECTIVE_REAL_MODEL"):
        READERS_MODEL.parent.mkdir(parents=True)
        # a copy that shares the weights: what a block writes into the folder stays out of the model
        shutil.copytree(os.environ["REFLECTIVE_REAL_MODEL"], READERS_MODEL, copy_function=linked)
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(page):
        where = f"{name(page)}:{block.line}"
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.code, where, "exec"), namespace)
        else:
            script = block.code
            if block.language == "console":
                script = "\n".join(shlex.join(command) for command in block.commands)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                capture_output=True,
                text=True,
                env=environment,
                timeout=600,
                cwd=tmp_path,
            )
            assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"


# ---- links and names


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(linked), f"{name(page)}: {target}"


def test_every_page_of_the_documentation_is_reached_from_the_readme():
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert {page for page in PAGES if page.parent.name == "docs"} <= reached


def defined_names(file: Path) -> set[str]:
    """Functions, classes, methods and constants of a module: `name` and `Class.name`."""
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + child.name)
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(file.read_text(encoding="utf-8")), "")
    return found


def test_every_name_in_the_paper_map_exists():
    text = (REPOSITORY / "docs" / "paper_map.md").read_text(encoding="utf-8")
    entries = re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)
    assert len(entries) > 20
    for path, qualified in entries:
        assert (SOURCE / path).is_file(), path
        assert qualified in defined_names(SOURCE / path), f"{path}::{qualified}"


def test_constants_in_the_paper_map_have_the_values_that_it_gives():
    from reflective.judge.heads.paper import BACKBONE_GRADIENT_SCALE, EXPANSION
    from reflective.judge.loss import POSITIVE_FACTOR, WEIGHT_EPSILON
    from reflective.types import EFFORTS

    assert (BACKBONE_GRADIENT_SCALE, EXPANSION, POSITIVE_FACTOR, WEIGHT_EPSILON) == (1e-4, 2, 1.5, 1e-5)
    assert dict(EFFORTS) == {"low": 2, "medium": 8, "high": 32}


def test_every_benchmark_is_in_its_table():
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    scripts = {path.name for path in (REPOSITORY / "benchmarks").glob("*.py")} - {
        "common.py",
        "models.py",
        "run_all.py",
    }
    assert scripts == set(re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE))


def test_the_page_on_grading_counts_the_pairs_that_are_there():
    told = set(re.findall(r"\d+(?:,\d{3})*", (REPOSITORY / "docs" / "grading.md").read_text(encoding="utf-8")))
    for path in (REPOSITORY / "tests" / "verify" / "cases").glob("*.jsonl"):
        verdicts = Counter(json.loads(line).get("verdict") for line in path.read_text(encoding="utf-8").splitlines())
        if None not in verdicts:  # texts with the answers that they state have none
            counts = {f"{n:,}" for n in (*verdicts.values(), verdicts.total())}
            assert counts <= told, path.name


def test_the_readme_gives_the_figures_of_the_model_card():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    card = (SOURCE / "nano" / "MODEL_CARD.md").read_text(encoding="utf-8")
    (of_all,) = re.findall(r"^\| \*\*all\*\* \| (.*) \|$", card, re.MULTILINE)
    assert [cell for cell in of_all.split(" | ") if f"| {cell} |" not in readme] == []


def test_keys_of_the_json_objects_are_all_told():
    from reflective import Reflective, Scripted, ScriptedEngine
    from reflective.judge.config import JudgeConfig
    from reflective.judge.format import between_marks, whole_response

    solving = (REPOSITORY / "docs" / "solving.md").read_text(encoding="utf-8")
    engine = ScriptedEngine([Scripted("a.\n\n</think>\\boxed{4}", logits=[1.0])])
    solution = Reflective(engine).solve("What is 2 + 2?", effort=1).to_json()
    known = {*solution, *solution["trajectories"][0], *solution["usage"], *solution["timing"]} - {"version", "problem"}
    assert {key for key in known if f"`{key}`" not in solving} == set()

    checkpoints = (REPOSITORY / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for format in (between_marks([1], 2, 3), whole_response([1], [2])):
        config = JudgeConfig(8, format).to_json()
        assert {key for key in {**config, **config["format"]} if f"`{key}`" not in checkpoints} == set()
