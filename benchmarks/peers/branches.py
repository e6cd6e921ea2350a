"""Methods that skip a branch of guidance in some steps: the null branch, as a rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from shapefirst import TextSchedule, guide

from .loop import Call, Now, Rule, peer

__all__ = [
    "adaptive_guidance",
    "cfg_gating",
    "compress_guidance",
    "cutoff_callback",
    "guidance_interval",
    "linear_ag",
    "step_ag",
    "tortoise_and_hare",
]

#: Step -> one number for every earlier eps_text and eps_null in turn, and for the step's eps_text.
Coefficients: TypeAlias = dict[int, list[float]]


@contextmanager
def cutoff_callback(pipe: Any, step: int) -> Iterator[Call]:
    """diffusers' SDCFGCutoffCallback: the text branch alone from ``step`` on."""
    from diffusers.callbacks import SDCFGCutoffCallback

    yield partial(pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=step))


@contextmanager
def step_ag(pipe: Any, share: float = 0.5) -> Iterator[Call]:
    """Step AG, "How Much To Guide" (Zhang et al. 2025, arXiv 2506.08351), and Selective Guidance (Golnari et al. 2023,
    arXiv 2305.09847): the first ``share`` of the steps is guided, then the text branch runs alone.

    The first paper saves 20 to 30% of the time, which is a share of 0.6 to 0.4; the second leaves the last 20 to 50% of
    the steps unguided.
    """
    with guide(pipe, TextSchedule.until(fraction=share, keep="text")):
        yield pipe


@contextmanager
def cfg_gating(pipe: Any, gate: int) -> Iterator[Call]:
    """CFG gating, as FastVideo and SGLang have it for Wan: from step ``gate`` on the last difference of the branches
    serves again, beside the text branch. It has no paper and no default but the model's.
    """
    with guide(pipe, TextSchedule(windows=((0, gate),), keep="text", order=0)):
        yield pipe


@peer
def adaptive_guidance(threshold: float = 0.991) -> Rule:
    """AG, "Adaptive Guidance" (Castillo et al. 2023, arXiv 2312.12487), whose default this is, for 20 steps.

    An image whose two predictions agree, cos(eps_text, eps_null) >= threshold, goes on with eps_text alone: image by
    image, as in the paper.
    """
    settled: Tensor | None = None

    def output(now: Now) -> Tensor:
        nonlocal settled
        if settled is None:
            settled = torch.zeros(len(now.x), dtype=torch.bool, device=now.x.device)
        needs = (~settled).nonzero().flatten()
        text, null = now.evaluate(range(len(now.x)), needs.tolist())
        agree = torch.cosine_similarity(text[needs].flatten(1), null.flatten(1)) >= threshold
        out = text.clone()
        out[needs] = now.mix(text[needs], null)
        settled[needs] = agree
        return out

    return output


@peer
def linear_ag(coefficients: Coefficients) -> Rule:
    """LinearAG (same paper): every second step of the first half, and all of the second, put a regression on all
    earlier outputs in place of eps_null.
    """
    past: list[Tensor] = []

    def output(now: Now) -> Tensor:
        if is_guided(now.step, now.num_steps):
            text, null = now.both()
        else:
            text = now.text()
            null = torch.stack([c * x for c, x in zip(coefficients[now.step], [*past, text], strict=True)]).sum(0)
        past.extend((text, null))
        return now.mix(text, null)

    return output


def is_guided(step: int, num_steps: int) -> bool:
    return step < num_steps // 2 and step % 2 == 0


@peer
def guidance_interval(low: float = 0.28, high: float = 5.42) -> Rule:
    """The guidance interval, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
    Diffusion Models" (Kynkäänniemi et al., NeurIPS 2024, arXiv 2404.07724).

    Guided where low < sigma / alpha <= high, else the text branch alone. Defaults are the paper's for SDXL.
    """

    def output(now: Now) -> Tensor:
        return now.guided() if low * now.alpha < now.sigma <= high * now.alpha else now.text()

    return output


@peer
def compress_guidance(share: float = 0.6, power: float = 1.0, *, compressed: bool = True) -> Rule:
    """Compress Guidance, "Compress Guidance in Conditional Diffusion Sampling" (Dinh et al. 2024, arXiv 2408.11194).

    Few steps are guided, each with the guidance of all steps up to the next one; the text branch is alone in between.
    Of N steps the i-th guided one of G is floor(N (i / G)^power), so a larger power puts more of them early. The share
    of 0.6 is the abstract's "nearly 40%" fewer. The paper writes the sum out for a classifier's gradient; read for
    two branches, it is (w - 1) (text - null) times the number of steps here, and ``compressed=False`` counts it once.
    """

    def output(now: Now) -> Tensor:
        count = max(1, round(share * now.num_steps))
        guided = sorted({math.floor(now.num_steps * (i / count) ** power) for i in range(count)})
        if now.step not in guided:
            return now.text()
        following = min((step for step in guided if step > now.step), default=now.num_steps)
        text, null = now.both()
        return text + (now.scale - 1) * (following - now.step if compressed else 1) * (text - null)

    return output


@peer
def tortoise_and_hare(macro: Sequence[int], end: float = 0.76, boost: float = 1.2) -> Rule:
    """THG, "Tortoise and Hare Guidance" (Lee et al., NeurIPS 2025, arXiv 2511.04117): eps_text in every step, and its
    difference to eps_null in the `macro_steps` alone. Defaults are of its code for 50 steps of DDIM (38 of them).

    The code holds two latents and lets the guidance's jump from macro step i to each step before the next one, with
    the difference grown by ``boost`` a step. DDIM's jumps are linear in nu = sigma / alpha, so its latents at j are
    those after boost^(j-i-1) (nu_j - nu_i) times the difference, and what a single step adds to them is the difference
    of two such; which is said of any solver here. From ``end`` on a macro step has no guidance and no evaluation of
    the null branch.
    """
    difference: Tensor | None = None
    anchor, since = 0, 0.0

    def output(now: Now) -> Tensor:
        nonlocal difference, anchor, since
        if now.step in macro or now.step == 0:
            anchor, since = now.step, now.noise
            if now.step >= round(end * now.num_steps):
                difference = None
            else:
                text, null = now.both()
                difference = text - null
                return now.mix(text, null)
        text = now.text()
        if difference is None:
            return text
        grown = boost ** (now.step - anchor)
        behind, ahead = now.noise - since, now.next_noise - since
        # Heun's second call is where the next step's first one is.
        factor = grown / boost if ahead == behind else (grown * ahead - grown / boost * behind) / (ahead - behind)
        return text + (now.scale - 1) * factor * difference

    return output
