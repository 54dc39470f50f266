"""How much memory there is, and whether an error means that there was none left."""

from __future__ import annotations

import torch

FALLBACK_BYTES = 4 * 2**30  # where the system does not tell


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken on `device` now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return FALLBACK_BYTES


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that an allocation failed, on GPU or CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
