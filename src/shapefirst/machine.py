"""What the figures of a run were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["hardware"]


def hardware() -> str:
    """The GPU where torch has one, else the number and name of the CPU's cores; and the version of torch."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{os.cpu_count()} cores of {cpu}, torch {torch.__version__}"
