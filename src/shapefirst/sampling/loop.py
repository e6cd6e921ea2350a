"""The sampling loop of a latent diffusion model, written out over a pipeline's parts.

    for i, t in enumerate(timesteps):
        eps_null = eps(t, x_t, 0)
        eps_text = eps(t, x_t, C)
        eps_hat  = eps_null + w (eps_text - eps_null)       as far as the policy evaluates them (`guidance.follow`)
        x0       = (x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t)
        x_t      = solver(eps_hat, t, x_t)

It gives the pipeline's own images, and shows what happens on the way. The pipeline is only read: the solver is a copy
of its scheduler.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from shapefirst.checks import Steps, check_prompt, check_steps
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import Embeddings, family_of
from shapefirst.families.layout import denoiser_of
from shapefirst.families.noise import scales
from shapefirst.guidance.blocks import is_steered
from shapefirst.guidance.follow import Follower
from shapefirst.guidance.solving import solver_of
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.guidance.timeline import by_step, calls_of, taking_step
from shapefirst.models.faults import faults_of
from shapefirst.policies.auto import Policy, check_policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import is_flow
from shapefirst.prompts.tokens import room
from shapefirst.sampling.step import Evaluated, Run, advance, follower_of, snapshot, step_options
from shapefirst.signatures import Axes, From, guarded

__all__ = ["Embeddings", "Step", "as_images", "decode", "denoise", "encode", "generators"]

Side: TypeAlias = Annotated[int, From(8, 65_536)]  # pixels
Latents: TypeAlias = Annotated[torch.Tensor, Axes("B C H W")]

LONGEST_PAST: Final = 8  # guided calls: what the highest order extrapolates from, where Heun has two at a place

WITHIN: Final = "denoise() follows its own schedule: call it outside of guide() and text_until()."


@dataclass(frozen=True)
class Step:
    """One denoising step of B latents, each (C, H, W).

    DDIM, DPM-Solver++ and UniPC hold the paper's x_t; Euler and Heun hold x_t / sqrt(abar_t). The predictions are of
    the noise eps, also where the model predicts v, and x0 is in the paper's scale with every solver. A solver with two
    evaluations a step (Heun) shows the first.

    Attributes:
        index: The step, from 0.
        t: Its timestep, in the model's units (0 to 1000, noise first).
        x_t: (B, C, H, W), the latents before the step, as the solver holds them.
        eps_null: (B, C, H, W), eps(t, x_t, 0), or None if it was not evaluated for every image.
        eps_text: (B, C, H, W), eps(t, x_t, C), or None if it was not evaluated for every image.
        eps: (B, C, H, W), what the solver was given: eps_hat, or the one branch that ran.
        x0: (B, C, H, W), the clean latents that eps implies.
        x_next: (B, C, H, W), the latents after the step.
        evaluations: Of the denoiser for each image, on average over the images.
        solver: The solver as it was before the step, for `denoise(start=...)`.
        calls: The step's calls of the denoiser in the model's own terms.
        past: The guided calls before the step that a policy may extrapolate from.
        follower: What carried the policy out, as it was before the step.
        prompts: What they were of.
    """

    index: int
    t: float
    x_t: torch.Tensor
    eps_null: torch.Tensor | None
    eps_text: torch.Tensor | None
    eps: torch.Tensor
    x0: torch.Tensor
    x_next: torch.Tensor
    evaluations: float
    solver: Any = field(repr=False)
    calls: tuple[Evaluated, ...] = field(repr=False)
    past: tuple[Evaluated, ...] = field(repr=False)
    follower: Follower = field(repr=False)
    prompts: Embeddings = field(repr=False)


@guarded
def generators(seeds: Collection[Annotated[int, From(0, 2**63 - 1)]]) -> list[torch.Generator]:
    """One generator per image, so that a seed gives the same image in any batch; the CPU's, so also on any device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@guarded
@torch.no_grad()
def encode(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    *,
    num_images_per_prompt: Annotated[int, From(1, 10_000)] = 1,
) -> Embeddings:
    """The prompts' embeddings as the pipeline's own call makes them.

    Raises:
        ShapefirstError: Another number of negative prompts, or a tokenizer that does not say where to cut a prompt.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
    if negatives is not None and len(negatives) != len(prompts):
        raise ShapefirstError(f"There are {len(prompts)} prompts but {len(negatives)} negative prompts.")
    if not prompts:
        raise ShapefirstError("There is no prompt to encode: give one or more.")
    for text in (*prompts, *(negatives or ())):
        check_prompt(text, "The prompt")
    family = family_of(pipe)
    if not family.masks_padding:
        room(pipe.tokenizer)
    with faults_of(pipe):
        return family.encode(pipe, prompts, negatives, num_images_per_prompt)


@guarded
@torch.no_grad()
def denoise(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str] | Embeddings,
    negative_prompt: str | Sequence[str] | None = None,
    *,
    schedule: Policy | None = None,
    num_inference_steps: Steps = 50,
    guidance_scale: float | Sequence[float] = 7.5,
    num_images_per_prompt: Annotated[int, From(1, 10_000)] = 1,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: Latents | None = None,
    start: Step | None = None,
    height: Side | None = None,
    width: Side | None = None,
) -> Iterator[Step]:
    """Sample, one `Step` at a time; the last one's `x_next` is for `decode`.

    Args:
        pipe: A pipeline that `shapefirst.families.layout` knows.
        prompt: B prompts, or their `Embeddings` (which `negative_prompt` and `num_images_per_prompt` leave alone).
        negative_prompt: By default the empty prompt, as in the paper.
        schedule: Which steps use the text, a `TextSchedule` or an `Auto`; by default all.
        num_inference_steps: N.
        guidance_scale: w, or one for each of N steps. At 1 or below there is no guidance: every step evaluates the
            text branch alone, as the pipeline does, unless another step's is above.
        num_images_per_prompt: Copies of every prompt.
        generator: One, or one per image (see `generators`).
        latents: (B, C, H / f, W / f), starting noise of unit variance, in place of the generators'.
        start: A step of an earlier run to fork from. That run goes on at this step, its solver's memory included, with
            whatever else is given here; `dataclasses.replace(step, x_t=...)` changes the latents. N, noise and size
            come with it. A schedule that extrapolates has nothing to go by where that run had other prompts or no
            guidance, and guides each step until it has.
        height: In pixels; by default the model's own.
        width: Likewise.

    Raises:
        UnsupportedPipelineError: A pipeline of an unknown layout, or a scheduler without `alphas_cumprod` (EDM).
        ShapefirstError: More steps than the model was trained for, a schedule that names a step beyond N, or a
            denoiser that `guide` is steering already.
    """
    denoiser = denoiser_of(pipe)
    if is_steered(denoiser):
        raise ShapefirstError(WITHIN)
    if not (hasattr(pipe.scheduler, "alphas_cumprod") or is_flow(pipe.scheduler.config)):
        raise UnsupportedPipelineError(
            f"denoise() shows what is noise and what is clean by the alphas_cumprod of a scheduler, which "
            f"{type(pipe.scheduler).__name__} does not have: give the pipeline another one, such as DDIMScheduler."
        )
    schedule = schedule or TextSchedule.always()
    embeddings = (
        prompt
        if isinstance(prompt, Embeddings)
        else encode(pipe, prompt, negative_prompt, num_images_per_prompt=num_images_per_prompt)
    )

    if start is None:
        solver = begin(pipe, num_inference_steps, schedule)
        x = first_latents(pipe, solver, embeddings, generator, latents, height, width)
    else:
        solver, x = snapshot(start.solver), start.x_t
    weights = [float(w) for w in guidance_scale] if isinstance(guidance_scale, Sequence) else [float(guidance_scale)]
    strongest = max(weights, default=0.0)
    calls = list(zip(calls_of(solver, strongest), solver.timesteps, strict=True))
    num_steps = calls[-1][0].num_steps
    if len(weights) not in (1, num_steps):
        raise ShapefirstError(f"There are {num_steps} steps but {len(weights)} guidance scales: give one for each.")
    if len(weights) > 1:
        calls = [(call._replace(guidance_scale=weights[call.step]), t) for call, t in calls]
    schedule = schedule.in_run(solver, *by_step((call.step, call.u) for call, _ in calls))
    check_policy(schedule, num_steps)
    extra = step_options(pipe, solver, generator)

    trunk = start if start is not None and embeddings.equals(start.prompts) else None
    past = trunk.past if trunk else ()
    late = start is not None and start.index > 0 and not past
    stochastic = is_stochastic(solver, schedule, extra.get("eta"))
    follower = follower_of(schedule, len(x), strongest, late=late, stochastic=stochastic)
    if trunk and (trunk.follower.policy, trunk.follower.branches) == (follower.policy, follower.branches):
        follower = trunk.follower.fork()
    elif strongest > 1:
        for seen in past:
            follower.learn(seen.call, seen.out, latents=seen.x_in)
    run = Run(x, solver, [follower])
    for index in range(start.index if start else 0, num_steps):
        if is_steered(denoiser):
            raise ShapefirstError(WITHIN)
        before, x, as_it_was = snapshot(solver), run.x, follower.fork()
        with taking_step(run, index):
            here = [(call, t) for call, t in calls if call.step == index]
            (done,) = advance(pipe, denoiser, embeddings, [run], here, extra=extra)
        first = done[0]
        eps_of = {branch: _eps_and_x0(solver, y, first.x_in, first.t)[0] for branch, y in first.out.items()}
        eps, x0 = _eps_and_x0(solver, first.guided, first.x_in, first.t)
        yield Step(
            index,
            float(first.t),
            x,
            eps_of.get("null"),
            eps_of.get("text"),
            eps,
            x0,
            run.x,
            sum(one.rows for one in done) / len(x),
            before,
            tuple(done),
            past,
            as_it_was,
            embeddings,
        )
        past = (*past, *(one for one in done if len(one.out) == 2))[-LONGEST_PAST:]


@guarded
@torch.no_grad()
def decode(pipe: DiffusionPipeline, latents: Latents) -> list[Image.Image]:
    """Clean latents (B, C, H, W), in the model's own scale, -> B images (see `as_images`)."""
    with faults_of(pipe):
        pixels = family_of(pipe).decode(pipe, latents)
        return as_images(pipe, pipe.image_processor.postprocess(pixels, output_type="np"))


@guarded
def as_images(pipe: DiffusionPipeline, pixels: Annotated[np.ndarray, Axes("B H W 3")]) -> list[Image.Image]:
    """Pixels (B, H, W, 3) in [0, 1], as a pipeline's ``output_type="np"``, -> B images.

    Raises:
        ShapefirstError: Some are not numbers: an overflow, which would pass for a black picture.
    """
    if not np.isfinite(pixels).all():
        raise ShapefirstError(
            "The model's predictions overflowed, so there is no picture: use a smaller guidance scale, or load the "
            "model in float32 (which is what it has on --device cpu)."
        )
    return pipe.image_processor.numpy_to_pil(pixels)


def begin(pipe: Any, num_inference_steps: int, schedule: Policy) -> Any:
    """What the run samples with (`guidance.solving.solver_of`), at its start.

    Raises:
        ShapefirstError: More steps than the model was trained for.
    """
    check_steps(num_inference_steps, pipe.scheduler)
    if pipe.scheduler.config.get("use_dynamic_shifting"):
        raise ShapefirstError(
            "The sampler of this model shifts its noise by the picture's size (use_dynamic_shifting), which a loop of "
            "our own does not: use guide() on the pipeline, or another sampler."
        )
    solver = solver_of(pipe, schedule)
    with faults_of(pipe):
        solver.set_timesteps(num_inference_steps, device=pipe._execution_device)
    if hasattr(solver, "set_begin_index"):
        solver.set_begin_index(0)
    return solver


def first_latents(
    pipe: Any,
    solver: Any,
    embeddings: Embeddings,
    generator: torch.Generator | list[torch.Generator] | None,
    latents: torch.Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
) -> torch.Tensor:
    """The first latents, of the variance that the solver starts from."""
    config = denoiser_of(pipe).config
    size = config.sample_size
    rows, columns = (size, size) if isinstance(size, int) else size
    f = pipe.vae_scale_factor
    shape = (
        len(embeddings.text),
        config.in_channels,
        height // f if height else rows,
        width // f if width else columns,
    )
    device = pipe._execution_device
    if latents is None:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ShapefirstError(f"There are {shape[0]} images but {len(generator)} generators; give one per image.")
        latents = randn_tensor(shape, generator=generator, device=device, dtype=embeddings.text.dtype)
    elif len(latents) != shape[0]:
        raise ShapefirstError(f"There are {shape[0]} images but {len(latents)} latents; give one per image.")
    return latents.to(device) * getattr(solver, "init_noise_sigma", 1.0)


def _eps_and_x0(
    solver: Any, out: torch.Tensor, x_in: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's output as noise and as clean latents, from x_t = a x0 + s eps.

    Here a = sqrt(abar_t) and s = sqrt(1 - abar_t), and v = a eps - s x0 (Salimans & Ho 2022, arXiv 2202.00512).
    """
    a, s = scales(solver, float(t))
    if is_flow(solver.config):  # out = eps - x0, and x_t = (1 - s) x0 + s eps
        return x_in + a * out, x_in - s * out
    kind = solver.config.prediction_type
    if kind == "epsilon":
        return out, (x_in - s * out) / a
    if kind == "v_prediction":
        return a * out + s * x_in, a * x_in - s * out
    if kind == "sample":
        return (x_in - a * out) / s, out
    raise ShapefirstError(f"The model predicts {kind!r}; shapefirst knows epsilon, v_prediction and sample.")
