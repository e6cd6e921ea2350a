"""LoRAs, which teach a pipeline a style or a thing: loaded from the disk, each with its strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shapefirst.checks import number_in
from shapefirst.errors import ModelError, PackageError, ShapefirstError, UnsupportedPipelineError, first_line, said
from shapefirst.files import on_disk
from shapefirst.models.disk import check_whole
from shapefirst.models.quiet import quietly

__all__ = ["add_loras", "loras_of"]


def loras_of(words: Sequence[str]) -> list[tuple[Path, float]]:
    """File and strength of each, as "style.safetensors" or "style.safetensors=0.7" says.

    Raises:
        ModelError: There is no such file, or it is not in the format that is read.
        ShapefirstError: A strength that is no finite number.
        PackageError: peft is missing.
    """
    found = []
    for word in words:
        name, sign, strength = (word, "", "") if on_disk(word) else word.rpartition("=")
        name = name or word
        if (file := on_disk(name)) is None or not file.is_file():
            raise ModelError(f"There is no LoRA {name!r}: give its file, such as style.safetensors.")
        if file.suffix != ".safetensors":
            raise ModelError(f"{file} is no safetensors file, and other weights are not read: get the LoRA as one.")
        scale = number_in(strength, f"The strength of {file.name}") if sign else 1.0
        if not math.isfinite(scale):
            raise ShapefirstError(f"The strength of {file.name} must be a finite number, not {said(strength)}.")
        check_whole([file])
        found.append((file, scale))
    if found and find_spec("peft") is None:
        raise PackageError("LoRAs are put on a model with peft: pip install peft.")
    return found


def add_loras(pipe: Any, loras: Sequence[tuple[Path, float]]) -> None:
    """Put them on a pipeline, each with its strength, as `pipe.load_lora_weights` and `pipe.set_adapters` do.

    Raises:
        UnsupportedPipelineError: The pipeline has no place for one.
        ModelError: One is for another model.
    """
    if not loras:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise UnsupportedPipelineError(f"{type(pipe).__name__} has no place for a LoRA.")
    names = [f"lora{n}" for n in range(len(loras))]
    with quietly():
        for name, (file, _) in zip(names, loras, strict=True):
            try:
                pipe.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                )
                taken = {one for adapters in pipe.get_list_adapters().values() for one in adapters}
            except Exception as error:  # whatever diffusers and peft make of weights of another model
                raise ModelError(f"{file} cannot be put on {type(pipe).__name__}: {first_line(error)}.") from error
            if name not in taken:
                raise ModelError(
                    f"{file} holds nothing for the parts of {type(pipe).__name__}: it is for another model."
                )
        pipe.set_adapters(names, [scale for _, scale in loras])
