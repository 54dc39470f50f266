"""Files of a data set on the Hugging Face hub, by name and revision, through the hub's own client and cache.

A file that is in the cache is not fetched again, and is found without a network. Only data files are fetched: a data
set's own loading script is never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reflective.errors import DependencyError, InputError, ReflectiveError, first_line

HUB: Final = "hub:"  # begins the name of a data set on the hub
ENDINGS: Final = ("parquet", "jsonl", "json", "csv")


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a data set lies: its name, the files as patterns (in order; those of `Path.glob`), and a revision.

    A `revision` of 40 hexadecimal digits is a commit and never changes; a branch such as "main" may.
    """

    dataset: str
    files: tuple[str, ...]
    revision: str = "main"
    gated: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit."""
        return len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")

    @property
    def address(self) -> str:
        """ "owner/name@revision"."""
        return f"{self.dataset}@{self.revision}"

    @classmethod
    def named(cls, name: str, split: str | None = None, revision: str | None = None) -> HubSource:
        """From "hub:owner/name", whose files are those of a split (test), or "hub:owner/name/a*.csv,b*.csv"."""
        owner, _, rest = name.removeprefix(HUB).partition("/")
        dataset, _, pattern = rest.partition("/")
        if not owner or not dataset:
            raise InputError(f"{name!r} names no data set; write hub:owner/name, or hub:owner/name/data/test*.parquet.")
        if pattern and split:
            raise InputError(f"{name!r} names its files, so a split ({split}) has no meaning; leave one of them out.")
        files = tuple(pattern.split(",")) if pattern else tuple(f"**/{split or 'test'}*.{ending}" for ending in ENDINGS)
        return cls(f"{owner}/{dataset}", files, revision or "main")


def fetch(source: HubSource) -> list[Path]:
    """The files of `source` on this machine, in the order of its patterns, then by name.

    Raises `DependencyError` without the package huggingface_hub, `ReflectiveError` where nothing can be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise DependencyError(
            'Data sets from the hub need huggingface_hub. Install it in the checkout: pip install ".[eval]"'
        ) from error
    instead = "Or name a local copy: with --file, in training with [data] source, in Python with file=."
    # the client's `**/` wants a folder, that of `Path.glob` does not
    patterns = {pattern: None for each in source.files for pattern in (each, each.replace("**/", ""))}
    try:
        folder = Path(
            snapshot_download(
                source.dataset, repo_type="dataset", revision=source.revision, allow_patterns=list(patterns)
            )
        )
    except GatedRepoError as error:
        raise ReflectiveError(
            f"'{source.dataset}' is gated: accept its terms at https://huggingface.co/datasets/{source.dataset}, then "
            f"log in with: hf auth login. {instead}"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise ReflectiveError(f"can't fetch '{source.address}' from the hub: {first_line(error)}. {instead}") from error
    found: list[Path] = []
    for pattern in source.files:
        found += sorted(path for path in folder.glob(pattern) if path not in found)
    if not found:
        raise InputError(f"'{source.address}' has no file like {' or '.join(source.files)}. {instead}")
    return found
