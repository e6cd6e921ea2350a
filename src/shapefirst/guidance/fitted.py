"""A solver whose weights are fitted to a model: what `shapefirst tune` writes, and `guide` samples with.

With what the model takes for the clean latents, D_n = p_n x_n + q_n y_n of its output y_n, each step is linear,

    x_(n+1) = l_n x_n + sum_j w_nj D_(n-j)

as those of DDIM and of every multistep solver are; but times and weights are no formula's. They are the ones that, on
calibration prompts, end nearest to the trajectory to be followed (`shapefirst.tuning.fitting`). The idea is that of
non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from shapefirst.errors import ShapefirstError
from shapefirst.signatures import guarded

__all__ = ["FittedScheduler"]

_AT_THE_NOISE: Final = (
    "A fitted solver begins at the noise, and cannot begin at a picture: take another policy, such as budget=0.75, for "
    "image-to-image and for inpainting that does not."
)


class FittedScheduler(SchedulerMixin, ConfigMixin):
    """The solver as a scheduler of diffusers; it holds the latents as the denoiser takes them.

    Args:
        timesteps: The model's times, noise first.
        sigmas: sigma_n / alpha_n at them, or those of a flow.
        clean: p_n and q_n.
        latents: l_n.
        weights: w_nj of the latest clean latents, the latest first: at most n + 1 of step n.
        init_noise_sigma: By which the pipeline multiplies the first noise.
        use_flow_sigmas: The model follows a flow.
        prediction_type: What the model predicts, for those who ask.
        num_train_timesteps: Where its times end.
    """

    order = 1

    @register_to_config
    @guarded  # once: what a file says by hand would fall in the midst of a run
    def __init__(
        self,
        timesteps: Sequence[float],
        sigmas: Sequence[float],
        clean: Sequence[tuple[float, float]],
        latents: Sequence[float],
        weights: Sequence[Sequence[float]],
        init_noise_sigma: float = 1.0,
        use_flow_sigmas: bool = False,
        prediction_type: str = "epsilon",
        num_train_timesteps: int = 1000,
    ) -> None:
        steps = len(timesteps)
        if steps == 0 or {len(sigmas), len(clean), len(latents), len(weights)} != {steps}:
            raise ShapefirstError("A fitted solver has as many sigmas and weights as it has timesteps.")
        if any(not 1 <= len(row) <= n + 1 for n, row in enumerate(weights)):
            raise ShapefirstError("A fitted solver's step weighs the clean latents up to it, and at least one.")
        self.init_noise_sigma = init_noise_sigma
        self.timesteps = torch.tensor(timesteps, dtype=torch.float32)
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        if not use_flow_sigmas:
            self.alphas_cumprod = 1 / (1 + self.sigmas**2)  # of its own times, where others have all of the model's
        self._begin()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: Any = None,
        **_: Any,
    ) -> None:
        """Begin a run. Pipelines of flows hand over sigmas and a shift of their own (Flux), which have no say here.

        Raises:
            ShapefirstError: Another number of steps than it was fitted for.
        """
        steps = len(self.config.timesteps)
        if num_inference_steps not in (None, steps):
            raise ShapefirstError(
                f"This solver was fitted for {steps} steps, not {num_inference_steps}: give "
                f"num_inference_steps={steps}, or tune one for {num_inference_steps}."
            )
        self.num_inference_steps = steps
        self.timesteps = torch.tensor(self.config.timesteps, dtype=torch.float32, device=device)
        self._begin()

    def _begin(self) -> None:
        self._past: list[torch.Tensor] = []
        self._step = 0

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        return sample

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Some pipelines say where a run begins; this one does at the noise."""
        if begin_index:
            raise ShapefirstError(_AT_THE_NOISE)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """A picture at times of the solver's, in a run that has begun at the noise: inpainting keeps what is not masked
        so, after each step."""
        if self._step == 0:
            raise ShapefirstError(_AT_THE_NOISE)
        listed = self.timesteps.tolist()
        ratio = self.sigmas[[listed.index(t) for t in timesteps.flatten().tolist()]]
        a = 1 - ratio if self.config.use_flow_sigmas else (1 + ratio**2).rsqrt()
        s = ratio if self.config.use_flow_sigmas else ratio * a
        a, s = (scale.to(noise).view(-1, *[1] * (noise.ndim - 1)) for scale in (a, s))
        return a * original_samples + s * noise

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The same, as pipelines of flows ask for it."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """The latents after the step; in float32 within, as diffusers' own solvers."""
        n, x = self._step, sample.float()
        if n >= len(self.config.timesteps):
            raise ShapefirstError("This run has ended: set_timesteps() begins another.")
        p, q = self.config.clean[n]
        self._past = [p * x + q * model_output.float(), *self._past][: max(map(len, self.config.weights))]
        x = self.config.latents[n] * x
        for weight, clean in zip(self.config.weights[n], self._past, strict=False):
            x = x + weight * clean
        self._step = n + 1
        x = x.to(model_output.dtype)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)
