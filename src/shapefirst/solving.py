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

from shapefirst.acts import Act
from shapefirst.branches import evaluating, evaluating_some
from shapefirst.extrapolation import noise_level, weights
from shapefirst.layout import masks_padding
from shapefirst.schedule import Branch

__all__ = ["Embeddings", "Evaluated", "Past", "Run", "advance"]

LONGEST_PAST: Final = 4  # guided calls: what the highest order extrapolates from


@dataclass(frozen=True)
class Embeddings:
    """A batch of encoded prompts: L token positions of D channels.

    Attributes:
        text: (B, L, D), the prompts.
        null: (B, L, D), the empty or negative prompts.
        text_mask: (B, L), where the encoder masks its padding (T5), else None.
        null_mask: (B, L), likewise.
    """

    text: torch.Tensor
    null: torch.Tensor
    text_mask: torch.Tensor | None = None
    null_mask: torch.Tensor | None = None

    def equals(self, other: Embeddings) -> bool:
        """Whether the others are the same, bit for bit."""
        pairs = [(mine, getattr(other, name)) for name, mine in vars(self).items()]
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


#: u_t of `shapefirst.extrapolation`, and the model's own output of the null and the text branch, the latest last.
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
        x_in = [run.solver.scale_model_input(run.x, t) for run, _ in runs]
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
    """Both branches at ``u``: what was evaluated, and the rest from the past (see `shapefirst.extrapolation`)."""
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
    """The model's own output (eps or v) for each of the latents, (B, C, H, W), under the branch beside it."""
    if not wanted:
        return []
    count = len(prompts.text)
    x = torch.cat([latents for latents, _ in wanted])
    at = torch.cat([torch.arange(count) + (0 if branch == "null" else count) for _, branch in wanted]).to(x.device)
    states = torch.cat([prompts.null, prompts.text])
    masks = None
    if prompts.null_mask is not None and prompts.text_mask is not None:
        masks = torch.cat([prompts.null_mask, prompts.text_mask])
    parts = []
    with batch():
        for rows, which in zip(x.split(batch_size or len(x)), at.split(batch_size or len(x)), strict=True):
            mask = None if masks is None else masks[which]
            parts.append(_evaluate(pipe, denoiser, rows, t, states[which], mask))
    return list(torch.cat(parts).split(count))


def _evaluate(
    pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, states: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """One call of the denoiser on R rows of latents, with the embeddings (R, L, D) beside them."""
    if not masks_padding(pipe):
        out: torch.Tensor = denoiser(x, t, encoder_hidden_states=states, return_dict=False)[0]
        return out
    size: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if denoiser.config.sample_size == 128:  # PixArt's 1024-pixel model is told the picture's size
        height, width = (pipe.vae_scale_factor * side for side in x.shape[-2:])
        size["resolution"] = x.new_tensor([[height, width]]).expand(len(x), -1)
        size["aspect_ratio"] = x.new_tensor([[height / width]]).expand(len(x), -1)
    out = denoiser(
        x,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        timestep=t.expand(len(x)),
        added_cond_kwargs=size,
        return_dict=False,
    )[0]
    # The other half is the learned sigma, which these solvers do not use.
    return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * x.shape[1] else out
