"""Imports go one way (design, section 3). Every import statement in src counts, also one inside a function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "reflective"

_GROUND = {"types", "errors", "files", "settings"}
_ENGINES = {*_GROUND, "judge", "verify", "models", "engines"}
_SEARCH = {*_GROUND, "confidence", "records", "judge", "verify", "engines", "selection", "grading", "search"}
_OPTIONS = {*_SEARCH, "options"}
_EVALUATE = {*_SEARCH, "render", "grading", "shards", "tasks", "models", "evaluate"}
_API = {*_EVALUATE, "options", "api"}

# layer -> the layers that it may import, its own included
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "settings": {"errors"},
    "types": {"errors", "render"},  # render draws what str() and a notebook show, when they are asked to
    "render": {"types"},
    "confidence": set(),
    "records": {*_GROUND, "confidence", "records"},
    "judge": {*_GROUND, "judge"},
    "verify": {*_GROUND, "verify"},
    "tasks": {*_GROUND, "verify", "tasks"},
    "models": {*_GROUND, "judge", "models", "nano"},
    "nano": set(),
    "heads": set(),
    "engines": _ENGINES,
    "selection": {*_GROUND, "verify"},
    "shards": {*_GROUND, "files", "judge"},
    "grading": {*_GROUND, "records", "verify", "selection"},
    "search": _SEARCH,
    "options": _OPTIONS,
    "train": {
        *_GROUND,
        "records",
        "judge",
        "verify",
        "tasks",
        "models",
        "engines",
        "selection",
        "search",
        "grading",
        "shards",
        "train",
    },
    "evaluate": _EVALUATE,
    "api": _API,
    "serve": {*_API, "nano", "serve", "__version__"},
    "cli": {*_API, "serve", "train", "cli", "__version__"},
    "__init__": {*_GROUND, "records", "engines", "api"},
    "__main__": {"cli"},
}

WITHOUT_TORCH = (
    "errors.py",
    "files.py",
    "settings.py",
    "types.py",
    "records",
    "confidence.py",
    "render.py",
    "verify",
    "tasks",
    "selection.py",
    "grading.py",
    "search",
    "options.py",
    "cli",
    "engines/base.py",
    "engines/scripted.py",
    "judge/format.py",
    "judge/aggregate.py",
    "judge/calibrate.py",
    "judge/metrics.py",
)
TORCH = {"torch", "transformers", "safetensors", "accelerate"}

# third-party package -> the only places that know it
CONFINED = {
    "vllm": ("engines/vllm/engine.py", "engines/vllm/plugin.py"),
    "llama_cpp": ("engines/llamacpp/session.py",),
    "trl": ("train/joint/trl",),
    "tensorboard": ("train",),
    "fastapi": ("serve",),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
    "pydantic": ("serve",),
    "pydantic_core": ("serve",),
    "prometheus_client": ("serve",),
    "llguidance": ("serve",),
    "opentelemetry": ("serve/tracing.py",),
    "psycopg": ("serve/feedback.py",),
    "latex2mathml": ("serve",),
    "markdown_it": ("serve",),
    "simpy": ("serve/plan",),
    "rich": ("cli",),
    "argparse": ("cli",),
    "reasoning_gym": ("tasks",),
    "math_verify": ("verify",),
    "sympy": ("verify",),
    "matplotlib": ("evaluate", "train"),
    "peft": ("train",),
    "datasets": ("train",),
}

FILES = sorted(SRC.rglob("*.py"))


def imports(path):
    """Dotted names that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it in full"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def place(path):
    return path.relative_to(SRC).as_posix()


def inside(where, places):
    return any(where == place or where.startswith(f"{place}/") for place in places)


def layer_of(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def test_every_part_of_the_package_has_a_place_in_the_layers():
    assert {layer_of(path) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_go_one_way(path):
    allowed = MAY_IMPORT[layer_of(path)]
    for line, name in imports(path):
        if name.split(".")[0] == "reflective":
            target = name.split(".")[1]
            assert target in allowed, f"{place(path)}:{line} imports {name}; it may import {sorted(allowed)}"


def runtime_imports(path):
    """The modules of ours that a file imports when it runs, also inside its functions; not those for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing and (node.module or "").startswith("reflective"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def module_name(path):
    return ".".join(("reflective", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def test_no_module_imports_itself_by_way_of_others():
    graph = {module_name(path): {*runtime_imports(path)} - {module_name(path)} for path in FILES}
    while leaves := {name for name, needed in graph.items() if not needed & set(graph)}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("path", [p for p in FILES if inside(place(p), ("search",))], ids=place)
def test_search_knows_no_concrete_engine(path):
    engines = [name for _, name in imports(path) if name.startswith("reflective.engines")]
    assert all(name.startswith(("reflective.engines.base.", "reflective.engines.driver.")) for name in engines), engines


@pytest.mark.parametrize("path", [p for p in FILES if inside(place(p), WITHOUT_TORCH)], ids=place)
def test_what_decides_imports_no_torch(path):
    assert not {name.split(".")[0] for _, name in imports(path)} & TORCH


@pytest.mark.parametrize("path", FILES, ids=place)
def test_third_party_packages_stay_where_they_belong(path):
    for line, name in imports(path):
        if name.split(".")[0] == "reflective":
            continue  # ours, and one of our modules is called as the package that it drives
        for package, places in CONFINED.items():
            if package in name.split(".")[:1] + name.split(".")[2:3]:  # also torch.utils.tensorboard
                assert inside(place(path), places), f"{place(path)}:{line} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, f"{place(path)} has no docstring"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("reflective", {"torch", "transformers", "rich", "numpy", "sympy"}),
        ("reflective.cli", {"torch", "transformers", "rich", "numpy", "sympy"}),
        ("reflective.search, reflective.records, reflective.render", {"torch", "transformers", "rich"}),
        ("reflective.verify, reflective.tasks", {"torch", "transformers", "rich", "reasoning_gym"}),
        ("reflective.engines, reflective.engines.scripted, reflective.api", {"torch", "transformers", "rich"}),
    ],
)
def test_importing_is_light(module, heavy):
    code = f"import sys\nimport {module}\nprint(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & heavy
