"""Which branches of guidance a denoiser's batch holds: the null one, the text one, or both, null first.

A pipeline runs both in every guided step. Who runs other steps says so around the call, and `evaluated` hears it inside
of the denoiser:

    with evaluating("null"):
        eps = denoiser(x, t, null)

Where nobody has said, `says_guided` asks the pipeline, and `halves_agree` the batch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.policies.schedule import Branch

__all__ = [
    "call_in_progress",
    "evaluated",
    "evaluating",
    "evaluating_some",
    "guidance_scale_of",
    "halves_agree",
    "says_guided",
]

_evaluated: ContextVar[tuple[Branch, ...] | None] = ContextVar("shapefirst.guidance.branches", default=())


@contextmanager
def evaluating(*branches: Branch) -> Iterator[None]:
    """Within the block, the denoiser's batch holds equally many rows of each of `branches`, in this order."""
    token = _evaluated.set(branches)
    try:
        yield
    finally:
        _evaluated.reset(token)


@contextmanager
def evaluating_some() -> Iterator[None]:
    """Within the block, the batch holds the null branch of some images and the text branch of others."""
    token = _evaluated.set(None)
    try:
        yield
    finally:
        _evaluated.reset(token)


def evaluated() -> tuple[Branch, ...]:
    """What the innermost `evaluating` block says; empty outside of one.

    Raises:
        ShapefirstError: It says that the branches' rows are those of different images.
    """
    branches = _evaluated.get()
    if branches is None:
        raise ShapefirstError(
            "Attention cannot be recorded or changed where a call of the denoiser holds branches of different images: "
            "use a TextSchedule in place of a tolerance, or keep neither branch, and denoise() in place of "
            "denoise_together()."
        )
    return branches


def says_guided(pipe: Any, latents: torch.Tensor) -> bool | None:
    """Whether the pipeline's call in progress runs classifier-free guidance; None if no call is in progress.

    Raises:
        UnsupportedPipelineError: It says that it does, but the batch of `latents` is not the same latents twice.
    """
    names = call_in_progress(pipe)
    if names is None:
        return None
    said = bool(
        names["do_classifier_free_guidance"]
        if "do_classifier_free_guidance" in names
        else getattr(pipe, "do_classifier_free_guidance", names["guidance_scale"] > 1)
    )
    if said and not halves_agree(latents):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} gave its denoiser a batch of {len(latents)} rows that is not the latents twice, "
            "so it does not hold a null and a text half."
        )
    return said


def halves_agree(latents: torch.Tensor) -> bool:
    """Whether a batch is the same latents twice, bit for bit; any that have overflown to NaN count as the same."""
    if len(latents) % 2:
        return False
    a, b = latents.chunk(2)
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def guidance_scale_of(pipe: Any) -> float:
    """The w of the pipeline's call in progress, as it is now: a callback may change it.

    Raises:
        ShapefirstError: No call is in progress.
    """
    names = call_in_progress(pipe)
    if names is None:
        raise ShapefirstError(
            f"A tolerance needs the guidance scale, which only a call of the {type(pipe).__name__} itself tells: use a "
            "TextSchedule with a loop of your own."
        )
    return float(getattr(pipe, "guidance_scale", names["guidance_scale"]))


def call_in_progress(pipe: Any) -> Mapping[str, Any] | None:
    """The local variables of the pipeline's `__call__`, if one is running.

    Stable Diffusion tells its settings through properties, which are stale outside of a call; PixArt-alpha keeps them
    in local variables of `__call__`. So the call itself is looked for on the stack and asked.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            if names.get("self") is pipe and "guidance_scale" in names:
                return names
        frame = frame.f_back  # type: ignore[assignment]
    return None
