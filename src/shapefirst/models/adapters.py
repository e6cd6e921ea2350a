"""IP-Adapters, which let a pipeline look at a picture: loaded from the disk, with the encoder that looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ModelError, UnsupportedPipelineError, first_line
from shapefirst.models.disk import check_whole
from shapefirst.models.quiet import quietly
from shapefirst.models.scoring import load_model

__all__ = ["add_ip_adapter", "check_ip_adapter"]

#: The folder of the encoder beside an IP-Adapter's file, as in h94/IP-Adapter.
ENCODER: Final = "image_encoder"


def check_ip_adapter(file: Path) -> None:
    """Raise ModelError unless an IP-Adapter's file is there, in a format that is read, with its encoder beside it."""
    if not file.is_file():
        raise ModelError(f"There is no IP-Adapter {str(file)!r}: give its file, such as ip-adapter_sd15.safetensors.")
    if file.suffix != ".safetensors":
        raise ModelError(f"{file} is no safetensors file, and other weights are not read: get the IP-Adapter as one.")
    if not (file.parent / ENCODER).is_dir():
        raise ModelError(f"{file} needs the encoder of its pictures beside it: get the folder {file.parent / ENCODER}.")
    check_whole([file])


def add_ip_adapter(pipe: Any, file: Path) -> None:
    """Put an IP-Adapter on a pipeline of Stable Diffusion or SDXL, as `pipe.load_ip_adapter` does.

    Args:
        pipe: The pipeline.
        file: Its safetensors; the encoder is in the folder ``image_encoder`` beside it.

    Raises:
        UnsupportedPipelineError: The pipeline has no place for one.
        ModelError: There is no such file or encoder, or they are not this model's.
    """
    if not hasattr(pipe, "load_ip_adapter") or getattr(pipe, "unet", None) is None:
        raise UnsupportedPipelineError(f"{type(pipe).__name__} has no U-Net that an IP-Adapter could be put on.")
    check_ip_adapter(file)
    encoder, _ = load_model(
        file.parent / ENCODER, "CLIPVisionModelWithProjection", device=pipe.device, dtype=pipe.dtype
    )
    with quietly():
        pipe.register_modules(image_encoder=encoder)
        try:
            pipe.load_ip_adapter(str(file.parent), "", file.name, image_encoder_folder=None, local_files_only=True)
        except Exception as error:  # whatever diffusers makes of weights of other shapes
            raise ModelError(f"{file} is no IP-Adapter of this model: {first_line(error)}.") from error
