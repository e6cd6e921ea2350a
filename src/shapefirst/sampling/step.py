"""One denoising step, of one run or of several that stand at the same step: their evaluations are one batch.

eps_null = eps(t, x_t, 0)
eps_text = eps(t, x_t, C)
eps_hat  = eps_null + w (eps_text - eps_null)       or one of the two alone, where the schedule drops the other
x_t      = solver(eps_hat, t, x_t)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch

from shapefirst.families import Embeddings, family_of
from shapefirst.guidance.branches import evaluating, evaluating_some
from shapefirst.guidance.extrapolation import noise_level, weights
from shapefirst.policies.acts import Act
from shapefirst.policies.schedule import Branch

__all__ = ["Evaluated", "Past", "Run", "advance"]

LONGEST_PAST: Final = 4  # guided calls: what the highest order extrapolates from


#: u_t of `guidance.extrapolation`, and the model's own output of the null and the text branch, the latest last.
Past: TypeAlias = tuple[tuple[float, torch.Tensor, torch.Tensor], ...]


@dataclass
class Run:
    """A run between two steps.

    Attributes:
        x: (B, C, H, W), the latents as the solver holds them.
        solver: A scheduler of its own, with what it remembers.
        past: The latest guided calls.
    """

    x: torch.Tensor
    solver: Any
    past: Past = field(default=())

    def fork(self) -> Run:
        """A run that goes on from here on its own; the solver's history is copied, tensors are never written to."""
        return Run(self.x, copy.deepcopy(self.solver), self.past)


@dataclass(frozen=True)
class Evaluated:
    """A step's first call of the denoiser, in the model's own terms: noise or v.

    Attributes:
        t: The timestep.
        x_in: (B, C, H, W), what the denoiser was given.
        out: Branch -> (B, C, H, W), of those that were evaluated.
        guided: (B, C, H, W), what the solver was given.
    """

    t: torch.Tensor
    x_in: torch.Tensor
    out: dict[Branch, torch.Tensor]
    guided: torch.Tensor


@torch.no_grad()
def advance(
    pipe: Any,
    denoiser: Any,
    prompts: Embeddings,
    runs: Sequence[tuple[Run, Act]],
    timesteps: Sequence[torch.Tensor],
    guidance_scale: float,
    *,
    extra: dict[str, Any],
    batch_size: int | None = None,
) -> list[Evaluated]:
    """Take one step in every run, all of the same B prompts.

    Args:
        pipe: The pipeline, which is only read.
        denoiser: Its denoiser.
        prompts: Of B rows.
        runs: Changed in place, each by its act.
        timesteps: Of the denoiser's calls in this step: one, or two (Heun).
        guidance_scale: w.
        extra: For the solver's step.
        batch_size: Rows in one call of the denoiser; by default all.

    Returns:
        Each run's first evaluation.
    """
    first: list[Evaluated] = []
    for t in timesteps:
        x_in = [_scaled(run, t) for run, _ in runs]
        wanted = [(i, branch) for i, (_, act) in enumerate(runs) for branch in act.branches]
        whole = batch_size is None or batch_size >= len(wanted) * len(prompts.text)
        batch = (lambda: evaluating(*runs[0][1].branches)) if len(runs) == 1 and whole else evaluating_some
        rows = _predict(pipe, denoiser, [(x_in[i], branch) for i, branch in wanted], t, prompts, batch, batch_size)
        calls = []
        for i, (run, act) in enumerate(runs):
            out = {branch: y for (j, branch), y in zip(wanted, rows, strict=True) if j == i}
            guided = _guide(run, act, out, t, guidance_scale)
            run.x = run.solver.step(guided, t, run.x, **extra, return_dict=False)[0]
            calls.append(Evaluated(t, x_in[i], out, guided))
        first = first or calls
    return first


def _scaled(run: Run, t: torch.Tensor) -> torch.Tensor:
    """What the denoiser is given of a run's latents; flow matching solvers hold them as it takes them."""
    scale = getattr(run.solver, "scale_model_input", None)
    return run.x if scale is None else scale(run.x, t)


def _guide(run: Run, act: Act, out: dict[Branch, torch.Tensor], t: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """eps_hat, or what stands for it; remembers guided calls."""
    both = out
    if guidance_scale > 1 and (len(out) == 2 or act.order is not None):
        u = noise_level(run.solver, t)
        if len(out) == 2:
            past = (*(seen for seen in run.past if seen[0] != u), (u, out["null"], out["text"]))
            run.past = past[-LONGEST_PAST:]
        else:
            both = _extrapolated(out, run.past[-(act.order or 0) - 1 :], u)
    if len(both) < 2:
        return out[act.branches[0]]
    return both["null"] + guidance_scale * (both["text"] - both["null"])


def _extrapolated(out: dict[Branch, torch.Tensor], past: Past, u: float) -> dict[Branch, torch.Tensor]:
    """Both branches at ``u``: what was evaluated, and the rest from the past (see `guidance.extrapolation`)."""
    shares = weights(tuple(at for at, _, _ in past), u)
    null = torch.stack([share * seen for share, (_, seen, _) in zip(shares, past, strict=True)]).sum(0)
    text = torch.stack([share * seen for share, (_, _, seen) in zip(shares, past, strict=True)]).sum(0)
    if "null" in out:
        return {"null": out["null"], "text": out["null"] + (text - null)}
    if "text" in out:
        return {"null": out["text"] - (text - null), "text": out["text"]}
    return {"null": null, "text": text}


def _predict(
    pipe: Any,
    denoiser: Any,
    wanted: Sequence[tuple[torch.Tensor, Branch]],
    t: torch.Tensor,
    prompts: Embeddings,
    batch: Callable[[], AbstractContextManager[None]],
    batch_size: int | None,
) -> list[torch.Tensor]:
    """The model's own output for each of the latents, (B, C, H, W), under the branch beside it."""
    if not wanted:
        return []
    count = len(prompts.text)
    family, conditions = family_of(pipe), prompts.rows()
    x = torch.cat([latents for latents, _ in wanted])
    at = torch.cat([torch.arange(count) + (0 if branch == "null" else count) for _, branch in wanted]).to(x.device)
    parts = []
    with batch():
        for rows, which in zip(x.split(batch_size or len(x)), at.split(batch_size or len(x)), strict=True):
            those = {name: tensor[which] for name, tensor in conditions.items()}
            parts.append(family.evaluate(pipe, denoiser, rows, t, those))
    return list(torch.cat(parts).split(count))
