"""A name, a hub id, a folder or a file -> a pipeline that is ready to be called."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapefirst.errors import ModelError, PackageError, ShapefirstError, first_line
from shapefirst.files import on_disk
from shapefirst.models.catalogue import (
    MODELS,
    NOISE_FILTER,
    OWN_SAMPLER,
    check_sampler,
    default_sampler,
    embedded_folder,
    is_pocket,
    make_sampler,
    own_sampler,
)
from shapefirst.models.components import VARIANTS, Component, components_of, files_of
from shapefirst.models.configurations import check_entries, no_more_weights
from shapefirst.models.disk import check_keys, checked, file_names, read_index, read_json
from shapefirst.models.fitting import check_size, fit_tokenizers
from shapefirst.models.hub import cached, download, is_hub_id, wanted_files
from shapefirst.models.machine import find_device
from shapefirst.models.quiet import in_format, quietly
from shapefirst.models.single_file import load_checkpoint, read_checkpoint
from shapefirst.models.tasks import CONDITIONED, check_class, check_inputs, refuse_folder
from shapefirst.prompts.known import WordsWatch
from shapefirst.signatures import Name, Place, guarded

if TYPE_CHECKING:
    import torch

__all__ = [
    "download_of",
    "dtype_name",
    "files_of_model",
    "find",
    "load",
    "locate",
    "needed",
]

_INDEX: Final = "model_index.json"


@guarded
def load(
    name_or_path: Place | Path,
    *,
    device: Name | torch.device | None = None,
    dtype: Name | torch.dtype | None = None,
    sampler: Name | None = None,
    conditioned: bool = False,
) -> Any:
    """A diffusers pipeline, ready to be called.

    Args:
        name_or_path: A name in `MODELS`, any other hub id ("owner/name"), a local diffusers folder, or a checkpoint
            in one .safetensors file.
        device: By default CUDA, else Apple's MPS, else the CPU.
        dtype: float32, float16 or bfloat16, by name or as torch's; by default float16 on CUDA and float32 elsewhere,
            whatever the files hold. Of weights that are there in several formats it chooses the fitting ones; what is
            on the disk in any of them is not downloaded again.
        sampler: A name in `SAMPLERS`, built from the model's own scheduler configuration; or "own" for the scheduler
            that the model came with, as diffusers' own pipelines have it and `shapefirst generate` takes it. By default
            it is neither, but the paper's: DDIM, or Euler for a model that was trained by flow matching.
        conditioned: Take folders of pipelines that are given a picture beside the prompt, too (`tasks.CONDITIONED`).

    Returns:
        The pipeline, without a safety checker; on a CPU its U-Net is laid out channels-last. Pocket warns of words that
        it does not know.

    Raises:
        ModelError: The model is unknown, not to be had, incomplete, pickled or corrupt.
        UnsupportedPipelineError: It is no text-to-image pipeline with guidance that shapefirst can steer.
        ShapefirstError: Unknown sampler, device or dtype; or a sampler that cannot be made of the model's.
    """
    check_sampler(sampler)
    name = str(name_or_path)
    kind = dtype_name(dtype, device)
    folder = find(name, kind)

    import torch

    with quietly():
        if folder.is_file():
            checkpoint = read_checkpoint(folder)
            pipe = load_checkpoint(checkpoint, getattr(torch, kind))
            noise = checkpoint.scheduler
        else:
            pipe, noise = _from_folder(folder, name, kind, conditioned), {}
        config = {**pipe.scheduler.config, **noise}
        config["_use_default_values"] = [one for one in config.get("_use_default_values", ()) if one not in noise]
        pipe.scheduler = (
            own_sampler(type(pipe.scheduler), config)
            if sampler == OWN_SAMPLER
            else make_sampler(sampler or default_sampler(config), config)
        )
        fit_tokenizers(pipe, name)
        check_size(pipe, name)
        if is_pocket(name):
            called = name if name in MODELS else "pocket"
            pipe.text_encoder.register_forward_pre_hook(WordsWatch(pipe.tokenizer, called), with_kwargs=True)
        place = find_device(device)
        pipe.to(place)
        if place.type == "cpu" and getattr(pipe, "unet", None) is not None:
            # A tenth faster from four images on (benchmarks/saving.py), and no slower for one.
            pipe.unet.to(memory_format=torch.channels_last)
    if folder.is_dir() and (folder / NOISE_FILTER).is_file():
        warnings.warn(
            f"{name} was trained on noise of its own spectrum, and a call of the pipeline starts from white noise, "
            "which its pictures show: `shapefirst study` starts from its own.",
            stacklevel=3,
        )
    return pipe


def dtype_name(dtype: str | torch.dtype | None, device: str | torch.device | None = None) -> str:
    """A number format by its name; by default the one that suits the device.

    Raises:
        ShapefirstError: There is no such format, or no such device.
    """
    if dtype is None:
        return "float16" if find_device(device).type == "cuda" else "float32"
    kind = str(dtype).removeprefix("torch.")
    if kind not in VARIANTS:
        raise ShapefirstError(f"There is no dtype {kind!r} for models here; there are {', '.join(VARIANTS)}.")
    return kind


@guarded
def find(name: str, dtype: str = "float32") -> Path:
    """Where a model lies on this disk; it is downloaded if it is a hub model that does not.

    Args:
        name: As of `load`.
        dtype: The format that weights are preferred in, where they are downloaded.

    Raises:
        ModelError: There is no such model, or it cannot be had.
        UnsupportedPipelineError: It is no pipeline that shapefirst can steer.
    """
    folder = locate(name)
    if folder is not None:
        return folder
    if name in MODELS and MODELS[name].source is None:
        raise ModelError(
            f"The weights of {name} are missing from {embedded_folder(name)}: reinstall shapefirst, or put there what "
            f"`shapefirst train-pocket --model {name} --out DIR` leaves in DIR/weights."
        )
    repository = _hub_id(name)
    return download(repository, name, partial(_files_for, repository, name, dtype), first=_INDEX)


@guarded
def locate(name: str) -> Path | None:
    """The folder or file where a model's weights lie on this disk, found without network; None if they do not.

    Raises:
        ModelError: `name` is neither a known name nor a hub id nor something on this disk.
    """
    if name in MODELS and MODELS[name].source is None:
        folder = embedded_folder(name)
        return folder if (folder / _INDEX).is_file() else None
    place = None if name in MODELS else on_disk(name)
    return place or cached(_hub_id(name), _is_complete)


@guarded
def download_of(name: str, dtype: str = "float32") -> dict[str, int]:
    """What `find` would download of a hub model: file -> its size in bytes. Asks the hub.

    Raises:
        ModelError: As of `find`.
    """
    repository = _hub_id(name)
    _, sizes = wanted_files(repository, name, partial(_files_for, repository, name, dtype), first=_INDEX)
    return sizes


@guarded
def files_of_model(place: Path) -> dict[str, int]:
    """The files of a model on this disk that `load` reads in full precision, as far as there is a choice, and their
    sizes in bytes."""
    if place.is_file():
        return {place.name: place.stat().st_size}
    files = needed(read_index(place), file_names(place), "float32", str(place))
    return {file: (place / file).stat().st_size for file in files}


def needed(index: dict[str, Any], names: Collection[str], dtype: str, where: str) -> list[str]:
    """The files that are needed of a diffusers repository with these files.

    Raises:
        ModelError: Something is missing.
    """
    components, _ = components_of(index)
    found = files_of(components, names, VARIANTS[dtype], where)
    return ["model_index.json", *(name for files, _ in found.values() for name in files)]


def _files_for(repository: str, called: str, dtype: str, names: Collection[str]) -> list[str]:
    """What to download of a repository, whose index is in the cache already."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repository, _INDEX)
    if not isinstance(file, str):
        raise ModelError(f"{repository} on the Hugging Face hub is no diffusers pipeline: it has no model_index.json.")
    index = read_index(Path(file).parent)
    check_class(index, called)
    return needed(index, names, dtype, repository)


def _is_complete(folder: Path) -> bool:
    try:
        needed(read_index(folder), file_names(folder), "float32", str(folder))
    except PackageError:  # nothing of the model is missing
        return True
    except ModelError:
        return False
    return True


def _hub_id(name: str) -> str:
    """The hub id behind a name."""
    if name in MODELS and (source := MODELS[name].source):
        return source
    if not is_hub_id(name):
        raise ModelError(
            f"There is no model {name!r}: use one of {', '.join(MODELS)}, a hub id such as "
            f"{MODELS['sd15'].source}, or the path of a diffusers folder or a .safetensors checkpoint that exists."
        )
    return name


def _from_folder(folder: Path, name: str, dtype: str, conditioned: bool) -> Any:
    if not (folder / "model_index.json").is_file():
        refuse_folder(folder)
    index = read_index(folder)
    with_picture = conditioned and index["_class_name"] in CONDITIONED
    if not with_picture:
        check_class(index, name)
    parts = checked(folder, index, VARIANTS[dtype])
    if not with_picture:
        check_inputs(index, folder, name)

    import diffusers
    import torch

    _, left_out = components_of(index)
    options: dict[str, Any] = dict.fromkeys(left_out)
    if "safety_checker" in index:
        options["requires_safety_checker"] = False
    shared: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    try:
        for component, (files, variant) in parts.items():
            place, kind = folder / component.name, _class_of(folder, component)
            for file in files:
                if component.library == "diffusers" and file.name in ("config.json", "scheduler_config.json"):
                    check_entries(kind, read_json(file), str(file))
            if component.is_network:
                with no_more_weights([file for file in files if file.suffix == ".safetensors"], place):
                    options[component.name] = _network(
                        place, component, kind, getattr(torch, dtype), variant=variant, **shared
                    )
        options |= in_format(getattr(torch, dtype))
        return diffusers.DiffusionPipeline.from_pretrained(folder, **shared, **options)
    except ModelError:
        raise
    except Exception as error:  # whatever diffusers and transformers make of a broken folder
        said = first_line(error)
        if "ignore_mismatched_sizes" in said:  # transformers' advice to go on all the same
            said = "the shapes of its weights are not those of its configuration"
        raise ModelError(f"{folder} cannot be loaded: {said}.") from error


def _class_of(folder: Path, component: Component) -> Any:
    """The class of a component of diffusers' or transformers'; None for one of a pipeline's own."""
    if component.library not in ("diffusers", "transformers"):
        return None
    module = importlib.import_module(component.library)
    kind = getattr(module, component.class_name, None)
    base = module.ModelMixin if component.library == "diffusers" else module.PreTrainedModel
    if not inspect.isclass(kind) or (component.is_network and not issubclass(kind, base)):
        raise ModelError(f"{folder} names {component.library}.{component.class_name}, which is no network there.")
    return kind


def _network(place: Path, component: Component, kind: Any, dtype: torch.dtype, **options: Any) -> Any:
    """A pipeline's network with all of its weights: the pipeline's own loader makes up those that a file lacks."""
    if component.library == "diffusers":
        from diffusers.utils import is_accelerate_available

        options |= {"low_cpu_mem_usage": is_accelerate_available(), **in_format(dtype)}
    else:
        options["dtype"] = dtype
    network, info = kind.from_pretrained(place, output_loading_info=True, **options)
    check_keys(place, info, network.state_dict())
    if component.library == "diffusers" and not getattr(network, "_keep_in_fp32_modules", None):
        network.to(dtype)  # without accelerate diffusers goes by the first of the weights alone
    return network
