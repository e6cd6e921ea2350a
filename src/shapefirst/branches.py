"""Which branches of guidance a denoiser's batch holds: the null one, the text one, or both, null first.

A pipeline runs both in every guided step. Who runs other steps says so around the call, and `evaluated` hears it inside
of the denoiser:

    with evaluating("null"):
        eps = denoiser(x, t, null)

Where nobody has said, `says_guided` asks the pipeline, and `halves_agree` the batch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.schedule import Branch

__all__ = ["evaluated", "evaluating", "halves_agree", "says_guided"]

_evaluated: ContextVar[tuple[Branch, ...]] = ContextVar("shapefirst.branches", default=())


@contextmanager
def evaluating(*branches: Branch) -> Iterator[None]:
    """Within the block, the denoiser's batch holds equally many rows of each of `branches`, in this order."""
    token = _evaluated.set(branches)
    try:
        yield
    finally:
        _evaluated.reset(token)


def evaluated() -> tuple[Branch, ...]:
    """What the innermost `evaluating` block says; empty outside of one."""
    return _evaluated.get()


def says_guided(pipe: Any, latents: torch.Tensor) -> bool | None:
    """Whether the pipeline's call in progress runs classifier-free guidance; None if no call is in progress.

    Raises:
        UnsupportedPipelineError: It says that it does, but the batch of `latents` is not the same latents twice.
    """
    said = _said_guided(pipe)
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


def _said_guided(pipe: Any) -> bool | None:
    """What the call in progress says.

    Stable Diffusion answers through a property, which is stale outside of a call; PixArt-alpha keeps the answer in a
    local variable of `__call__`. So the call itself is looked for on the stack and asked.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            if names.get("self") is pipe and "guidance_scale" in names:
                if "do_classifier_free_guidance" in names:
                    return bool(names["do_classifier_free_guidance"])
                return bool(getattr(pipe, "do_classifier_free_guidance", names["guidance_scale"] > 1))
        frame = frame.f_back  # type: ignore[assignment]
    return None
