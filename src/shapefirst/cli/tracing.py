"""`shapefirst trace`: where a picture attends to the words of its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shapefirst.checks import check_number, check_prompt, check_seed
from shapefirst.cli import terminal
from shapefirst.cli.loading import load_quietly, warn_of_cuts
from shapefirst.cli.options import Device, Dtype, GuidanceScale, Model, SamplerOrOwn
from shapefirst.cli.options_generate import DEFAULT_STEPS
from shapefirst.errors import ShapefirstError, said
from shapefirst.prompts.reading import SPECIAL
from shapefirst.words import find_words, folded

__all__ = ["trace_words"]


def trace_words(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="A word or several of the prompt, [SOS] or [EOS]; again for more.",
            show_default="every word",
        ),
    ] = None,
    model: Model = "pocket",
    steps: Annotated[int, typer.Option(metavar="N", help="Denoising steps.")] = DEFAULT_STEPS,
    sampler: SamplerOrOwn = None,
    guidance_scale: GuidanceScale = None,
    seed: Annotated[int, typer.Option(help="Seed of the image.")] = 0,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Longer side of the maps, at most the layers' own.")] = 64,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNGs go.")] = Path("out/trace"),
) -> None:
    """Draw a picture and show where it attends to each word, over the whole run and in its quarters.

    Writes the picture, one overlay for each word, and a sheet of them all.

    \b
    Examples:
      shapefirst trace "a red mushroom"
      shapefirst trace "a red mushroom" --word mushroom --word "[EOS]" --model sd15 --out out/mushroom
    """
    from shapefirst.files import check_writable
    from shapefirst.models.catalogue import OWN_SAMPLER, check_sampler, default_guidance_scale

    check_prompt(prompt, "The prompt")
    check_number(steps, "steps", "--steps")
    check_seed(seed)
    check_sampler(sampler)
    scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    check_number(scale, "guidance scale", "The guidance scale")
    for one in word or ():
        if one not in SPECIAL and find_words(prompt, one) is None:
            raise ShapefirstError(f"--word {said(one)} does not occur in the prompt {said(prompt)}.")
    check_writable(out)
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.heat_maps import trace
        from shapefirst.images.jobs import Sampling, make_jobs
        from shapefirst.images.jobs import generate as sample
        from shapefirst.images.overlays import write_overlays
        from shapefirst.policies.schedule import TextSchedule
    pipe = load_quietly(model, sampler or OWN_SAMPLER, device, dtype)
    warn_of_cuts(pipe, [prompt])
    jobs, policies = make_jobs([prompt], 1, seed), {"": TextSchedule.always()}
    with terminal.progress(f"Sampling with {model}", total=1) as report, trace(pipe, size=size) as seen:
        (drawn,) = sample(pipe, jobs, policies, Sampling(scale, steps), on_progress=report)[""]
    asked = list({folded(one): one for one in reversed(word or ())}.values())[::-1]
    files, sheet = write_overlays(seen, drawn.image, asked or range(len(seen.words())), out)
    for file in files:
        terminal.line(str(file))
    terminal.line(f"Sheet: {sheet}")
