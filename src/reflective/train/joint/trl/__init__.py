"""Joint training by TRL's `GRPOTrainer`: the adapter around the joint step, and the only place that imports TRL."""

from __future__ import annotations

from reflective.errors import DependencyError

VERSION = "1.16."  # the one that the overrides were written against


def check_version() -> None:
    """Raise `DependencyError` where TRL is missing or of another version."""
    try:
        import trl
    except ImportError as error:
        raise DependencyError(
            f'joint training needs TRL. Install it in the checkout: pip install ".[train]" ({error})'
        ) from error
    if not trl.__version__.startswith(VERSION):
        raise DependencyError(
            f"joint training needs trl {VERSION}*, and {trl.__version__} is installed. "
            'Install it in the checkout: pip install ".[train]"'
        )
