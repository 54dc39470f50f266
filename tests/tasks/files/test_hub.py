"""The hub without a network: its real client reads a cache and a server of ours; each failure is a line."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from reflective.errors import InputError, ReflectiveError
from reflective.tasks import BENCHMARKS, load_problems
from reflective.tasks.files.hub import HubSource, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LINES = b'{"problem": "P?", "answer": "1"}\n{"problem": "Q?", "answer": "2"}\n'


def cached(cache: Path, source: HubSource, files: dict[str, bytes]) -> None:
    """A cache as the hub's client leaves it."""
    repository = cache / f"datasets--{source.dataset.replace('/', '--')}"
    commit = source.revision if source.pinned else COMMIT
    if not source.pinned:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / source.revision).write_text(commit)
    for name, data in files.items():
        path = repository / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_benchmark_is_read_from_the_cache_at_its_revision(cache: Path) -> None:
    benchmark = BENCHMARKS["math500"]
    cached(cache, benchmark.source, {"test.jsonl": LINES, "other.jsonl": b"not read"})
    assert [(p.id, p.answer) for p in load_problems("math500")] == [("math500/test/0", "1"), ("math500/test/1", "2")]
    with pytest.raises(ReflectiveError, match=f"can't fetch 'HuggingFaceH4/MATH-500@{COMMIT}'.*--file"):
        load_problems("math500", revision=COMMIT)


def test_subjects_of_ceval_are_its_folders(cache: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"id": 0, "question": "甲____", "A": "一", "B": "二", "C": "三", "D": "四", "answer": "B"}
    files = {}
    for subject in ("law", "accountant"):
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist([row, row]), sink)
        files[f"{subject}/val-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
        files[f"{subject}/dev-00000-of-00001.parquet"] = b"not read"
    cached(cache, BENCHMARKS["ceval"].source, files)
    problems = load_problems("ceval")
    assert [p.metadata["subject"] for p in problems] == ["accountant"] * 2 + ["law"] * 2
    assert (
        "中国关于法学考试的单项选择题" in problems[2].text and "A. 一\nB. 二\nC. 三\nD. 四\n让我们" in problems[2].text
    )
    assert [p.id for p in load_problems("ceval", subjects=["law"])] == ["ceval/val/2", "ceval/val/3"]


def test_files_come_in_the_order_of_their_patterns(cache: Path) -> None:
    source = HubSource("owner/data", ("test.jsonl", "test2.jsonl", "part-*.jsonl"))
    cached(cache, source, dict.fromkeys(("part-b.jsonl", "test2.jsonl", "part-a.jsonl", "test.jsonl"), LINES))
    assert [path.name for path in fetch(source)] == ["test.jsonl", "test2.jsonl", "part-a.jsonl", "part-b.jsonl"]


def test_a_data_set_without_the_file_says_so(cache: Path) -> None:
    source = HubSource("owner/data", ("test.jsonl",))
    cached(cache, source, {"train.jsonl": LINES})
    with pytest.raises(InputError, match="'owner/data@main' has no file like test.jsonl"):
        fetch(source)


def hub_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)  # its constructor wants a response of the HTTP library in use
    Exception.__init__(error, "403 Client Error.\nmany more lines")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            hub_error(errors.GatedRepoError),
            "'Idavidrein/gpqa' is gated: accept its terms at https://huggingface.co/data",
        ),
        (hub_error(errors.RepositoryNotFoundError), "can't fetch 'Idavidrein/gpqa@633f5ee.*403 Client Error"),
        (errors.LocalEntryNotFoundError("offline"), "offline"),
        (OSError("No space left on device"), "No space left"),
    ],
)
def test_failures_of_the_hub_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def snapshot_download(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ReflectiveError, match=message) as caught:
        load_problems("gpqa")
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and "--file" in said and "[data] source" in said


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its client asks for."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/owner/data/tree/"):
            self._reply(
                json.dumps([{"type": "file", "path": "test.jsonl", "size": len(LINES), "oid": "0" * 40}]).encode(), body
            )
        elif path.startswith("/api/datasets/owner/data"):
            told = {"id": "owner/data", "sha": COMMIT, "siblings": [{"rfilename": "test.jsonl"}], "private": False,
                    "downloads": 0, "likes": 0, "tags": [], "gated": False}  # fmt: skip
            self._reply(json.dumps(told).encode(), body)
        elif path == f"/datasets/owner/data/resolve/{COMMIT}/test.jsonl":
            self._reply(LINES, body)
        else:
            self.send_error(404)

    def _reply(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address, raising=False)
        yield address
        server.shutdown()


def test_a_data_set_is_fetched_from_a_server_once(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = replace(BENCHMARKS["math500"], source=HubSource("owner/data", ("test.jsonl",)))
    assert [p.answer for p in benchmark.problems()] == ["1", "2"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [p.answer for p in benchmark.problems(revision=COMMIT)] == ["1", "2"]


def test_files_of_any_folder_may_lie_in_none(endpoint: str) -> None:
    assert [path.name for path in fetch(HubSource("owner/data", ("**/te*.jsonl",)))] == ["test.jsonl"]


def test_what_is_pinned_is_a_commit() -> None:
    moving = {name for name, benchmark in BENCHMARKS.items() if not benchmark.source.pinned}
    assert moving == {"amc23", "minerva_math", "humaneval_plus", "mbpp_plus"}
    assert all(benchmark.source.revision == "main" for name, benchmark in BENCHMARKS.items() if name in moving)
