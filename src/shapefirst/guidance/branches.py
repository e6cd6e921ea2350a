"""Which branches of guidance a denoiser's batch holds: the null one, the text one, or both, null first.

A pipeline runs both in every guided step. Who runs other steps says so around the call, and `evaluated` hears it inside
of the denoiser:

    with evaluating("null"):
        eps = denoiser(x, t, null)

Where nobody has said, `says_guided` asks the pipeline, and `halves_agree` the batch itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.introspection import Running
from shapefirst.policies.schedule import Branch

__all__ = ["evaluated", "evaluating", "evaluating_some", "halves_agree", "says_guided"]

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


def says_guided(running: Running | None, latents: torch.Tensor) -> bool | None:
    """Whether a pipeline's call in progress runs classifier-free guidance; None if there is none.

    Raises:
        UnsupportedPipelineError: It says that it does, but the batch of `latents` is not the same latents twice.
    """
    if running is None:
        return None
    if running.is_guided and not halves_agree(latents):
        raise UnsupportedPipelineError(
            f"{type(running.pipe).__name__} gave its denoiser a batch of {len(latents)} rows that is not the latents "
            "twice, so it does not hold a null and a text half."
        )
    return running.is_guided


def halves_agree(latents: torch.Tensor) -> bool:
    """Whether a batch is the same latents twice, bit for bit; any that have overflown to NaN count as the same."""
    if len(latents) % 2:
        return False
    a, b = latents.chunk(2)
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
