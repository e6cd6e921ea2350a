"""Models as the commands load them: with a sign of life, and without the libraries' own bars and remarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shapefirst.cli import terminal
from shapefirst.models import MODELS

__all__ = ["load_quietly", "obtained", "quiet_libraries"]


def obtained(model: str, dtype: str | None = None, device: str | None = None) -> Path:
    """Where the model lies on this disk, after it has been downloaded if it did not; a sentence says how much it is."""
    from shapefirst.models import download_of, find, locate
    from shapefirst.models.hub import gigabytes
    from shapefirst.models.loader import dtype_name

    if (place := locate(model)) is not None:
        return place
    kind = dtype_name(dtype, device)
    if model not in MODELS or MODELS[model].source is not None:
        files = download_of(model, kind)
        terminal.remark(f"Downloading {model}: {len(files)} files, {gigabytes(sum(files.values()))}.")
    return find(model, kind)


def load_quietly(model: str, sampler: str | None, device: str | None = None, dtype: str | None = None) -> Any:
    """The pipeline (see ``models.load``), after ``quiet_libraries``."""
    obtained(model, dtype, device)
    with terminal.working(f"Loading {model}"):
        quiet_libraries()
        from shapefirst.models import load

        pipe = load(model, sampler=sampler, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quiet_libraries() -> None:
    """diffusers and transformers print nothing from now on: the commands have bars of their own."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
