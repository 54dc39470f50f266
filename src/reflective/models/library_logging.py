"""What the libraries say on their own while a model is loaded or saved, kept off the user's terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from printing bars and reports while it loads; failures become errors of ours."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging  # in parts without type hints
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
