"""`shapefirst generate`: images of prompts, by the stock pipeline or under a policy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shapefirst import __version__
from shapefirst.checks import check_prompt
from shapefirst.cli import tables, terminal
from shapefirst.cli.options import Model, SamplerOrOwn, unpacked
from shapefirst.cli.options_generate import MachineOptions, PictureOptions, PolicyOptions
from shapefirst.errors import ShapefirstError, shortened
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule

if TYPE_CHECKING:
    from shapefirst.images.jobs import Result, Sampling

__all__ = ["generate_images"]


@unpacked
def generate_images(
    asked: PolicyOptions,
    picture: PictureOptions,
    machine: MachineOptions,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to draw. '-' reads prompts from stdin, one a line."),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            "--prompts-file",
            metavar="FILE",
            help="More, one a line; lines that start with # do not count.",
        ),
    ] = None,
    model: Model = "pocket",
    sampler: SamplerOrOwn = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNGs go.")] = Path("out"),
    compare: Annotated[
        bool, typer.Option("--compare", help="Also full guidance, the difference, and a sheet of the three.")
    ] = False,
) -> None:
    """Make images of prompts: the stock pipeline's, or with fewer evaluations where a policy is given.

    Every PNG holds its settings. The table shows what each image cost. A budget or a tuned policy keeps the picture;
    --text-steps is the paper's rule, which shows what the text does, and moves the picture more.

    \b
    Examples:
      shapefirst generate "a red mushroom" "a fluffy rabbit"
      shapefirst generate "a metallic rocket" --num-images 4 --budget 0.75 --compare
      shapefirst generate "a metallic rocket" --text-steps 15 --compare
      echo "a blue butterfly" | shapefirst generate - --policy every:2
      shapefirst generate "a horse on the moon" --model sdxl --offload model --budget 60% --out horses
    """
    from shapefirst.files import check_writable
    from shapefirst.models.catalogue import OWN_SAMPLER, check_sampler, sampler_name

    check_sampler(sampler)
    texts = _all_prompts(prompts or [], prompts_file)
    picture.check(len(texts))
    words, (schedule, steps) = asked.words, asked.found(picture.steps)
    if compare and asked.is_stock:
        raise ShapefirstError("--compare shows a policy beside full guidance: add one, such as --budget 0.75.")
    check_writable(out)
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.guidance.timeline import steps_ahead
        from shapefirst.images.jobs import generate as sample
        from shapefirst.images.jobs import make_jobs
        from shapefirst.models.machine import find_device
    machine.check()
    jobs = make_jobs(texts, picture.num_images, picture.seed)
    sampling = picture.sampling(model, steps, schedule.guidance_scale)
    pipe = machine.load(model, sampler or OWN_SAMPLER)
    if words is not None:
        _take_sampler(pipe, words, sampler, compare)
    _warn(pipe, model, [*texts, *filter(None, [sampling.negative_prompt])], schedule, sampling)
    shown = schedule.in_run(pipe.scheduler, *steps_ahead(pipe.scheduler, sampling.steps))
    if words is not None:
        _check_policy(pipe, words, shown, sampling)
    schedules = {"": schedule, **({"full": TextSchedule.always()} if compare else {})}
    with terminal.progress(f"Sampling with {model}", total=len(jobs) * len(schedules)) as report:
        results = sample(pipe, jobs, schedules, sampling, batch_size=machine.batch_size, on_progress=report)
    made_by = {"model": model, "sampler": sampler_name(pipe.scheduler), **machine.told(sampling)}
    made_by["device"] = find_device(machine.device).type
    _write(results, shown, words, sampling, made_by, out)


def _take_sampler(pipe: Any, words: str, given: str | None, compare: bool) -> None:
    """Gives the pipeline the sampler that a policy was tuned with, where none is given and that one has a name; says
    so where a given one is of no use."""
    from shapefirst.models.catalogue import sampler_with
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import find_policy

    policy = find_policy(words)
    if not isinstance(policy, PolicyFile):
        return
    if policy.goal == "best":
        if given is not None and not compare:
            terminal.note(f"the policy samples with a solver of its own: --sampler {given} is left aside.")
    elif given is None and not policy.samples_as(pipe.scheduler):
        found = sampler_with(policy.sampler, policy.sampler_digest, pipe.scheduler.config)
        if found is not None:
            name, pipe.scheduler = found
            terminal.line(f"Sampler {name}, which the policy was tuned with.")


def _check_policy(pipe: Any, words: str, schedule: Policy, sampling: Sampling) -> None:
    """Says what the policy does; a tuned one is for this model and sampler, or refused here."""
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import describe, find_policy

    found = find_policy(words)
    if isinstance(found, PolicyFile):
        found.policy_for(pipe)
        if found.promise:
            terminal.line(found.promise)
    strip = _strip(schedule, sampling.steps)
    terminal.line(f"Policy {words}: {describe(schedule, sampling.steps)}\n{strip}".rstrip())


def _strip(schedule: Policy, steps: int) -> str:
    """Its steps, one character each; "" where it decides while sampling, or has a solver with steps of its own."""
    if not isinstance(schedule, TextSchedule) or schedule.solver is not None:
        return ""
    return schedule.strip(schedule.own_steps or steps)


def _write(
    results: Mapping[str, Sequence[Result]],
    schedule: Policy,
    words: str | None,
    sampling: Sampling,
    made_by: Mapping[str, object],
    out: Path,
) -> None:
    """The images of the policy, under "", and where there are fully guided ones, under "full", how far they are."""
    from shapefirst.drawing.notation import plural
    from shapefirst.files import slug
    from shapefirst.images.comparison import Comparison
    from shapefirst.images.outputs import Pictures, write_comparison, write_images
    from shapefirst.policies.words import describe

    steps = sampling.steps
    common = {
        "Software": f"shapefirst {__version__}",
        **made_by,
        "num_inference_steps": steps,
        "guidance_scale": f"{sampling.guidance_scale:g}",
        "negative_prompt": sampling.negative_prompt or "",
    }
    full = {**common, "text_steps": steps}
    policy = words or "full"
    if words is not None:
        strip = _strip(schedule, steps)
        own = {**common, "policy": words, **({"guided": strip} if strip else {})}
        own["num_inference_steps"] = schedule.own_steps or steps
        if schedule.solver is not None:
            own["sampler"] = schedule.solver.class_name
        tag = f"{slug(Path(words).stem if words.endswith('.json') else words)}-of{own['num_inference_steps']}"
    elif schedule == TextSchedule.always():
        own, tag = full, "full"
    else:
        assert isinstance(schedule, TextSchedule)
        own = {**common, "text_steps": schedule.text_steps(steps), "keep": schedule.keep}
        tag = f"text{own['text_steps']}of{steps}" + ("-keep-text" if schedule.keep == "text" else "")
        policy = f"{'text' if schedule.keep == 'text' else 'paper'}:{own['text_steps']}"
    if "full" not in results:
        tables.written(write_images(results[""], Pictures(out), tag, own), policy)
        return
    title, of = describe(schedule, steps), f"{plural(steps, 'step')} of {made_by['sampler']}"
    comparison = Comparison(title[0].upper() + title[1:], results[""], results["full"], f"Full guidance, {of}")
    written, sheet = write_comparison(comparison, out, tag, own, full)
    tables.written(written, policy)
    terminal.line(f"L1 and PSNR are to {of}, fully guided.\nSide by side: {sheet}")


def _all_prompts(prompts: list[str], prompts_file: Path | None) -> list[str]:
    """The prompts of the command line, of stdin where it says "-", and of the file."""
    from shapefirst.prompts import read_prompts

    if prompts.count("-") + (str(prompts_file) == "-") > 1:
        raise ShapefirstError("Prompts can be read from stdin once: give '-' once.")
    texts = [text for prompt in prompts for text in (read_prompts("-") if prompt == "-" else [prompt])]
    if prompts_file is not None:
        texts += read_prompts(prompts_file)
    if not texts:
        raise ShapefirstError('There is no prompt: give one or more, as in: shapefirst generate "a red mushroom".')
    for n, text in enumerate(texts, start=1):
        check_prompt(text, f"Prompt {n}")
    different = list(dict.fromkeys(texts))
    if again := len(texts) - len(different):
        terminal.note(f"prompts that come again ({again}) are left out: of the same seeds they are the same images.")
    return different


def _warn(pipe: Any, model: str, texts: list[str], schedule: Policy, sampling: Sampling) -> None:
    """What the user should know before the images are there."""
    from shapefirst.guidance.counting import UnguidedWarning
    from shapefirst.images.jobs import cut_text
    from shapefirst.models import MODELS, is_pocket
    from shapefirst.prompts.known import unseen

    for text in dict.fromkeys(texts):
        if cut := cut_text(pipe, text):
            terminal.warning(
                f"the prompt {shortened(text)!r} is too long for the text encoder; this is cut off: {shortened(cut)!r}"
            )
        if is_pocket(model) and (said := unseen(text, model if model in MODELS else "pocket")):
            terminal.warning(said)
    if sampling.guidance_scale <= 1 and schedule.keep != "neither" and schedule != TextSchedule.always():
        terminal.note(
            f"at a guidance scale of {sampling.guidance_scale:g} no guidance runs, so there is no text branch to drop: "
            "give a larger one, or --budget 0.6, which skips whole evaluations."
        )
        warnings.simplefilter("ignore", UnguidedWarning)  # which says it in Python's words
