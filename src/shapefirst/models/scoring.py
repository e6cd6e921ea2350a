"""Ids and folders -> transformers models that score images, with the manners of `shapefirst.models`.

Only safetensors are read. Nothing is downloaded but the model that was named, and that only if it is not on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shapefirst.errors import ModelError, ShapefirstError, first_line, shortened
from shapefirst.files import on_disk
from shapefirst.models.components import PICKLED, Weights, check_vocabulary, weights_in
from shapefirst.models.configurations import no_more_weights
from shapefirst.models.disk import check_configurations, check_keys, check_shards, check_whole
from shapefirst.models.hub import cached, download, is_hub_id
from shapefirst.models.machine import find_device
from shapefirst.models.quiet import quietly
from shapefirst.prompts import Prompt

if TYPE_CHECKING:
    import torch

__all__ = ["find_scorer", "load_model", "load_part", "locate_scorer", "rehearsed"]

Scoring = TypeVar("Scoring", bound=Any)


_SMALL = (".json", ".txt", ".jinja", ".model")


def locate_scorer(name: str) -> Path | None:
    """Where a transformers model lies on this disk, found without network; None if it does not."""
    if (place := on_disk(name)) is not None and place.is_dir():
        return place
    return cached(name, lambda folder: _weights(_names(folder)) is not None) if is_hub_id(name) else None


def find_scorer(name: str | Path) -> Path:
    """The folder of a transformers model, downloaded if it is a hub id that is not in the cache.

    Args:
        name: A hub id ("openai/clip-vit-base-patch16") or a local folder.

    Raises:
        ModelError: There is no such model, it cannot be had, or has no safetensors.
    """
    if (place := locate_scorer(str(name))) is not None:
        return place
    if not is_hub_id(str(name)):
        raise ModelError(
            f"There is no model {str(name)!r}: use a hub id such as openai/clip-vit-base-patch16, or the path of a "
            "transformers folder that exists."
        )
    repository = str(name)
    return download(repository, repository, _needed, first="config.json")


def load_model(
    name: str | Path, kind: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, Path]:
    """A transformers model in evaluation mode, and its folder.

    Args:
        name: As for :func:`find_scorer`.
        kind: The transformers class, "CLIPModel" or "AutoModelForImageTextToText".
        device: By default CUDA, else Apple's MPS, else the CPU.
        dtype: By default float32.

    Raises:
        ModelError: It is not to be had, of another kind, incomplete, pickled or corrupt.
        ShapefirstError: Unknown device.
    """
    import torch

    place = find_device(device)
    folder = find_scorer(name)
    files = _check_files(folder)
    with quietly():
        import transformers

        wanted = getattr(transformers, kind)
        config_class = getattr(wanted, "config_class", None)  # the Auto classes check the kind themselves
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if config_class is not None and model_type != config_class.model_type:
            what = f"a model of the type {shortened(repr(model_type))}" if model_type else "no transformers model"
            raise ModelError(
                f"{name} is {what}, not {config_class.model_type!r} ({kind}): give the id or folder of one."
            )
        try:
            with no_more_weights(files, folder):
                model, info = wanted.from_pretrained(
                    folder,
                    dtype=dtype or torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                    trust_remote_code=False,
                )
        except ModelError:
            raise
        except Exception as error:  # whatever transformers makes of a broken folder
            raise ModelError(f"{name} in {folder} cannot be loaded as {kind}: {first_line(error)}.") from error
        check_keys(folder, info, model.state_dict())
        return model.to(place).eval(), folder


def load_part(folder: Path, kind: str, what: str) -> Any:
    """What prepares a model's inputs ("AutoProcessor", "AutoTokenizer", ...), from the model's own folder.

    Raises:
        ModelError: It is not there, or needs a package that is not installed; ``what`` ("processor", "tokenizer" or
            "image processor") names it in the sentence.
    """
    if what != "image processor":
        check_vocabulary(_names(folder), str(folder))
    with quietly():
        import transformers

        try:
            return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ModelError(f"The {what} in {folder} cannot be loaded: {first_line(error)}.") from error


def rehearsed(score: Scoring, folder: Path) -> Scoring:
    """A score that has scored a blank picture: what its model's files say of inputs is then known to fit the model.

    Raises:
        ModelError: It does not.
    """
    from PIL import Image

    try:
        with quietly():
            score.score([Image.new("RGB", (16, 16))], [Prompt("a")])
    except ShapefirstError:
        raise
    except Exception as error:  # whatever transformers makes of inputs that its own files have spoilt
        raise ModelError(f"{folder} cannot score a picture: {first_line(error)}.") from error
    return score


def _check_files(folder: Path) -> list[Path]:
    """The safetensors among a model's files, which are checked."""
    names = _names(folder)
    if "config.json" not in names:
        raise ModelError(f"{folder} is no transformers model: it has no config.json.")
    check_configurations(folder / name for name in names)
    weights = _weights(names)
    if weights is None:
        if pickled := [name for name in names if name.endswith(PICKLED)]:
            raise ModelError(
                f"{folder / pickled[0]} is a pickled checkpoint, which can run code when opened, and is not read: "
                "convert the model to safetensors (model.save_pretrained(folder))."
            )
        raise ModelError(f"{folder} is incomplete: it lacks weights (model.safetensors).")
    files = [folder / name for name in weights.files]
    check_shards(files)
    safe = [file for file in files if file.suffix == ".safetensors"]
    check_whole(safe)
    return safe


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _weights(names: Collection[str]) -> Weights | None:
    """The weights in full precision, if they and a configuration are there."""
    if "config.json" not in names:
        return None
    return next((found for found in weights_in(names) if found.variant is None), None)


def _needed(names: Collection[str]) -> list[str] | None:
    """What is downloaded of a repository; None if it has no safetensors."""
    weights = _weights(names)
    if weights is None:
        return None
    small = [
        name
        for name in names
        if "/" not in name and not name.startswith(".") and name.endswith(_SMALL) and ".index." not in name
    ]
    return [*small, *weights.files]
