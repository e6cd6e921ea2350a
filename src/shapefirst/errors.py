"""What a user did wrong, in one sentence that names the value and the remedy.

The command line prints such an error without a traceback and exits with code 2.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__all__ = [
    "INTERRUPTED",
    "DeviceError",
    "ModelError",
    "PackageError",
    "ShapefirstError",
    "UnsupportedPipelineError",
    "first_line",
    "imported",
    "shortened",
]

#: The exit code of a command that was interrupted.
INTERRUPTED: Final = 130


class ShapefirstError(ValueError):
    """A value that shapefirst cannot work with."""


class ModelError(ShapefirstError):
    """A model that is unknown, absent, incomplete or corrupt."""


class PackageError(ModelError):
    """A model that needs a package which is not installed."""


class DeviceError(ShapefirstError):
    """A device that is not there."""


class UnsupportedPipelineError(ShapefirstError):
    """A diffusers pipeline whose guidance shapefirst does not know how to steer."""


def imported(module: str, use: str, extra: str = "studies") -> Any:
    """A module of an extra, for a ``use`` such as "Intervals are computed".

    Raises:
        ShapefirstError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ShapefirstError(f"{use} with {module.partition('.')[0]}: pip install 'shapefirst[{extra}]'.") from error


def shortened(text: str, limit: int = 60) -> str:
    """What fits into a sentence of a longer text."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def first_line(error: Exception) -> str:
    """What a library's error says first, without a full stop; the name of its class if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = lines[0]
    if said.endswith(":") and len(lines) > 1:
        said += f" {lines[1]}"
    return shortened(said.rstrip(".:"), 200)
