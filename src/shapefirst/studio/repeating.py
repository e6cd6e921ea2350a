"""A job of the studio as a command line and as Python: to copy, and to run without the studio."""

from __future__ import annotations

import shlex
from textwrap import dedent
from typing import Any

from shapefirst.policies.file import PolicyFile
from shapefirst.studio.settings import StudioSettings

__all__ = ["command_of", "python_of"]


def command_of(settings: StudioSettings, *, device: str | None = None, dtype: str | None = None) -> str:
    """What to type for the same pictures, but for an [EOS] switch, which no command makes.

    ``settings`` are complete (`Offer.completed`).
    """
    options: dict[str, Any] = {
        "--model": settings.model,
        "--sampler": settings.sampler,
        "--steps": settings.steps,
        "--policy": settings.policy.strip(),
        "--guidance-scale": f"{settings.guidance:g}",
        "--negative-prompt": settings.negative or None,
        "--seed": settings.seed,
        "--num-images": settings.images if settings.images > 1 else None,
        "--width": settings.width,
        "--height": settings.height,
        "--device": device,
        "--dtype": dtype,
    }
    words = ["shapefirst", "generate"]
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    words += [] if settings.policy.strip() == "full" else ["--compare"]
    words += [*(["--"] if settings.prompt.startswith("-") else []), settings.prompt]
    return shlex.join(words) + "  # and the [EOS] switch in Python" * bool(settings.second.strip())


def python_of(
    settings: StudioSettings, tuned: PolicyFile | None = None, *, device: str | None = None, dtype: str | None = None
) -> str:
    """Lines that make the saved pictures; with a second prompt, those of the first with the [EOS] of the second.

    Args:
        settings: Complete.
        tuned: The policy, if it is a file.
        device: As of `load`.
        dtype: As of `load`.
    """
    how = "".join(f", {name}={value!r}" for name, value in (("device", device), ("dtype", dtype)) if value)
    loaded = f"pipe = load({settings.model!r}, sampler={settings.sampler!r}{how})"
    own = None if tuned is None else tuned.schedule.own_steps
    call = {
        "negative_prompt": repr(settings.negative) if settings.negative else None,
        "num_inference_steps": own or settings.steps,
        "guidance_scale": f"{settings.guidance:g}",
        "num_images_per_prompt": settings.images if settings.images > 1 else None,
        "generator": f"generators({settings.seeds!r})",
    }
    if settings.second.strip():
        return _switched(settings, loaded, call)
    given = {name: side for name in ("width", "height") if (side := getattr(settings, name)) is not None}
    one_side = len(given) == 1  # a pipeline goes by both or by neither
    sides = [f"**(own_sides(pipe) | {given!r})"] if one_side else [f"{name}={side}" for name, side in given.items()]
    said = [f"{name}={value}" for name, value in call.items() if value is not None]
    arguments = ", ".join([repr(settings.prompt), *said, *sides])
    return "\n".join(
        [
            "from shapefirst import guide, load",
            *["from shapefirst.families.layout import own_sides"] * one_side,
            "from shapefirst.sampling.loop import generators",
            "",
            loaded,
            f"with guide(pipe, {settings.policy.strip()!r}):",
            f"    images = pipe({arguments}).images",
        ]
    )


def _switched(settings: StudioSettings, loaded: str, call: dict[str, Any]) -> str:
    call = {**call, "num_inference_steps": settings.steps, "width": settings.width, "height": settings.height}
    negative = call.pop("negative_prompt")
    each = call.pop("num_images_per_prompt")
    encoding = "".join(
        f", {name}={value}" for name, value in (("negative_prompt", negative), ("num_images_per_prompt", each)) if value
    )
    arguments = ", ".join(f"{name}={value}" for name, value in call.items() if value is not None)
    return dedent(f"""\
        from dataclasses import replace

        from shapefirst import load
        from shapefirst.prompts.edits import switch_eos
        from shapefirst.prompts.tokens import positions, preprocessed
        from shapefirst.sampling.loop import decode, denoise, encode, generators

        {loaded}
        first, second = {settings.prompt!r}, {settings.second!r}
        a, b = (encode(pipe, prompt{encoding}) for prompt in (first, second))
        at = [
            [positions(pipe.tokenizer, preprocessed(pipe, prompt), a.text.shape[1])] * {settings.images}
            for prompt in (first, second)
        ]
        mixed = replace(a, text=switch_eos(a.text, b.text, *at), text_pooled=b.text_pooled)
        *_, last = denoise(pipe, mixed, {arguments})
        images = decode(pipe, last.x_next)""")
