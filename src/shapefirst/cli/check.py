"""`shapefirst check`: how a pipeline would be met."""

from __future__ import annotations

from typing import Annotated

import typer

from shapefirst.cli import tables, terminal
from shapefirst.errors import UnsupportedPipelineError

__all__ = ["check"]


def check(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            help="A class of diffusers, a name of `shapefirst models`, a folder, or a hub id whose model_index.json is "
            "in the cache.",
        ),
    ],
) -> None:
    """Say how a pipeline would be met, with which policies, and which of its parts run as ever.

    Nothing is downloaded or loaded. A pipeline that cannot be steered ends it with a sentence and exit code 2.

    \b
    Examples:
      shapefirst check StableDiffusionXLControlNetPipeline
      shapefirst check black-forest-labs/FLUX.1-dev
    """
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.models.pipelines import pipeline_of

        pipeline_class, networks = pipeline_of(pipeline)
        from shapefirst.guidance.meeting import meeting_of

        found = meeting_of(pipeline_class, networks)
    if found.refused is not None:
        raise UnsupportedPipelineError(found.refused)
    terminal.line(f"{pipeline}{'' if pipeline == found.name else f' is a {found.name}, which'} can be steered.")
    tables.meeting(found)
