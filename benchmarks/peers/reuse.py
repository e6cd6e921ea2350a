"""Methods that skip whole evaluations, both branches at once, and reuse what the last one gave."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .loop import Now, Rule, peer

__all__ = ["adaptive_diffusion", "budcache", "budcaches", "easycache", "lazycache"]


@peer
def budcaches(evaluated: Sequence[Collection[int]]) -> Rule:
    """`budcache` with steps of each image's own, to compare many choices in one batch: all rows are evaluated in every
    step, and an image keeps its last output where the step is none of its own."""
    held: Tensor | None = None

    def output(now: Now) -> Tensor:
        nonlocal held
        out = now.guided()
        mine = torch.tensor([now.step in steps for steps in evaluated], device=out.device)[:, None, None, None]
        held = out if held is None else torch.where(mine, out, held)
        return held

    return output


@peer
def budcache(evaluated: Collection[int]) -> Rule:
    """BudCache, "Budget-Constrained Step-Level Diffusion Caching" (Lei et al., ICML 2026, arXiv 2606.13496).

    The steps that `search_budcache` found are evaluated, and the others reuse the last output. In its code it is the
    residual of all blocks of a transformer that is reused, just before the last projection. Its second stage, which
    trains the times of the steps, is optional there and left out.
    """
    held: Tensor | None = None

    def output(now: Now) -> Tensor:
        nonlocal held
        if held is None or now.step in evaluated:
            held = now.guided()
        return held

    return output


@peer
def adaptive_diffusion(threshold: float = 0.01, most: int = 4) -> Rule:
    """AdaptiveDiffusion, "Training-Free Adaptive Diffusion with Bounded Difference Approximation Strategy" (Ye et al.,
    NeurIPS 2024, arXiv 2410.09873), as in its code, whose defaults these are.

    The last output serves again after steps over which the third difference of the latents is small: with d the mean
    absolute change of the batch's latents, |(d_i + d_{i-2}) / 2 - d_{i-1}| <= threshold d_{i-1}. The first four steps
    are evaluated, and later on one of ``most`` + 1 in a row.
    """
    seen: list[Tensor] = []
    evaluated: list[bool] = []
    held: Tensor | None = None

    def output(now: Now) -> Tensor:
        nonlocal held
        seen.append(now.latents)
        if len(seen) > 4:
            d2, d1, d0 = ((b - a).abs().mean() for a, b in zip(seen[-4:-1], seen[-3:], strict=True))
            small = bool(abs((d0 + d2) / 2 - d1) <= d1 * threshold)
            overdue = len(evaluated) > 4 and not any(evaluated[-most:])
            evaluated.append(overdue or not small)
        if held is None or len(seen) <= 4 or evaluated[-1]:
            held = now.guided()
        return held

    return output


class _Change:
    """How much an output has changed since the last evaluation, guessed from its input: rate |x - x'| / |y'|."""

    def __init__(self, threshold: float, subsample: int) -> None:
        self.threshold, self.subsample = threshold, subsample
        self.total, self.rate = 0.0, math.nan
        self.kept: tuple[Tensor, Tensor, float] | None = None

    def is_small(self, x: Tensor) -> bool:
        """Whether the sum over the steps since then stays below the threshold."""
        if self.kept is None or math.isnan(self.rate):
            return False
        self.total += self.rate * self._moved(x, self.kept[0]) / self.kept[2]
        if self.total < self.threshold:
            return True
        self.total = 0.0
        return False

    def learn(self, x: Tensor, y: Tensor, size: float, *, rate: bool) -> None:
        if rate and self.kept is not None:
            self.rate = self._moved(y, self.kept[1]) / self._moved(x, self.kept[0])
        self.kept = x, y, size

    def _moved(self, a: Tensor, b: Tensor) -> float:
        return float((a - b)[..., :: self.subsample, :: self.subsample].abs().mean())


@peer
def easycache(threshold: float = 0.2, start: float = 0.15, end: float = 0.95, subsample: int = 8) -> Rule:
    """EasyCache, "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching" (Zhou et al.
    2025, arXiv 2507.02860), as ComfyUI's node has it (``comfy_extras/nodes_easycache.py``, whose defaults these are).

    Each branch's output minus input is used again while the null branch's output has changed by less than the threshold
    since its last evaluation, as far as the batch's inputs tell; between these shares of the timesteps.
    """
    change = _Change(threshold, subsample)
    offsets: tuple[Tensor, Tensor] | None = None

    def output(now: Now) -> Tensor:
        nonlocal offsets
        if now.is_past(end):
            return now.guided()
        active = now.is_past(start)
        if active and change.is_small(now.x):
            assert offsets is not None
            return now.mix(now.x + offsets[0], now.x + offsets[1])
        text, null = now.both()
        offsets = text - now.x, null - now.x
        if active:
            change.learn(now.x, null, float(torch.cat([text, null]).abs().mean()), rate=True)
        return now.mix(text, null)

    return output


@peer
def lazycache(threshold: float = 0.2, start: float = 0.15, end: float = 0.95, subsample: int = 8) -> Rule:
    """LazyCache, ComfyUI's simpler `easycache` (same file, same defaults), which has no paper.

    It is of the guided x0 minus the latents, in the scale x0 + (sigma / alpha) eps.
    """
    change = _Change(threshold, subsample)
    offset: Tensor | None = None

    def output(now: Now) -> Tensor:
        nonlocal offset
        if now.is_past(end):
            return now.guided()
        x, active = now.linear, now.is_past(start)
        if active and change.is_small(x):
            assert offset is not None
            return now.output(x + offset)
        out = now.guided()
        x0 = now.x0(out)
        offset = x0 - x
        change.learn(x, x0, float(x0.abs().mean()), rate=active)
        return out

    return output
