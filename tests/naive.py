"""Sampling as the equations say it, without a line of shapefirst: what the tests compare with.

eps_hat = eps(t, x, 0) + w (eps(t, x, C) - eps(t, x, 0))      in the guided steps
eps_hat = eps(t, x, 0)                                        in the others (or eps(t, x, C), to keep the text)

With an order, what is not evaluated is the value at u = log(1 + sigma_t / alpha_t) of the polynomial through the last
order + 1 guided calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def encode(pipe: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings (B, L, D) and, for T5, the mask (B, L)."""
    if hasattr(pipe, "unet"):
        ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return pipe.text_encoder(ids.input_ids)[0], None
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=120, truncation=True, return_tensors="pt")
    return pipe.text_encoder(ids.input_ids, attention_mask=ids.attention_mask)[0], ids.attention_mask


def predict(pipe: Any, x: torch.Tensor, t: torch.Tensor, condition: tuple[torch.Tensor, torch.Tensor | None]) -> Any:
    """eps(t, x, condition), or v."""
    embeddings, mask = condition
    if hasattr(pipe, "unet"):
        return pipe.unet(x, t, encoder_hidden_states=embeddings).sample
    out = pipe.transformer(
        x,
        encoder_hidden_states=embeddings,
        encoder_attention_mask=mask,
        timestep=t.expand(len(x)),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return out[:, :4]


def both(null: tuple[torch.Tensor, Any], text: tuple[torch.Tensor, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The conditions of a guided batch, the null's rows first: one call of the denoiser in place of two."""
    return torch.cat([null[0], text[0]]), None if text[1] is None else torch.cat([null[1], text[1]])


@torch.no_grad()
def sample(
    pipe: Any,
    prompts: list[str],
    noise: torch.Tensor,
    *,
    guided: Callable[[int], bool],
    num_steps: int,
    w: float,
    keep: str = "null",
    negative: str = "",
    order: int | None = None,
    change: tuple[int, list[str]] | None = None,
    uncorrected: Sequence[int] = (),
) -> torch.Tensor:
    """Final latents (B, 4, H, W) from unit noise of that shape; `guided(i)` says whether step i uses the text.

    A `change` (step, prompts) puts other prompts in the place of the first ones from that step on, and what was seen of
    the first ones is forgotten. UniPC corrects none of the `uncorrected` steps.
    """
    solver = type(pipe.scheduler).from_config(pipe.scheduler.config)
    solver.disable_corrector = [step - 1 for step in uncorrected]  # diffusers' list is of the steps before
    solver.set_timesteps(num_steps)
    calls_a_step = solver.order
    text, null = encode(pipe, prompts), encode(pipe, [negative] * len(prompts))

    x = noise * solver.init_noise_sigma
    seen: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}  # u -> both predictions
    for call, t in enumerate(solver.timesteps):
        if change is not None and call == change[0] * calls_a_step:
            text, seen = encode(pipe, change[1]), {}
        x_in = solver.scale_model_input(x, t)
        rounded = solver.config.get("use_karras_sigmas")  # to whole timesteps, which say less than the list of sigmas
        u = math.log(1 + (float(solver.sigmas[call]) if rounded else sigma_over_alpha(solver, float(t))))
        if guided(call // calls_a_step):
            eps_null, eps_text = predict(pipe, torch.cat([x_in] * 2), t, both(null, text)).chunk(2)
            seen.pop(u, None)
            seen[u] = eps_null, eps_text
            eps_hat = eps_null + w * (eps_text - eps_null)
        elif order is None:
            eps_hat = predict(pipe, x_in, t, null if keep == "null" else text)
        else:
            last = list(seen)[-(order + 1) :]
            d = polynomial(last, [seen[at][1] - seen[at][0] for at in last], u)
            if keep == "neither":
                eps_hat = polynomial(last, [seen[at][0] for at in last], u) + w * d
            elif keep == "null":
                eps_hat = predict(pipe, x_in, t, null) + w * d
            else:
                eps_hat = predict(pipe, x_in, t, text) + (w - 1) * d
        x = solver.step(eps_hat, t, x).prev_sample
    return x


def sigma_over_alpha(solver: Any, t: float) -> float:
    """sqrt((1 - abar_t) / abar_t), linear between whole timesteps; diffusers' 2^-24 where abar_t is 0."""
    abar = solver.alphas_cumprod.clamp(min=2**-24)
    ratios = ((1 - abar) / abar).sqrt().numpy()
    return float(np.interp(t, np.arange(len(ratios)), ratios))


def polynomial(places: list[float], values: list[torch.Tensor], at: float) -> torch.Tensor:
    """The value `at` a place of the polynomial through `values` at `places`, by its coefficients."""
    powers = np.vander(np.array(places, dtype=np.float64), increasing=True)
    coefficients = np.linalg.solve(powers, np.stack([v.double().numpy().ravel() for v in values]))
    value = np.array([at**i for i in range(len(places))]) @ coefficients
    return torch.from_numpy(value).reshape(values[0].shape).float()


@contextmanager
def uncorrected(scheduler: Any) -> Iterator[None]:
    """Within the block a scheduler that corrects its latents (UniPC, Helios') does not, in any step."""
    own, none = scheduler.config.get("disable_corrector"), list(range(1000))
    if own is None:
        yield
        return
    try:
        scheduler.register_to_config(disable_corrector=none)  # which Helios' goes back to
        scheduler.disable_corrector = none
        yield
    finally:
        scheduler.register_to_config(disable_corrector=own)
        scheduler.disable_corrector = own


def noise(seeds: list[int], size: int = 8) -> torch.Tensor:
    return torch.cat([torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|."""
    return float((a - b).norm() / b.norm())


@contextmanager
def both_branches_in(denoiser: Any, guided: Callable[[int], bool]) -> Iterator[list[int]]:
    """Within the block, the stock pipeline's own call with the null prediction in the text's place wherever `guided`
    says no to the number of the denoiser's call: what dropping the text must give, at full cost. Yields those numbers.
    """
    calls: list[int] = []

    def see(_: Any, __: Any, out: Any) -> Any:
        calls.append(len(calls))
        if guided(calls[-1]):
            return out
        half = out[0].chunk(2)[0]
        twice = torch.cat([half, half])
        return (twice,) if isinstance(out, tuple) else type(out)(twice)

    handle = denoiser.register_forward_hook(see)
    try:
        yield calls
    finally:
        handle.remove()


def step_of_call(scheduler: Any, call: int) -> int:
    """The step that a solver's call belongs to, both counted from its first; by what each class does in step()."""
    name = type(scheduler).__name__
    if name == "PNDMScheduler":  # PLMS begins with Heun's step, and without skip_prk_steps after one of Runge and Kutta
        return max(0, call - (1 if scheduler.config.skip_prk_steps else 9))
    two = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
    return call // 2 if name.removesuffix("Scheduler") in two else call
