"""Stable Diffusion's call written out once, for all methods that skip whole evaluations or branches of guidance.

A method is a rule: what it may see of a step (`Now`) -> the guided output that the solver is given in its place. Where
a scheduler has two calls in a step (Heun), each of them is a step here. What is reused or predicted is of the whole
batch at once, unless the method says otherwise, as it is in the authors' code: `pareto.py` samples by sixteen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeAlias

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from shapefirst.families.noise import scales_along
from shapefirst.policies.solver import is_flow
from shapefirst.sampling.loop import encode

__all__ = ["Block", "Call", "Jump", "Now", "Rule", "lagrange", "mixed", "peer", "sample"]

Call: TypeAlias = Callable[..., Any]
#: Pipeline -> what to call in its place.
Block: TypeAlias = Callable[[Any], AbstractContextManager[Call]]
Settings = ParamSpec("Settings")
Prediction: TypeAlias = Literal["eps", "v", "flow"]
LAST_T: Final = 999  # of ComfyUI's percents, which are of timesteps


@dataclass(frozen=True)
class Jump:
    """The latents after the step, where a method goes past the solver."""

    latents: Tensor


@dataclass(frozen=True)
class Now:
    """What a method may see of a step, with x = alpha x0 + sigma eps, or x = (1 - sigma) x0 + sigma eps of a flow.

    Attributes:
        step: From 0.
        num_steps: Of the run.
        t: The timestep, 0 to 999, or 1000 sigma of a flow.
        alpha: Of x.
        sigma: Of x.
        next_noise: `noise` after the step; 0 after the last.
        beta: The training schedule's at t; 0 of a flow, which has none.
        shift: Of a flow's times.
        x: (B, C, H, W), what the denoiser is given: the paper's x_t with every solver.
        latents: (B, C, H, W), what the solver holds.
        scale: w.
        predicts: What outputs are: eps, v = alpha eps - sigma x0, or a flow's velocity eps - x0.
        run: See `evaluate`.
        solve: An output -> the latents after the step, of a copy of the solver.
    """

    step: int
    num_steps: int
    t: float
    alpha: float
    sigma: float
    next_noise: float
    beta: float
    shift: float
    x: Tensor
    latents: Tensor
    scale: float
    predicts: Prediction = field(repr=False)
    run: Callable[..., tuple[Tensor, Tensor]] = field(repr=False)
    solve: Callable[..., Tensor] = field(repr=False)

    @property
    def is_flow(self) -> bool:
        return self.predicts == "flow"

    @property
    def noise(self) -> float:
        """sigma / alpha, or sigma of a flow: what Euler's steps are linear in."""
        return _noise(self.alpha, self.sigma, self.predicts)

    @property
    def linear(self) -> Tensor:
        """(B, C, H, W), what Euler's steps are linear in `noise` of."""
        return self.x if self.is_flow else self.x / self.alpha

    def is_past(self, share: float) -> bool:
        """Of the timesteps, as ComfyUI counts them."""
        left = 1 - share
        if self.is_flow:
            return self.sigma <= self.shift * left / (1 + (self.shift - 1) * left)
        return self.t <= LAST_T * left

    def evaluate(self, text: Sequence[int], null: Sequence[int], **at: Any) -> tuple[Tensor, Tensor]:
        """Outputs of these rows of the text and of the null branch; of another x and t if they are given."""
        return self.run(list(text), list(null), **at)

    def both(self, **at: Any) -> tuple[Tensor, Tensor]:
        rows = range(len(self.x))
        return self.evaluate(rows, rows, **at)

    def text(self) -> Tensor:
        return self.evaluate(range(len(self.x)), ())[0]

    def mix(self, text: Tensor, null: Tensor) -> Tensor:
        return null + self.scale * (text - null)

    def guided(self) -> Tensor:
        return self.mix(*self.both())

    def x0(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        x = self.x if x is None else x
        match self.predicts:
            case "flow":
                return x - self.sigma * out
            case "v":
                return self.alpha * x - self.sigma * out
            case "eps":
                return (x - self.sigma * out) / self.alpha

    def eps(self, out: Tensor) -> Tensor:
        match self.predicts:
            case "flow":
                return self.x + self.alpha * out
            case "v":
                return self.alpha * out + self.sigma * self.x
            case "eps":
                return out

    def slope(self, out: Tensor) -> Tensor:
        """Of `linear` along `noise`."""
        return out if self.is_flow else self.eps(out)

    def output(self, x0: Tensor) -> Tensor:
        """The output that would mean this x0."""
        match self.predicts:
            case "flow":
                return (self.x - x0) / self.sigma
            case "v":
                return (self.alpha * self.x - x0) / self.sigma
            case "eps":
                return (self.x - self.alpha * x0) / self.sigma


Rule: TypeAlias = Callable[[Now], "Tensor | Jump"]


def peer(make: Callable[Settings, Rule]) -> Callable[Concatenate[Any, Settings], AbstractContextManager[Call]]:
    """A method of which only the rule has to be said: its settings -> the rule of one call."""

    @contextmanager
    @wraps(make)
    def block(pipe: Any, /, *args: Settings.args, **settings: Settings.kwargs) -> Iterator[Call]:
        yield partial(sample, pipe, partial(make, *args, **settings))

    return block


@torch.no_grad()
def sample(
    pipe: Any,
    make_rule: Callable[[], Rule],
    prompt: list[str],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    generator: list[torch.Generator],
    output_type: str = "pil",
) -> Any:
    """The pipeline's call with a rule in the place of its guidance."""
    embeddings = encode(pipe, prompt)
    solver = copy.deepcopy(pipe.scheduler)
    solver.set_timesteps(num_inference_steps)
    channels, size = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    shape = (len(prompt), channels, size, size)
    latents = randn_tensor(shape, generator=generator, device=pipe.device) * solver.init_noise_sigma
    predicts, noise = _predicts(solver), scales_along(solver, solver.timesteps.tolist())
    noise_after = [*(_noise(alpha, sigma, predicts) for alpha, sigma in noise[1:]), 0.0]
    rule = make_rule()
    for step, t in enumerate(solver.timesteps):
        x_in = solver.scale_model_input(latents, t)

        def evaluate(text: list[int], null: list[int], x: Tensor = x_in, t: Any = t) -> tuple[Tensor, Tensor]:
            known = torch.cat([embeddings.text[text], embeddings.null[null]])
            out = pipe.unet(torch.cat([x[text], x[null]]), t, known, return_dict=False)[0]
            return out[: len(text)], out[len(text) :]

        def solve(out: Tensor, x: Tensor = latents, t: Any = t) -> Tensor:
            return copy.deepcopy(solver).step(out, t, x, return_dict=False)[0]

        alpha, sigma = noise[step]
        now = Now(
            step,
            len(noise),
            float(t),
            alpha,
            sigma,
            noise_after[step],
            0.0 if predicts == "flow" else float(solver.betas[round(float(t))]),
            solver.config.get("shift", 1.0),
            x_in,
            latents,
            guidance_scale,
            predicts,
            evaluate,
            solve,
        )
        made = rule(now)
        if isinstance(made, Jump):
            latents = made.latents
            if getattr(solver, "_step_index", None) is not None:
                solver._step_index += 1
        else:
            latents = solver.step(made, t, latents, return_dict=False)[0]
    if output_type == "latent":
        return SimpleNamespace(images=latents)
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return SimpleNamespace(images=pipe.image_processor.postprocess(pixels, output_type=output_type))


def _noise(alpha: float, sigma: float, predicts: Prediction) -> float:
    return sigma if predicts == "flow" else sigma / alpha


def _predicts(solver: Any) -> Prediction:
    if is_flow(solver.config):
        return "flow"
    return "v" if solver.config.prediction_type == "v_prediction" else "eps"


def lagrange(nodes: Sequence[float], at: float) -> list[float]:
    """How much each value counts in the polynomial through all of them: prod_j (at - t_j) / (t_i - t_j)."""
    weights = []
    for i, own in enumerate(nodes):
        weight = 1.0
        for j, other in enumerate(nodes):
            if j != i:
                weight *= (at - other) / (own - other)
        weights.append(weight)
    return weights


def mixed(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total
