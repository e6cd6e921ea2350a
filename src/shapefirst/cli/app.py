"""The commands: words and wiring only. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from shapefirst import __version__
from shapefirst.checks import check_prompt
from shapefirst.cli import (
    prompts as commands_prompts,
)
from shapefirst.cli import (
    study as commands_study,
)
from shapefirst.cli import (
    sweep as commands_sweep,
)
from shapefirst.cli import (
    tables,
    terminal,
)
from shapefirst.cli import (
    tune as commands_tune,
)
from shapefirst.cli.loading import load_quietly, obtained
from shapefirst.cli.options import Device, Dtype, GuidanceScale, Model, PolicyWords, Sampler
from shapefirst.errors import INTERRUPTED, ShapefirstError, shortened
from shapefirst.policies.schedule import Auto, Branch, Policy, TextSchedule

__all__ = ["app"]

BAD_INPUT = 2
DEFAULT_STEPS = 50
TRAINING_MODULES = ("resvg_py", "material_design_icons_pack", "tokenizers", "matplotlib")


class _Commands(TyperGroup):
    """Bad input ends a command with one sentence, an interruption with one word; neither with a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        terminal.spare_no_character()
        if not args:  # the help is shown by way of an exception
            return super().parse_args(ctx, args)
        with _one_sentence():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_sentence():
            result = super().invoke(ctx)
            if sys.stdout is not None:  # closed from the start
                sys.stdout.flush()
            return result


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        raise
    except OSError as problem:
        where = f" {problem.filename!r}" if problem.filename else ""
        terminal.error(f"Cannot read or write{where}: {problem.strerror or problem}.")
        raise typer.Exit(BAD_INPUT) from problem
    except UnicodeEncodeError as problem:  # names of files and folders may hold what is no UTF-8
        near = problem.object[max(0, problem.start - 30) : problem.end]
        terminal.error(f"Cannot write {near!a} in {problem.encoding}: give names in UTF-8, on a system that has it.")
        raise typer.Exit(BAD_INPUT) from problem
    except (ShapefirstError, typer.TyperException) as problem:
        said = _sentence(problem) if isinstance(problem, typer.TyperException) else str(problem)
        if said:
            terminal.error(said)
        raise typer.Exit(BAD_INPUT) from problem
    except KeyboardInterrupt as stop:
        terminal.error("interrupted.")
        raise typer.Exit(INTERRUPTED) from stop


def _sentence(problem: typer.TyperException) -> str:
    """Typer's words, and the value that it leaves out where a number or a choice was expected; none where it has shown
    a command's help instead."""
    said = problem.format_message().rstrip(".")
    if not said:
        return ""
    errors = getattr(problem.__cause__, "errors", None)  # pydantic's
    given = f", not {errors()[0]['input']!r}" if callable(errors) and "is not one of" not in said else ""
    return f"{said.replace('Value error, ', '')}{given}."


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(commands_prompts.app, name="prompts")
app.add_typer(commands_sweep.app, name="sweep")
app.command()(commands_study.study)
app.command()(commands_study.report)
app.command()(commands_tune.tune)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shapefirst {__version__}")
        raise typer.Exit


@app.callback()
def shapefirst(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """See how text steers a diffusion model, then stop paying for it where it no longer does.

    \b
    Examples:
      shapefirst demo
      shapefirst generate "a wooden house" --text-steps 25 --compare
      shapefirst generate --prompts-file prompts.txt --model sd15
      shapefirst models pocket
    """


@app.command("generate")
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
    from shapefirst.files import check_writable, slug
    from shapefirst.models import default_guidance_scale, usual_sampler

    texts = _all_prompts(prompts or [], prompts_file)
    check_prompt(negative_prompt or "", "--negative-prompt")
    if policy and (text_steps is not None or text_fraction is not None or keep != "null"):
        raise ShapefirstError("Give --policy, or --text-steps, --text-fraction and --keep, not both.")
    if policy and len(policy) > 1:
        raise ShapefirstError("generate follows one --policy; to see several side by side, say `shapefirst demo`.")
    words = policy[0] if policy else None
    if steps is not None and steps < 1:
        raise ShapefirstError(f"--steps must be at least 1, not {steps}.")
    schedule: Policy
    if words is None:
        steps = DEFAULT_STEPS if steps is None else steps
        schedule = _schedule(text_steps, text_fraction, steps, keep)
        tag = f"text{schedule.text_steps(steps)}of{steps}" + ("-keep-text" if keep == "text" else "")
        own: dict[str, object] = {"text_steps": schedule.text_steps(steps), "keep": keep}
    else:
        schedule, steps = _policy(words, steps)
        tag = f"{slug(Path(words).stem if words.endswith('.json') else words)}-of{steps}"
        own = {"policy": words, **({"guided": schedule.strip(steps)} if isinstance(schedule, TextSchedule) else {})}
    check_writable(out)
    scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.comparison import Comparison
        from shapefirst.images.jobs import Sampling, make_jobs
        from shapefirst.images.jobs import generate as sample
        from shapefirst.images.outputs import Pictures, write_comparison, write_images
        from shapefirst.policies.words import describe, policy_of
    jobs = make_jobs(texts, num_images, seed)
    sampling = Sampling(scale, steps, negative_prompt)
    sampler = sampler or usual_sampler(obtained(model, dtype, device))
    pipe = load_quietly(model, sampler, device, dtype)
    _warn(pipe, model, [*texts, *([negative_prompt] if negative_prompt else [])], scale)

    if words is not None:
        policy_of(pipe, words)  # a tuned one is for this model and sampler, or refused here
        _note_scale(words, scale)
        terminal.line("\n".join([f"Policy {words}: {describe(schedule, steps)}", str(own.get("guided", ""))]).rstrip())
    schedules = {tag: schedule, **({"full": TextSchedule.always()} if compare else {})}
    with terminal.progress(f"Sampling with {model}", total=len(jobs) * len(schedules)) as report:
        results = sample(pipe, jobs, schedules, sampling, on_progress=report)

    if isinstance(schedule, Auto) and all(result.evaluations >= 2 * steps for result in results[tag]):
        terminal.note(f"a tolerance of {schedule.tol:g} guided every step, so nothing was saved: give a larger one.")
    common = {
        "Software": f"shapefirst {__version__}",
        "model": model,
        "sampler": sampler,
        "num_inference_steps": steps,
        "guidance_scale": f"{scale:g}",
        "negative_prompt": negative_prompt or "",
        "device": pipe.device.type,
        **({"dtype": dtype} if dtype else {}),
    }
    settings = {**common, **own}
    if compare:
        title = describe(schedule, steps)
        comparison = Comparison(title[0].upper() + title[1:], results[tag], results["full"])
        full_settings = {**common, "text_steps": steps}
        written, sheet = write_comparison(comparison, out, tag, settings, full_settings)
        tables.written(written)
        terminal.line(f"Side by side: {sheet}")
    else:
        tables.written(write_images(results[tag], Pictures(out), tag, settings))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the sheet and the page go.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every image.")] = 0,
    policy: PolicyWords = None,
) -> None:
    """Show 8 prompts on the embedded model: full guidance, and what other policies make of it.

    By default these are text in the first 25 and 10 of 50 steps, and 60% and 40% of the evaluations; --policy, which
    may be given again, takes their place. Writes one sheet (PNG) and one HTML page that needs nothing else.
    """
    from shapefirst.files import check_writable

    check_writable(out)
    for words in policy or ():
        _policy(words, DEFAULT_STEPS)
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


@app.command("models")
def list_models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Tell about this model only."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With pocket: draw everything it knows and write the pictures to this PNG."),
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
    if sheet is not None and name != "pocket":
        raise ShapefirstError("--sheet draws what pocket knows: say `shapefirst models pocket --sheet FILE`.")
    if sheet is not None:
        _draw_gallery(sheet)
    elif name == "pocket":
        tables.vocabulary()
    elif name:
        tables.model_table(MODELS[name])
    else:
        tables.models_table(list(MODELS.values()))


@app.command("train-pocket")
def train_pocket(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the stages leave their work and the weights.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="cpu (2 cores) or gpu.")] = "cpu",
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
    """Train the embedded model. Takes hours; a run that was stopped goes on where it was.

    \b
    Examples:
      shapefirst train-pocket --out runs/pocket
      shapefirst train-pocket --out runs/more --start-from runs/pocket/weights
    """
    from shapefirst.files import check_writable

    check_writable(out)
    if missing := [name for name in TRAINING_MODULES if find_spec(name) is None]:
        raise ShapefirstError(f"Training needs {' and '.join(missing)}: pip install 'shapefirst[train]'.")
    with terminal.working("Getting torch ready"):
        from shapefirst.training.stages import train_model
    train_model(out, preset=preset, seed=seed, stages=stages or None, start_from=start_from)


def _draw_gallery(file: Path) -> None:
    from shapefirst.files import check_file, save_png

    check_file(file)
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.images.gallery import gallery, gallery_prompts
        from shapefirst.models import default_guidance_scale
    scale = default_guidance_scale("pocket")
    pipe = load_quietly("pocket", "ddim")
    with terminal.progress("Drawing what pocket knows", total=len(gallery_prompts())) as report:
        image = gallery(pipe, scale, on_progress=report)
    save_png(image, file)
    terminal.line(f"Sheet: {file}")


def _all_prompts(prompts: list[str], prompts_file: Path | None) -> list[str]:
    """The prompts of the command line, of stdin where it says "-", and of the file."""
    from shapefirst.prompts import read_prompts

    texts = [text for prompt in prompts for text in (read_prompts("-") if prompt == "-" else [prompt])]
    if prompts_file is not None:
        texts += read_prompts(prompts_file)
    if not texts:
        raise ShapefirstError('There is no prompt: give one or more, as in: shapefirst generate "a red mushroom".')
    for n, text in enumerate(texts, start=1):
        check_prompt(text, f"Prompt {n}")
    return texts


def _policy(words: str, steps: int | None) -> tuple[Policy, int]:
    """The policy, before there is a model to check a tuned one against, and the number of steps that go with it."""
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import find_policy

    found = find_policy(words)
    own_steps = found.steps if isinstance(found, PolicyFile) else DEFAULT_STEPS
    policy = found.schedule if isinstance(found, PolicyFile) else found
    steps = own_steps if steps is None else steps
    if isinstance(policy, TextSchedule):
        policy.check(steps)
    return policy, steps


def _note_scale(words: str, scale: float) -> None:
    """A policy file does not know the guidance scale that it is used with, which moves the picture too."""
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import find_policy

    found = find_policy(words)
    if isinstance(found, PolicyFile) and found.guidance_scale != scale:
        terminal.note(
            f"the policy was tuned at guidance scale {found.guidance_scale:g}, not {scale:g}: what it promises was "
            "measured there."
        )


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
    from shapefirst.world.vocabulary import unknown_words

    for text in dict.fromkeys(texts):
        short = shortened(text)
        if cut := cut_text(pipe, text):
            terminal.warning(
                f"the prompt {short!r} is too long for the text encoder; this is cut off: {shortened(cut)!r}"
            )
        if not is_pocket(model):
            continue
        if not any(map(str.isalpha, text)):
            terminal.warning(f"{short!r} has no word for pocket to draw.")
        if unknown := unknown_words(text):
            terminal.warning(
                f"pocket never saw {terminal.listed(unknown)} (in {short!r}). It knows sentences such as "
                "'a red car above a wooden house'; `shapefirst models pocket` lists its words."
            )
    if scale <= 1:
        terminal.note(f"at a guidance scale of {scale:g} no guidance runs, so there are no evaluations to save.")
