"""The options of `shapefirst generate`, and what they stand for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from shapefirst.checks import check_number, check_prompt, check_seed, check_side, share_in
from shapefirst.cli.options import Device, Dtype, GuidanceScale, PolicyWords
from shapefirst.errors import ShapefirstError
from shapefirst.policies.auto import Policy, check_policy
from shapefirst.policies.schedule import TextSchedule

if TYPE_CHECKING:
    from shapefirst.images.jobs import Sampling

__all__ = [
    "DEFAULT_STEPS",
    "BatchSize",
    "LoadOptions",
    "Loras",
    "MachineOptions",
    "Offload",
    "PictureOptions",
    "PolicyOptions",
    "policy_and_steps",
]

DEFAULT_STEPS: Final = 50
BatchSize: TypeAlias = Annotated[int, typer.Option(metavar="N", help="Images at a time.")]
Offload: TypeAlias = Annotated[
    Literal["model", "sequential"] | None,
    typer.Option(help="Keep the model in memory and bring its parts, or their layers, to the card in turn."),
]
Loras: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="A LoRA (.safetensors), or FILE=0.7 for its strength; may be given again."),
]


@dataclass(frozen=True)
class PolicyOptions:
    """Which policy is followed; without any of them the stock pipeline samples."""

    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Spend at most this share of the evaluations and keep the picture: 0.6, 60%."
        ),
    ] = None
    tol: Annotated[
        float | None,
        typer.Option(metavar="ERROR", help="Let each image decide what to evaluate by this tolerance, such as 0.006."),
    ] = None
    policy: PolicyWords = None
    text_steps: Annotated[
        str | None,
        typer.Option(metavar="K", help="The paper's rule: the text in the first K steps only (25, or 50% of them)."),
    ] = None
    text_fraction: Annotated[
        str | None, typer.Option(metavar="F", help="The same as a fraction of the steps, from 0 to 1, or in percent.")
    ] = None
    keep: Annotated[
        Literal["null", "text"] | None,
        typer.Option(
            help="With these two: the branch that the other steps evaluate.", show_default="null, the paper's"
        ),
    ] = None

    @property
    def words(self) -> str | None:
        """Of the one policy, but for the paper's; None where there is none.

        Raises:
            ShapefirstError: Two of them are asked for, or a branch to keep where the text is not dropped.
        """
        dropped = {"--text-steps": self.text_steps, "--text-fraction": self.text_fraction}
        given = {"--budget": self.budget, "--tol": self.tol, "--policy": self.policy, **dropped}
        asked = [name for name, value in given.items() if value not in (None, [])]
        if len(asked) > 1:
            raise ShapefirstError(f"Give one of {', '.join(given)}, not both {' and '.join(asked[:2])}.")
        if self.keep is not None and not {*asked} & {*dropped}:
            raise ShapefirstError("--keep says what runs in steps without text: give it with --text-steps.")
        if self.policy and len(self.policy) > 1:
            raise ShapefirstError("generate follows one --policy; to see several side by side, say `shapefirst demo`.")
        if self.budget is not None:
            return f"budget:{share_in(self.budget, '--budget', '--budget {}'):g}"
        return f"tol:{self.tol:g}" if self.tol is not None else self.policy[0] if self.policy else None

    @property
    def is_stock(self) -> bool:
        """Whether no policy is asked for."""
        return self.words is self.text_steps is self.text_fraction is None

    def found(self, steps: int | None) -> tuple[Policy, int]:
        """The policy, and the number of steps that go with it: ``steps`` where they are said.

        Raises:
            ShapefirstError: There is no such policy, or it does not go with these steps.
        """
        if (words := self.words) is not None:
            return policy_and_steps(words, steps)
        from shapefirst.policies.words import text_steps_of

        steps, keep = DEFAULT_STEPS if steps is None else steps, self.keep or "null"
        if self.text_steps is not None:
            numbers = text_steps_of(self.text_steps, steps)
            if len(numbers) != 1:
                raise ShapefirstError("generate takes one number of --text-steps; `shapefirst sweep` takes several.")
            return TextSchedule.until(numbers[0], keep=keep), steps
        if self.text_fraction is not None:
            part = share_in(self.text_fraction, "--text-fraction", "--text-fraction {}")
            if not 0 <= part <= 1:
                raise ShapefirstError(f"--text-fraction must lie between 0 and 1, not {part:g}.")
            return TextSchedule.until(fraction=part, keep=keep), steps
        return TextSchedule.always(), steps


@dataclass(frozen=True)
class PictureOptions:
    """What is sampled, besides the prompts."""

    steps: Annotated[
        int | None, typer.Option(metavar="N", show_default="50, or the policy's own", help="Denoising steps.")
    ] = None
    guidance_scale: GuidanceScale = None
    negative_prompt: Annotated[str | None, typer.Option(metavar="P", help="What not to draw.")] = None
    height: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of the images.", show_default="the model's own")
    ] = None
    width: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of the images.", show_default="the model's own")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of each prompt's first image; further ones count up.")] = 0
    num_images: Annotated[int, typer.Option(metavar="N", help="Images of each prompt.")] = 1

    def check(self, prompts: int) -> None:
        """Raise ShapefirstError for what no model takes; one may know better."""
        check_prompt(self.negative_prompt or "", "--negative-prompt")
        if self.steps is not None:
            check_number(self.steps, "steps", "--steps")
        for option, side in (("--height", self.height), ("--width", self.width)):
            if side is not None:
                check_side(side, option)
        check_number(self.num_images, "images", "The number of images of each prompt")
        check_number(self.num_images * prompts, "images", "The number of images of all prompts")
        check_seed(self.seed, self.num_images)
        if self.guidance_scale is not None:
            check_number(self.guidance_scale, "guidance scale", "The guidance scale")

    def sampling(self, model: str, steps: int, tuned_at: float | None) -> Sampling:
        """What the pipeline is told; its scale is the given one, else that of the policy, else the model's usual."""
        from shapefirst.images.jobs import Sampling
        from shapefirst.models import default_guidance_scale

        scale = tuned_at if self.guidance_scale is None else self.guidance_scale
        scale = default_guidance_scale(model) if scale is None else scale
        return Sampling(scale, steps, self.negative_prompt, self.height, self.width)


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded, and what it is made to carry."""

    device: Device = None
    dtype: Dtype = None
    offload: Offload = None
    lora: Loras = None

    def check(self) -> None:
        """Raise ShapefirstError for what is not to be had here."""
        from shapefirst.models.lora import loras_of

        loras_of(self.lora or ())
        if self.offload is not None:
            from shapefirst.models.offloading import check_offload

            check_offload(self.device)

    def load(self, model: str, sampler: str, *, conditioned: bool = False) -> Any:
        """The pipeline (see ``models.load``)."""
        from shapefirst.cli.loading import load_quietly
        from shapefirst.models.lora import add_loras, loras_of

        if self.offload is None:
            pipe = load_quietly(model, sampler, self.device, self.dtype, conditioned=conditioned)
        else:
            from shapefirst.models.loader import dtype_name
            from shapefirst.models.offloading import offload

            kind = dtype_name(self.dtype, self.device)
            pipe = load_quietly(model, sampler, "cpu", kind, conditioned=conditioned)
        add_loras(pipe, loras_of(self.lora or ()))
        if self.offload is not None:
            offload(pipe, self.offload, self.device)
        return pipe

    @property
    def words(self) -> str:
        """The LoRAs and the offloading as options, for a command that goes on with the same."""
        options = [*(word for lora in self.lora or () for word in ("--lora", lora))]
        return shlex.join(options + (["--offload", self.offload] if self.offload else []))

    @property
    def loras(self) -> str:
        """The LoRAs by the names of their files, with their strengths."""
        return ", ".join(Path(lora).name for lora in self.lora or ())

    def told(self, sampling: Sampling) -> dict[str, object]:
        """What a picture says of them, where they are given."""
        given = {"dtype": self.dtype, "lora": ", ".join(self.lora or ()), "offload": self.offload}
        sides = {"height": sampling.height, "width": sampling.width}
        return {name: value for name, value in {**given, **sides}.items() if value}


@dataclass(frozen=True)
class MachineOptions(LoadOptions):
    """That, and how much of it runs at a time."""

    batch_size: BatchSize = 4

    def check(self) -> None:
        check_number(self.batch_size, "batch size", "--batch-size")
        super().check()


def policy_and_steps(words: str, steps: int | None, *, anywhere: bool = False) -> tuple[Policy, int]:
    """The policy, before there is a model to check a tuned one against, and the number of steps that go with it.

    One with steps of its own goes with those in whose place it stands, also where its own number is given; or, if so
    said, stands beside any.
    """
    from shapefirst.policies.file import PolicyFile
    from shapefirst.policies.words import find_policy

    found = find_policy(words)
    stands_for = found.full_steps if isinstance(found, PolicyFile) else DEFAULT_STEPS
    policy = found.schedule if isinstance(found, PolicyFile) else found
    steps = stands_for if steps is None or steps == policy.own_steps else steps
    if policy.own_steps is None:
        check_policy(policy, steps)
    elif steps != stands_for and not anywhere:
        goal = "--goal best " * (isinstance(found, PolicyFile) and found.goal == "best")
        raise ShapefirstError(
            f"The policy {words} takes the place of {stands_for} steps, with {policy.num_steps} of its own, and not of "
            f"{steps}: leave --steps out, or run `shapefirst tune {goal}--steps {steps}`."
        )
    return policy, steps
