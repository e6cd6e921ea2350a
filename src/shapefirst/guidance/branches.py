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
from typing import Any

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families.family import Family
from shapefirst.guidance.introspection import Running

__all__ = ["evaluated", "evaluating", "evaluating_some", "halves_agree", "parts_agree", "says_guided"]

_evaluated: ContextVar[tuple[str, ...] | None] = ContextVar("shapefirst.guidance.branches", default=())


@contextmanager
def evaluating(*branches: str) -> Iterator[None]:
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


def evaluated() -> tuple[str, ...]:
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


def says_guided(running: Running | None, batch: Any, family: Family, denoiser: Any) -> bool | None:
    """Whether a pipeline's call in progress runs classifier-free guidance; None if there is none, or it does not say.

    Raises:
        UnsupportedPipelineError: It says that it does, but the batch is not the same latents for every branch.
    """
    guided = None if running is None else running.is_guided
    if running and guided and family.guides(running.pipe, denoiser) is False:
        return False
    if running and guided and family.same_latents and not parts_agree(batch, len(family.branches)):
        raise UnsupportedPipelineError(
            f"{type(running.pipe).__name__} gave its denoiser a batch of {len(batch)} rows that is not the latents "
            f"{_times(len(family.branches))}, so it does not hold a row of each of {', '.join(family.branches)}."
        )
    return guided


def _times(n: int) -> str:
    return {2: "twice"}.get(n, f"{n} times")


def halves_agree(latents: torch.Tensor) -> bool:
    """Whether a batch is the same latents twice, bit for bit; any that have overflown to NaN count as the same."""
    return parts_agree(latents, 2)


def parts_agree(batch: Any, n: int) -> bool:
    """Whether a batch is the same latents `n` times, as `halves_agree`."""
    if len(batch) % n:
        return False
    if not isinstance(batch, torch.Tensor):
        batch = torch.stack(list(batch))
    first, *others = batch.chunk(n)
    return all(torch.equal(first, x) or torch.equal(first.nan_to_num(), x.nan_to_num()) for x in others)
