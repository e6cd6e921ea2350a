"""The options of `shapefirst sweep`, each declared once, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from shapefirst.checks import check_number
from shapefirst.cli.loading import warn_of_unjudged
from shapefirst.cli.options import Device, Dtype, prompts_and_count
from shapefirst.errors import ShapefirstError
from shapefirst.models.catalogue import SAMPLERS

if TYPE_CHECKING:
    from shapefirst.sweep.grid import Shards
    from shapefirst.sweep.store import Store
    from shapefirst.sweep.work import Scorers

__all__ = ["OUT", "Folder", "GridOptions", "WorkOptions", "store_at"]

OUT: Final = "out/sweep"

Folder: TypeAlias = Annotated[str, typer.Argument(metavar="[DIR]", help="Where `sweep run` put its results.")]


@dataclass(frozen=True)
class GridOptions:
    """The grid: a file, and in the place of its entries, by their names, what else was given."""

    file: Annotated[
        Path | None, typer.Argument(metavar="[GRID.toml]", help="The grid; options take the place of its entries.")
    ] = None
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Name, hub id or folder; may be repeated, as what follows down to --guidance-scale.",
            show_default="pocket",
        ),
    ] = None
    samplers: Annotated[
        list[str] | None,
        typer.Option("--sampler", metavar="NAME", help=f"{', '.join(SAMPLERS)}.", show_default="ddim"),
    ] = None
    steps: Annotated[list[int] | None, typer.Option(metavar="N", help="Denoising steps.", show_default="50")] = None
    text_steps: Annotated[
        list[str] | None,
        typer.Option(metavar="K", help="Such as 25, 50%, 0,10,25 or 0:50:5.", show_default="every tenth of the steps"),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="BRANCH", help="null or text: what the other steps evaluate.", show_default="null"),
    ] = None
    policies: Annotated[
        list[str] | None, typer.Option("--policy", metavar="POLICY", help="One more, such as budget:0.6.")
    ] = None
    guidance_scale: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help="Strength of the text.", show_default="the model's own"),
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Text, or captions: CSV, TSV, JSON or JSON Lines; or a number, as --count.",
            show_default="pocket's vocabulary",
        ),
    ] = None
    count: Annotated[
        int | None, typer.Option(metavar="N", help="Of the prompts.", show_default="all; 1000 of pocket's")
    ] = None
    images_per_prompt: Annotated[
        int | None, typer.Option(metavar="N", help="With seeds of their own.", show_default="1")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Image i has it plus i.", show_default="0")] = None
    shard_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images of each policy in one unit of work.", show_default="32")
    ] = None

    def shards(self) -> Shards:
        """The sweep."""
        from shapefirst.sweep.grid import Shards, prompts_of, read_grid

        file, count = prompts_and_count(self.prompts, self.count)
        said = {**vars(self), "prompts": None if file is None else self.prompts, "count": count}
        given = {name: value for name, value in said.items() if name != "file" and value not in (None, [], ())}
        grid = read_grid(self.file, given)
        return Shards(grid, prompts_of(grid))


@dataclass(frozen=True)
class WorkOptions:
    """How the images are made and scored."""

    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Rows in one call of the denoiser.", show_default="64 with pocket, else 8"),
    ] = None
    clip: Annotated[str | None, typer.Option(metavar="ID", help="A CLIP to score images by.")] = None
    vqa: Annotated[str | None, typer.Option(metavar="ID", help="A model of visual questions, too.")] = None
    vlm: Annotated[str | None, typer.Option(metavar="ID", help="A vision-language model, too.")] = None
    inception: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights for the FID: a file, or torch-fidelity to download them.",
            show_default="the Frechet distance of other features",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_number(self.batch_size, "batch size", "--batch-size")

    @property
    def of_worker(self) -> dict[str, Any]:
        """Of `sweep.work.Worker`."""
        return {"device": self.device, "batch_size": self.batch_size, "dtype": self.dtype}

    def scorers(self, shards: Shards) -> Scorers:
        """What scores the images; says so where pocket's judge cannot, as it does not know the prompts' words."""
        from shapefirst.measure.judging import can_judge
        from shapefirst.measure.scores import CLIP, clip_at_hand
        from shapefirst.models import is_pocket
        from shapefirst.sweep.work import Scorers

        if absent := [model for model in shards.grid.models if not clip_at_hand(model, self.clip)]:
            raise ShapefirstError(
                f"A sweep of {absent[0]} compares images by {CLIP}, which is not on this disk, and nothing is "
                f"downloaded unasked: add --clip {CLIP} to download it (0.6 GB), or --clip DIR for one that you have."
            )
        unjudged = next((prompt for prompt in shards.prompts if not can_judge(prompt)), None)
        if unjudged is not None and any(map(is_pocket, shards.grid.models)):
            warn_of_unjudged(unjudged, shards.prompts, shards.grid.prompts)
        return Scorers(self.clip, self.vqa, self.vlm, self.inception, judge=unjudged is None)


def store_at(place: str) -> Store:
    """By an absolute path: Ray's workers have folders of their own."""
    from shapefirst.sweep.store import Store

    if not place:
        raise ShapefirstError("The results need a place: name a folder or a URL.")
    return Store(place if "://" in place else str(Path(place).absolute()))
