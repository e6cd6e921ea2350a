"""`shapefirst generate`: images of prompts under a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shapefirst import __version__
from shapefirst.checks import check_number, check_prompt, check_seed
from shapefirst.cli import tables, terminal
from shapefirst.cli.loading import load_quietly, obtained
from shapefirst.cli.options import Device, Dtype, GuidanceScale, Model, PolicyWords, Sampler
from shapefirst.errors import ShapefirstError, shortened
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.schedule import Branch, TextSchedule

if TYPE_CHECKING:
    from shapefirst.images.jobs import Result, Sampling

__all__ = ["DEFAULT_STEPS", "generate_images", "policy_and_steps"]

DEFAULT_STEPS = 50


def generate_images(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to draw. '-' reads prompts from stdin, one a line."),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More prompts, one a line; lines that start with # do not count."),
    ] = None,
    model: Model = "pocket",
    text_steps: Annotated[
        int | None,
        typer.Option(metavar="K", show_default="half of the steps", help="Use the text in the first K steps only."),
    ] = None,
    text_fraction: Annotated[
        float | None,
        typer.Option(metavar="F", help="The same as a fraction of the steps, from 0 to 1."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", show_default="50, or the policy's own", help="Denoising steps.")
    ] = None,
    sampler: Sampler = None,
    guidance_scale: GuidanceScale = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="P", help="What not to draw."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of each prompt's first image; further ones count up.")] = 0,
    num_images: Annotated[int, typer.Option(metavar="N", help="Images of each prompt.")] = 1,
    keep: Annotated[
        Literal["null", "text"],
        typer.Option(help="The branch that the steps without text evaluate; null is the paper's."),
    ] = "null",
    policy: PolicyWords = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNGs go.")] = Path("out"),
    compare: Annotated[
        bool, typer.Option("--compare", help="Also full guidance, the difference, and a sheet of the three.")
    ] = False,
) -> None:
    """Make images that use the text in the first steps only, or follow another policy.

    Every PNG holds its settings. The table shows what each image cost.

    \b
    Examples:
      shapefirst generate "a red mushroom" "a fluffy rabbit" --text-steps 15
      shapefirst generate "a metallic rocket" --num-images 4 --compare
      shapefirst generate "a metallic rocket" --policy budget:0.6 --compare
      echo "a blue butterfly" | shapefirst generate -
      shapefirst generate "a horse on the moon" --model sd15 --out horses
    """
    from shapefirst.files import check_writable
    from shapefirst.models import default_guidance_scale, sampler_info, usual_sampler

    if sampler is not None:
        sampler_info(sampler)
    texts = _all_prompts(prompts or [], prompts_file)
    check_prompt(negative_prompt or "", "--negative-prompt")
    words = _words(policy, text_steps, text_fraction, keep)
    _check_numbers(steps, num_images, len(texts), seed, guidance_scale)
    schedule: Policy
    if words is None:
        steps = DEFAULT_STEPS if steps is None else steps
        schedule = _schedule(text_steps, text_fraction, steps, keep)
    else:
        schedule, steps = policy_and_steps(words, steps)
    check_writable(out)
    scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.jobs import Sampling, make_jobs
        from shapefirst.images.jobs import generate as sample
    jobs = make_jobs(texts, num_images, seed)
    sampling = Sampling(scale, steps, negative_prompt)
    sampler = sampler or usual_sampler(obtained(model, dtype, device))
    pipe = load_quietly(model, sampler, device, dtype)
    _warn(pipe, model, [*texts, *([negative_prompt] if negative_prompt else [])], scale)
    if words is not None:
        _check_policy(pipe, words, schedule, steps, scale)
    schedules = {"": schedule, **({"full": TextSchedule.always()} if compare else {})}
    with terminal.progress(f"Sampling with {model}", total=len(jobs) * len(schedules)) as report:
        results = sample(pipe, jobs, schedules, sampling, on_progress=report)
    if isinstance(schedule, Auto) and all(result.evaluations >= result.asked for result in results[""]):
        terminal.note(f"a tolerance of {schedule.tol:g} guided every step, so nothing was saved: give a larger one.")
    made_by = {"model": model, "sampler": sampler, "device": pipe.device.type, **({"dtype": dtype} if dtype else {})}
    _write(results, schedule, words, sampling, made_by, out)


def _check_numbers(steps: int | None, num_images: int, prompts: int, seed: int, guidance_scale: float | None) -> None:
    """Before there is a model, which may know better."""
    if steps is not None:
        check_number(steps, "steps", "--steps")
    check_number(num_images, "images", "The number of images of each prompt")
    check_number(num_images * prompts, "images", "The number of images of all prompts")
    check_seed(seed, num_images)
    if guidance_scale is not None:
        check_number(guidance_scale, "guidance scale", "The guidance scale")


def _words(policy: list[str] | None, text_steps: int | None, text_fraction: float | None, keep: Branch) -> str | None:
    """Those of the one policy, if there is one."""
    if policy and (text_steps is not None or text_fraction is not None or keep != "null"):
        raise ShapefirstError("Give --policy, or --text-steps, --text-fraction and --keep, not both.")
    if policy and len(policy) > 1:
        raise ShapefirstError("generate follows one --policy; to see several side by side, say `shapefirst demo`.")
    return policy[0] if policy else None


def _check_policy(pipe: Any, words: str, schedule: Policy, steps: int, scale: float) -> None:
    """Says what the policy does; a tuned one is for this model and sampler, or refused here."""
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import describe, find_policy

    found = find_policy(words)
    if isinstance(found, PolicyFile):
        found.policy_for(pipe)
        if found.guidance_scale != scale:  # it does not know the scale that it is used with, which moves the picture
            terminal.note(
                f"the policy was tuned at guidance scale {found.guidance_scale:g}, not {scale:g}: what it promises was "
                "measured there."
            )
        if found.promise:
            terminal.line(found.promise)
    terminal.line(f"Policy {words}: {describe(schedule, steps)}\n{_strip(schedule, steps)}".rstrip())


def _strip(schedule: Policy, steps: int) -> str:
    """Its steps, one character each; "" where it decides while sampling, or has a solver with steps of its own."""
    return schedule.strip(steps) if isinstance(schedule, TextSchedule) and schedule.solver is None else ""


def _write(
    results: Mapping[str, Sequence[Result]],
    schedule: Policy,
    words: str | None,
    sampling: Sampling,
    made_by: Mapping[str, str],
    out: Path,
) -> None:
    """The images of the policy, under "", and where there are fully guided ones, under "full", how far they are."""
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
    own: dict[str, object]
    if words is None:
        assert isinstance(schedule, TextSchedule)
        own = {"text_steps": schedule.text_steps(steps), "keep": schedule.keep}
        tag = f"text{own['text_steps']}of{steps}" + ("-keep-text" if schedule.keep == "text" else "")
    else:
        strip = _strip(schedule, steps)
        own = {"policy": words, **({"guided": strip} if strip else {})}
        tag = f"{slug(Path(words).stem if words.endswith('.json') else words)}-of{steps}"
    if "full" not in results:
        tables.written(write_images(results[""], Pictures(out), tag, {**common, **own}))
        return
    title = describe(schedule, steps)
    comparison = Comparison(title[0].upper() + title[1:], results[""], results["full"])
    written, sheet = write_comparison(comparison, out, tag, {**common, **own}, {**common, "text_steps": steps})
    tables.written(written)
    terminal.line(f"Side by side: {sheet}")


def policy_and_steps(words: str, steps: int | None, *, anywhere: bool = False) -> tuple[Policy, int]:
    """The policy, before there is a model to check a tuned one against, and the number of steps that go with it.

    One with a solver of its own goes with the steps in whose place it stands, or, if so said, stands beside any.
    """
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import find_policy

    found = find_policy(words)
    stands_for = found.full_steps if isinstance(found, PolicyFile) else DEFAULT_STEPS
    policy = found.schedule if isinstance(found, PolicyFile) else found
    steps = stands_for if steps is None else steps
    if isinstance(policy, TextSchedule) and (policy.solver is None or not (anywhere or steps == stands_for)):
        policy.check(steps)
    return policy, steps


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


def _schedule(text_steps: int | None, text_fraction: float | None, steps: int, keep: Branch) -> TextSchedule:
    if text_steps is not None and text_fraction is not None:
        raise ShapefirstError("Give --text-steps or --text-fraction, not both.")
    if text_steps is not None and not 0 <= text_steps <= steps:
        raise ShapefirstError(f"--text-steps must be from 0 to {steps} (the number of --steps), not {text_steps}.")
    if text_steps is not None:
        return TextSchedule.until(text_steps, keep=keep)
    if text_fraction is not None and not 0 <= text_fraction <= 1:
        raise ShapefirstError(f"--text-fraction must lie between 0 and 1, not {text_fraction:g}.")
    return TextSchedule.until(fraction=0.5 if text_fraction is None else text_fraction, keep=keep)


def _warn(pipe: Any, model: str, texts: list[str], scale: float) -> None:
    """What the user should know before the images are there."""
    from shapefirst.images.jobs import cut_text
    from shapefirst.models import is_pocket
    from shapefirst.prompts.known import unseen

    for text in dict.fromkeys(texts):
        short = shortened(text)
        if cut := cut_text(pipe, text):
            terminal.warning(
                f"the prompt {short!r} is too long for the text encoder; this is cut off: {shortened(cut)!r}"
            )
        if not is_pocket(model):
            continue
        if said := unseen(text):
            terminal.warning(said)
    if scale <= 1:
        terminal.note(f"at a guidance scale of {scale:g} no guidance runs, so there are no evaluations to save.")
