"""What this machine has: the device that models run on, and what the figures of a run were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from shapefirst.errors import DeviceError
from shapefirst.signatures import guarded

if TYPE_CHECKING:
    import torch

__all__ = ["find_device", "hardware", "versions"]

#: Packages whose version may change an image.
_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")


@guarded
def find_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is meant, with its index; by default CUDA, else Apple's MPS, else the CPU.

    Raises:
        DeviceError: There is no such device here, or torch knows its name and cannot compute on it.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        asked = torch.device(device)
        if asked.type == "cpu" and asked.index:
            raise IndexError("there is one CPU, of whatever number of cores")
        one = torch.ones(1, device=asked)
        one.tolist()
        return one.device
    except Exception as error:  # of each backend its own: "meta" has no numbers, "hpu" lacks a module
        raise DeviceError(
            f"There is no device {str(device)!r} here: use cpu, or cuda or mps where torch has it."
        ) from error


@guarded
def hardware(device: str | torch.device | None = None) -> str:
    """The name of the device (by default that of ``find_device``) or the CPU, its cores; the version of torch."""
    import torch

    place = find_device(device)
    if place.type == "cuda":
        return f"{torch.cuda.get_device_name(place)}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    cores, threads = os.cpu_count(), torch.get_num_threads()
    used = "" if threads == cores else f" ({threads} thread{'s' * (threads > 1)})"
    return f"{cores} cores of {cpu}{used}, torch {torch.__version__}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that images depend on, as far as they are installed; imports none of them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
