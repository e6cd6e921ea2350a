"""The options that say what a sweep is, for `plan` and `run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

__all__ = [
    "BatchSize",
    "ClipOption",
    "CountOption",
    "File",
    "InceptionOption",
    "Keep",
    "Models",
    "PerPrompt",
    "Policies",
    "Prompts",
    "Samplers",
    "Scales",
    "SeedOption",
    "ShardSize",
    "Steps",
    "TextSteps",
    "Vlm",
    "Vqa",
    "entries",
]

File: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="[GRID.toml]", help="The grid; options take the place of its entries.")
]
Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Name, hub id or folder; may be repeated, as what follows down to --guidance-scale.",
        show_default="pocket",
    ),
]
Samplers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--sampler", metavar="NAME", help="ddim, dpm-solver, euler, ...", show_default="ddim"),
]
Steps: TypeAlias = Annotated[
    list[int] | None, typer.Option("--steps", metavar="N", help="Denoising steps.", show_default="50")
]
TextSteps: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--text-steps", metavar="K", help="Such as 25, 50% or 0:50:5.", show_default="every tenth of the steps"
    ),
]
Keep: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="BRANCH", help="null or text: what the other steps evaluate.", show_default="null"),
]
Policies: TypeAlias = Annotated[
    list[str] | None, typer.Option("--policy", metavar="POLICY", help="One more, such as budget:0.6.")
]
Scales: TypeAlias = Annotated[
    list[float] | None,
    typer.Option("--guidance-scale", metavar="W", help="Strength of the text.", show_default="the model's own"),
]
Prompts: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prompts", metavar="FILE", help="Text, or captions as CSV or JSON.", show_default="pocket's vocabulary"
    ),
]
CountOption: TypeAlias = Annotated[
    int | None, typer.Option("--count", metavar="N", help="Of the prompts.", show_default="all; 1000 of pocket's")
]
PerPrompt: TypeAlias = Annotated[
    int | None, typer.Option("--images-per-prompt", metavar="N", help="With seeds of their own.", show_default="1")
]
SeedOption: TypeAlias = Annotated[int | None, typer.Option("--seed", help="Image i has it plus i.", show_default="0")]
ShardSize: TypeAlias = Annotated[
    int | None,
    typer.Option("--shard-size", metavar="N", help="Images of each policy in one unit of work.", show_default="32"),
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", help="Rows in one call of the denoiser.", show_default="64 with pocket, else 8"
    ),
]
ClipOption: TypeAlias = Annotated[str | None, typer.Option("--clip", metavar="ID", help="A CLIP to score images by.")]
Vqa: TypeAlias = Annotated[str | None, typer.Option("--vqa", metavar="ID", help="A model of visual questions, too.")]
Vlm: TypeAlias = Annotated[str | None, typer.Option("--vlm", metavar="ID", help="A vision-language model, too.")]
InceptionOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--inception",
        metavar="FILE",
        help="Weights for the FID: a file, or torch-fidelity to download them.",
        show_default="the Frechet distance of other features",
    ),
]


def entries(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as `sweep.grid.read_grid` takes them."""
    names = {
        "models": "model",
        "samplers": "sampler",
        "steps": "steps",
        "text_steps": "text_steps",
        "keep": "keep",
        "policies": "policy",
        "guidance_scale": "guidance_scale",
        "prompts": "prompts",
        "count": "count",
        "images_per_prompt": "images_per_prompt",
        "seed": "seed",
        "shard_size": "shard_size",
    }
    return {entry: given[option] for entry, option in names.items() if given[option] not in (None, [], ())}
