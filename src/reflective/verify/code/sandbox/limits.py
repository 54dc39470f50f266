"""What a program in the sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from reflective.errors import InputError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run; each must be above 0.

    `wall_s` seconds of the clock end the run; `cpu_s` (None: those of the clock, and one more) seconds of computing end
    a process of it. `memory_bytes` bounds the address space of each process and the resident memory of all together,
    `scratch_bytes` the scratch folder, `file_bytes` one file, `output_bytes` what is written to stdout and stderr
    together. `processes` counts threads, too.
    """

    wall_s: float = 10.0
    cpu_s: float | None = None
    memory_bytes: int = 2 * 2**30
    processes: int = 32
    scratch_bytes: int = 64 * 2**20
    file_bytes: int = 16 * 2**20
    output_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise InputError(f"the limit {field.name} is {value}; it must be above 0.")

    @property
    def cpu_seconds(self) -> int:
        """Whole seconds of computing that a process has."""
        return max(1, int(self.wall_s) + 2 if self.cpu_s is None else round(self.cpu_s + 0.5))
