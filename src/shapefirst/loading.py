"""Models as the commands load them: with a sign of life, and without the libraries' own bars and remarks."""

from __future__ import annotations

from typing import Any

from shapefirst import terminal

__all__ = ["load_quietly", "quiet_libraries"]


def load_quietly(model: str, sampler: str, device: str | None = None) -> Any:
    """The pipeline (see ``models.load``), after ``quiet_libraries``."""
    with terminal.working(f"Loading {model}"):
        quiet_libraries()
        from shapefirst.models import load

        pipe = load(model, sampler=sampler, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quiet_libraries() -> None:
    """diffusers and transformers print nothing from now on: the commands have bars of their own."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
