"""`shapefirst train-pocket`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from shapefirst.cli import terminal
from shapefirst.errors import ShapefirstError, installing

__all__ = ["train_pocket"]

TRAINING_MODULES = ("resvg_py", "material_design_icons_pack", "tokenizers", "matplotlib")


def train_pocket(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the stages leave their work and the weights.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="pocket, pocket-dit, or pocket with one thing changed: pocket-equal-snr, pocket-plain-padding.",
        ),
    ] = "pocket",
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="cpu (2 cores) or gpu; finish or finish-gpu (with --start-from).")
    ] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of data, weights and order.")] = 0,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="NAME", show_default="all", help="Only this stage; may be given again."),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Finished weights: keep their encoders and train their denoiser further."),
    ] = None,
) -> None:
    """Train an embedded model. Takes hours; a run that was stopped goes on where it was.

    \b
    Examples:
      shapefirst train-pocket --out runs/pocket
      shapefirst train-pocket --model pocket-dit --preset gpu --out runs/dit
      shapefirst train-pocket --out runs/more --start-from runs/pocket/weights
    """
    from shapefirst.files import LOCK, check_writable, locked

    check_writable(out)
    if missing := [name for name in TRAINING_MODULES if find_spec(name) is None]:
        raise ShapefirstError(f"Training needs {' and '.join(missing)}: {installing('train')}.")
    with terminal.working("Getting torch ready"):
        from shapefirst.training.stages import train_model
    with locked(out / LOCK, str(out)):
        train_model(out, model=model, preset=preset, seed=seed, stages=stages or None, start_from=start_from)
