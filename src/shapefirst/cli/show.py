"""`shapefirst demo` and `shapefirst models`: what there is to see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shapefirst.checks import check_seed
from shapefirst.cli import tables, terminal
from shapefirst.cli.loading import load_quietly
from shapefirst.cli.options import PolicyWords
from shapefirst.cli.options_generate import DEFAULT_STEPS, policy_and_steps
from shapefirst.errors import ShapefirstError

__all__ = ["demo", "list_models"]


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the sheet and the page go.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every image.")] = 0,
    policy: PolicyWords = None,
) -> None:
    """Show 8 prompts on the embedded model: full guidance, and what other policies make of it.

    By default these are 75% and 60% of the evaluations, which keep the picture, and the paper's rule, the text in the
    first 25 and 10 of 50 steps; --policy, which may be given again, takes their place.
    Writes one sheet (PNG) and one HTML page that needs nothing else.
    """
    from shapefirst.files import check_writable

    check_writable(out)
    check_seed(seed)
    for words in policy or ():
        policy_and_steps(words, DEFAULT_STEPS, anywhere=True)
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.demo import POLICIES, PROMPTS, STEPS, compare, write_demo
        from shapefirst.images.jobs import Sampling
        from shapefirst.models import default_guidance_scale
        from shapefirst.policies.words import policy_of
    scale = default_guidance_scale("pocket")
    pipe = load_quietly("pocket", "ddim")
    policies = [policy_of(pipe, words) for words in policy or POLICIES]
    total = len(PROMPTS) * (1 + len(policies))
    with terminal.progress(f"Sampling {total} images", total=total) as report:
        rows = compare(pipe, PROMPTS, policies, Sampling(scale, STEPS), seed, on_progress=report)
    sheet, page = write_demo(rows, out, f"Model pocket, DDIM, {STEPS} steps, guidance scale {scale:g}, seed {seed}.")
    tables.comparisons(rows)
    terminal.line(f"Sheet: {sheet}\nPage:  {page}")


def list_models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Tell about this model only."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With pocket or pocket-dit: draw everything it knows and write the pictures to this PNG.",
        ),
    ] = None,
) -> None:
    """List the models by name: where each comes from, whether it is on the disk, how large its download is.

    With a name, which files those are.

    \b
    Examples:
      shapefirst models
      shapefirst models sd15
      shapefirst models pocket --sheet pocket.png
    """
    from shapefirst.models import MODELS

    if name is not None and name not in MODELS:
        raise ShapefirstError(f"There is no model {name!r} in the table: it has {', '.join(MODELS)}.")
    if sheet is not None:
        if name is None or MODELS[name].source is not None:
            raise ShapefirstError("--sheet draws what pocket knows: say `shapefirst models pocket --sheet FILE`.")
        _draw_gallery(name, sheet)
    elif name is not None and MODELS[name].source is None:
        tables.vocabulary()
    elif name:
        tables.model_table(MODELS[name])
    else:
        tables.models_table(list(MODELS.values()))


def _draw_gallery(name: str, file: Path) -> None:
    from shapefirst.files import check_file, save_png

    check_file(file)
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.gallery import gallery, gallery_prompts
        from shapefirst.models import default_guidance_scale
    scale = default_guidance_scale(name)
    pipe = load_quietly(name, "ddim")
    with terminal.progress(f"Drawing what {name} knows", total=len(gallery_prompts())) as report:
        image = gallery(pipe, name, scale, on_progress=report)
    save_png(image, file)
    terminal.line(f"Sheet: {file}")
