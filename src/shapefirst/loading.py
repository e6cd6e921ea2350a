"""Models as the commands load them: with a sign of life, and without the libraries' own bars and remarks."""

from __future__ import annotations

from typing import Any

from shapefirst import terminal

__all__ = ["load_quietly"]


def load_quietly(model: str, sampler: str, device: str | None = None) -> Any:
    """The pipeline (see ``models.load``); it and its libraries print nothing from now on: the commands have bars of
    their own."""
    with terminal.working(f"Loading {model}"):
        import diffusers
        import transformers

        from shapefirst.models import load

        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        pipe = load(model, sampler=sampler, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe
