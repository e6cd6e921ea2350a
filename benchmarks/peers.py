"""Other people's ways to sample faster, each as a context manager: pipeline -> what to call in its place.

diffusers' SDCFGCutoffCallback, T-GATE (PyPI ``tgate``) and DeepCache (PyPI ``deepcache``) run as they were published.
Adaptive Guidance and LinearAG (Castillo et al. 2023, arXiv 2312.12487) are written from the paper, as there is no code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from shapefirst.sampling.loop import denoise, encode, generators

__all__ = ["adaptive_guidance", "cutoff_callback", "deepcache", "fit_linear_ag", "linear_ag", "tgate"]

Call: TypeAlias = Callable[..., Any]
#: Rows of the text and of the null branch to evaluate -> their predictions.
Evaluate: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
#: Step, number of steps and of images -> eps_hat.
Rule: TypeAlias = Callable[[int, int, int], Tensor]
#: Step -> one number for every earlier eps_text and eps_null in turn, and for the step's eps_text.
Coefficients: TypeAlias = dict[int, list[float]]


@contextmanager
def cutoff_callback(pipe: Any, step: int) -> Iterator[Call]:
    """The text branch alone from ``step`` on."""
    from diffusers.callbacks import SDCFGCutoffCallback

    yield partial(pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=step))


@contextmanager
def deepcache(pipe: Any, interval: int) -> Iterator[Call]:
    """The deep layers in every ``interval``-th step only, the outermost ones always (its README's cache branch 0)."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield pipe
    finally:
        helper.disable()
        vars(pipe.unet).pop("forward", None)


@contextmanager
def tgate(pipe: Any, gate: int, *, every: int = 1) -> Iterator[Call]:
    """Cross-attention cached, and the null branch alone, from step ``gate`` on.

    Before it, self-attention runs in every ``every``-th step only: T-GATE's default is 5, which costs fidelity.
    """
    from tgate import TgateSDLoader

    TgateSDLoader(pipe)
    try:
        yield partial(pipe.tgate, gate_step=gate, sp_interval=every, fi_interval=1, warm_up=2)
    finally:
        del pipe.tgate
        for module in pipe.unet.modules():  # T-GATE has no way back of its own
            for left in {"forward", "cache"} & set(vars(module)):
                delattr(module, left)


@contextmanager
def adaptive_guidance(pipe: Any, threshold: float) -> Iterator[Call]:
    """AG: an image whose two predictions agree, cos(eps_text, eps_null) >= threshold, goes on with eps_text alone."""

    def rule(evaluate: Evaluate, scale: float) -> Rule:
        settled = torch.zeros(0, dtype=torch.bool)

        def eps_hat(step: int, num_steps: int, rows: int) -> Tensor:
            nonlocal settled
            if step == 0:
                settled = torch.zeros(rows, dtype=torch.bool)
            needs = (~settled).nonzero().flatten()
            text, null = evaluate(torch.arange(rows), needs)
            agree = torch.cosine_similarity(text[needs].flatten(1), null.flatten(1)) >= threshold
            out = text.clone()
            out[needs] = null + scale * (text[needs] - null)
            settled[needs] = agree
            return out

        return eps_hat

    yield partial(_sample, pipe, rule)


@contextmanager
def linear_ag(pipe: Any, coefficients: Coefficients) -> Iterator[Call]:
    """LinearAG: every second step of the first half, and all of the second, put a regression in place of eps_null."""

    def rule(evaluate: Evaluate, scale: float) -> Rule:
        past: list[Tensor] = []

        def eps_hat(step: int, num_steps: int, rows: int) -> Tensor:
            if step == 0:
                past.clear()
            guided = _is_guided(step, num_steps)
            text, null = evaluate(torch.arange(rows), torch.arange(rows if guided else 0))
            if not guided:
                null = torch.stack([c * x for c, x in zip(coefficients[step], [*past, text], strict=True)]).sum(0)
            past.extend((text, null))
            return null + scale * (text - null)

        return eps_hat

    yield partial(_sample, pipe, rule)


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
        if not _is_guided(step.index, steps):
            x = torch.stack([y.flatten() for y in (*seen, step.eps_text)], dim=1).double()
            gram = x.T @ x
            ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            fitted[step.index] = torch.linalg.solve(gram + ridge, x.T @ step.eps_null.flatten().double()).tolist()
        seen += [step.eps_text, step.eps_null]
    return fitted


def _is_guided(step: int, num_steps: int) -> bool:
    return step < num_steps // 2 and step % 2 == 0


@torch.no_grad()
def _sample(
    pipe: Any,
    make_rule: Callable[[Evaluate, float], Rule],
    prompt: list[str],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    generator: list[torch.Generator],
    output_type: str,
) -> Any:
    """The pipeline's call written out for Stable Diffusion, with a rule that makes eps_hat of what it asks for."""
    embeddings = encode(pipe, prompt)
    solver = copy.deepcopy(pipe.scheduler)
    solver.set_timesteps(num_inference_steps)
    channels, size = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    x = randn_tensor((len(prompt), channels, size, size), generator=generator) * solver.init_noise_sigma

    def evaluate(text_rows: Tensor, null_rows: Tensor) -> tuple[Tensor, Tensor]:
        x_in = solver.scale_model_input(x, t)
        known = torch.cat([embeddings.text[text_rows], embeddings.null[null_rows]])
        out = pipe.unet(torch.cat([x_in[text_rows], x_in[null_rows]]), t, known, return_dict=False)[0]
        return out[: len(text_rows)], out[len(text_rows) :]

    rule = make_rule(evaluate, guidance_scale)
    for step, t in enumerate(solver.timesteps):
        x = solver.step(rule(step, num_inference_steps, len(prompt)), t, x, return_dict=False)[0]
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return SimpleNamespace(images=pipe.image_processor.postprocess(pixels, output_type=output_type))
