"""Pipelines that are larger than the card that they run on: their parts come to it when it is their turn."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from shapefirst.errors import DeviceError, PackageError
from shapefirst.models.machine import find_device

__all__ = ["Offload", "check_offload", "offload"]

Offload: TypeAlias = Literal["model", "sequential"]

_WAYS: Final[dict[str, str]] = {
    "model": "enable_model_cpu_offload",
    "sequential": "enable_sequential_cpu_offload",
}


def check_offload(device: str | None) -> None:
    """Raise ShapefirstError unless there is a card to bring a pipeline's parts to, and accelerate to do it."""
    from importlib.util import find_spec

    if find_device(device).type == "cpu":
        raise DeviceError("Offloading moves a model's parts between memory and a card, and here is none: leave it out.")
    if find_spec("accelerate") is None:
        raise PackageError("Offloading is done with accelerate: pip install accelerate.")


def offload(pipe: Any, way: Offload, device: str | None = None) -> None:
    """Keep a pipeline in the machine's memory, and let its parts come to the device when it is their turn.

    Args:
        pipe: A pipeline on the CPU.
        way: "model" for whole networks, or "sequential" for their layers: slower, and with the least memory.
        device: By default CUDA, else Apple's MPS.
    """
    getattr(pipe, _WAYS[way])(device=find_device(device))
