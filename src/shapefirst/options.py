"""Options that several commands take, with one wording."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = ["Device", "GuidanceScale", "Model", "PolicyWords", "Sampler"]

Model: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="A name of `shapefirst models`, a hub id or a local folder.")
]
Sampler: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="ddim, dpm-solver, dpm-solver-singlestep, euler, unipc or heun.")
]
GuidanceScale: TypeAlias = Annotated[
    float | None, typer.Option(metavar="W", show_default="the model's own", help="Strength of the text.")
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda or mps.", show_default="the best there is")
]
PolicyWords: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="Such as paper:25, budget:0.6, every:3, tol:0.02, or the path of a tuned policy (.json).",
    ),
]
