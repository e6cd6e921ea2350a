"""What methods find out beforehand: which steps to evaluate, and numbers to predict with."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shapefirst.families.noise import scales
from shapefirst.sampling.loop import denoise, generators

from .branches import Coefficients, is_guided
from .loop import Call, Jump, Now, sample
from .reuse import budcache, budcaches

__all__ = ["fit_linear_ag", "fit_ltc_accel", "fit_tortoise_and_hare", "macro_steps", "search_budcache"]

AT_ONCE = 128  # images


def search_budcache(
    pipe: Any,
    prompts: list[str],
    *,
    budget: int,
    steps: int,
    guidance_scale: float,
    iterations: int = 200,
    polish: int = 20,
    seed: int = 42,
) -> frozenset[int]:
    """BudCache's search: simulated annealing, then steepest descent, of the squared distance of the last latents.

    Defaults are of its configuration for FLUX (with one prompt, 28 steps and a budget of 10), as are the temperatures
    of 0.05 to 1e-5, and that the first quarter of the budget stays at the first steps.
    """
    dice = random.Random(seed)
    known: dict[frozenset[int], float] = {}
    first = max(1, budget // 4)
    free = range(first, steps)

    def end(evaluated: Collection[int]) -> Tensor:
        with budcache(pipe, evaluated) as call:
            return _latents(call, prompts, steps, guidance_scale, seed)

    def loss(evaluated: frozenset[int]) -> float:
        if evaluated not in known:
            known[evaluated] = float((end(evaluated) - teacher).square().mean())
        return known[evaluated]

    def look_at(several: Sequence[frozenset[int]]) -> None:
        """Their losses, many in a batch: a GPU takes little longer for it, a CPU as long as one by one."""
        new = [evaluated for evaluated in several if evaluated not in known]
        at_once = max(1, AT_ONCE // len(prompts))
        for first in range(0, len(new), at_once):
            those = new[first : first + at_once]
            each = [evaluated for evaluated in those for _ in prompts]
            seeds = [seed + i for _ in those for i in range(len(prompts))]
            with budcaches(pipe, each) as call:
                ends = _latents(call, prompts * len(those), steps, guidance_scale, seeds)
            errors = (ends.unflatten(0, (len(those), -1)) - teacher).square().flatten(1).mean(1)
            known.update(zip(those, errors.tolist(), strict=True))

    def moved(evaluated: frozenset[int]) -> frozenset[int]:
        here, there = sorted(evaluated & set(free)), sorted(set(free) - evaluated)
        if not here or not there:
            return evaluated
        if dice.random() < 0.9 or min(len(here), len(there)) < 2:
            source = dice.choice(here)
            near = [step for step in there if abs(step - source) <= 3]
            return evaluated - {source} | {dice.choice(near if near and dice.random() < 0.7 else there)}
        return evaluated - set(dice.sample(here, 2)) | set(dice.sample(there, 2))

    def neighbours(evaluated: frozenset[int]) -> list[frozenset[int]]:
        """Every evaluated step moved by up to 3, or anywhere twice."""
        found: dict[frozenset[int], None] = {}
        for source in sorted(evaluated & set(free)):
            targets = [*range(source - 3, source + 4), dice.choice(free), dice.choice(free)]
            for target in targets:
                if target in free and target not in evaluated:
                    found[evaluated - {source} | {target}] = None
        return list(found)

    teacher = end(range(steps))
    best = now = frozenset(range(first)) | frozenset(dice.sample(free, budget - first))
    for i in range(iterations):
        candidate = moved(now)
        worse = loss(candidate) - loss(now)
        if worse < 0 or dice.random() < math.exp(-worse / (0.05 * (1e-5 / 0.05) ** (i / iterations))):
            now = candidate
            best = min(best, now, key=loss)
    for _ in range(polish):
        around = [now, *neighbours(now)]
        look_at(around)
        candidate = min(around, key=loss)
        if candidate == now:
            break
        now = candidate
    return min(best, now, key=loss)


def fit_ltc_accel(
    pipe: Any,
    prompts: list[str],
    *,
    steps: int,
    guidance_scale: float,
    start: float = 0.25,
    every: int = 2,
    seed: int = 42,
) -> dict[int, float]:
    """LTC-Accel's numbers: those that come closest to what the solver makes of a full step, one step after the other.

    Its code finds them by trying 1,000 numbers from 0 to 10 (times gamma, a ratio of steps that cancels out) on one
    prompt, for every second step after the first quarter.
    """
    gains: dict[int, float] = {}
    before: Tensor | None = None

    def output(now: Now) -> Tensor | Jump:
        nonlocal before
        out, moved = now.guided(), torch.zeros(()) if before is None else now.latents - before
        before = now.latents
        if now.step % every != every - 1 or now.step <= start * now.num_steps:
            return out
        gain = float(((now.solve(out) - now.latents) * moved).sum() / moved.square().sum())
        gains[now.step] = max(gain, 0.0)
        return Jump(now.latents + gains[now.step] * moved)

    _latents(partial(sample, pipe, lambda: output), prompts, steps, guidance_scale, seed)
    return gains


def fit_linear_ag(pipe: Any, prompts: list[str], *, guidance_scale: float, steps: int = 50) -> Coefficients:
    """Least squares for eps_null of each step from eps_text up to it and eps_null before it, one number each.

    The paper's 200 trajectories are fewer here: a number is fitted on all pixels of all prompts.
    """
    seen: list[Tensor] = []
    fitted: Coefficients = {}
    run = denoise(
        pipe,
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generators(range(len(prompts))),
    )
    for step in run:
        assert step.eps_text is not None
        assert step.eps_null is not None
        if not is_guided(step.index, steps):
            x = torch.stack([y.flatten() for y in (*seen, step.eps_text)], dim=1).double()
            gram = x.T @ x
            ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            fitted[step.index] = torch.linalg.solve(gram + ridge, x.T @ step.eps_null.flatten().double()).tolist()
        seen += [step.eps_text, step.eps_null]
    return fitted


def macro_steps(ratios: Sequence[float], rho: float = 1.1) -> list[int]:
    """THG's coarse grid: rho times the ratio of both error constants at a step is how many steps it lasts.

    A rho of 1.1 is what its code settles on for Stable Diffusion 1.5.
    """
    found, step = [], 0
    while step < len(ratios):
        found.append(step)
        step += int(min(max(rho * ratios[step], 1), len(ratios)))
    return found


def fit_tortoise_and_hare(
    pipe: Any, prompts: list[str], *, steps: int, guidance_scale: float, seed: int = 42
) -> list[float]:
    """THG's error constants by doubled steps, that of eps_text over that of the guidance: a number for each step.

    The error of a DDIM step is its length times how much its slope differs half-way, for both terms alike.
    """
    ratios: list[float] = []
    times: list[float] = []

    def output(now: Now) -> Tensor:
        text, null = now.both()
        after = times[now.step + 1] if now.step + 1 < len(times) else 0
        half = (now.t + after) / 2 if now.is_flow else int(now.t + after) // 2
        a, s = scales(pipe.scheduler, half)
        out = now.mix(text, null)
        there = replace(now, x=a * now.x0(out) + s * now.eps(out), alpha=a, sigma=s)
        text_half, null_half = now.both(x=there.x, t=torch.tensor(half))
        changes = [
            float((p - q).flatten(1).norm(dim=1).mean())
            for p, q in (
                (now.slope(text), there.slope(text_half)),
                (now.slope(text) - now.slope(null), there.slope(text_half) - there.slope(null_half)),
            )
        ]
        ratios.append(changes[0] / ((now.scale - 1) * changes[1]) if changes[1] else 1.0)
        return out

    solver = copy.deepcopy(pipe.scheduler)
    solver.set_timesteps(steps)
    times[:] = solver.timesteps.tolist()
    _latents(partial(sample, pipe, lambda: output), prompts, steps, guidance_scale, seed)
    return ratios


def _latents(call: Call, prompts: list[str], steps: int, guidance_scale: float, seed: int | Sequence[int]) -> Tensor:
    """The last ones; image i is of seed ``seed`` + i, or of its own."""
    seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else seed
    given = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "generator": generators(seeds)}
    latents: Tensor = call(prompts, **given, output_type="latent").images
    return latents
