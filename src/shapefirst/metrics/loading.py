"""Ids and folders -> transformers models that score images, with the manners of `shapefirst.models`.

Only safetensors are read. Nothing is downloaded but the model that was named, and that only if it is not on the disk.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapefirst.errors import ModelError, first_line
from shapefirst.machine import find_device
from shapefirst.quiet import quietly
from shapefirst.weights_on_disk import (
    check_configurations,
    check_keys,
    check_vocabulary,
    check_whole,
    is_hub_id,
    no_safetensors,
    refuse_pickled,
    unreachable,
)

if TYPE_CHECKING:
    import torch

__all__ = ["find", "load_model", "load_part"]

_WEIGHTS: Final = "model*.safetensors"
_WANTED: Final = ("*.json", "*.txt", "*.jinja", "*.model", _WEIGHTS)
# Hugging Face's converter: it offers weights as safetensors in a pull request where a repository has pickled ones only.
_CONVERTER: Final = "SFconvertbot"


def find(name: str | Path) -> Path:
    """The folder of a transformers model, downloaded if it is a hub id that is not in the cache.

    Args:
        name: A hub id ("openai/clip-vit-base-patch16") or a local folder.

    Raises:
        ModelError: There is no such model, it cannot be had, or has no safetensors.
    """
    if (path := Path(name).expanduser()).is_dir():
        return path
    if not is_hub_id(str(name)):
        raise ModelError(
            f"There is no model {str(name)!r}: use a hub id such as openai/clip-vit-base-patch16, or the path of a "
            "transformers folder that exists."
        )
    return _cached(str(name)) or _downloaded(str(name))


def load_model(
    name: str | Path, kind: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, Path]:
    """A transformers model in evaluation mode, and its folder.

    Args:
        name: As for :func:`find`.
        kind: The transformers class, "CLIPModel" or "AutoModelForImageTextToText".
        device: By default CUDA, else Apple's MPS, else the CPU.
        dtype: By default float32.

    Raises:
        ModelError: It is not to be had, of another kind, incomplete, pickled or corrupt.
        ShapefirstError: Unknown device.
    """
    import torch

    place = find_device(device)
    folder = find(name)
    _check_files(folder)
    with quietly():
        import transformers

        wanted = getattr(transformers, kind)
        config_class = getattr(wanted, "config_class", None)  # the Auto classes check the kind themselves
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if config_class is not None and model_type != config_class.model_type:
            what = f"a model of the type {model_type!r}" if model_type else "no transformers model"
            raise ModelError(
                f"{name} is {what}, not {config_class.model_type!r} ({kind}): give the id or folder of one."
            )
        try:
            model, info = wanted.from_pretrained(
                folder,
                dtype=dtype or torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # whatever transformers makes of a broken folder
            raise ModelError(f"{name} in {folder} cannot be loaded as {kind}: {first_line(error)}.") from error
        check_keys(folder, info)
        return model.to(place).eval(), folder


def load_part(folder: Path, kind: str, what: str) -> Any:
    """What prepares a model's inputs ("AutoProcessor", "AutoTokenizer", ...), from the model's own folder.

    Raises:
        ModelError: It is not there, or needs a package that is not installed; ``what`` ("processor", "tokenizer" or
            "image processor") names it in the sentence.
    """
    if what != "image processor":
        check_vocabulary(folder)
    with quietly():
        import transformers

        try:
            return getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"The {what} in {folder} cannot be loaded: {first_line(error)}.") from error


def _is_complete(folder: Path) -> bool:
    """Whether all weights are there; models of several files have an index that names them."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return bool(names) and all((folder / name).is_file() for name in names)


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no transformers model: it has no config.json.")
    check_configurations(folder)
    if not _is_complete(folder):
        refuse_pickled(folder, "model.save_pretrained(folder)")
        raise ModelError(f"{folder} is incomplete: it lacks weights (model.safetensors).")
    check_whole(sorted(folder.glob(_WEIGHTS)))


def _cached(repository: str) -> Path | None:
    """Where it lies in the hub's cache: the newest of main if that is complete, else any complete revision."""
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    main = [Path(config).parent] if isinstance(config, str) else []
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    others = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    return next((f for f in [*main, *others] if (f / "config.json").is_file() and _is_complete(f)), None)


def _downloaded(repository: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    with quietly(bars=True):
        try:
            api, revision = HfApi(), None
            if not any(fnmatch(file, _WEIGHTS) for file in api.list_repo_files(repository)):
                revision = _converted(api, repository)
            return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_WANTED)))
        except ModelError:
            raise
        except Exception as error:
            raise unreachable(repository, repository, constants.HF_HUB_CACHE) from error


def _converted(api: Any, repository: str) -> str:
    """The converter's pull request on a repository whose main branch has no safetensors."""
    offers = api.get_repo_discussions(
        repository, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    for offer in offers:
        if offer.author == _CONVERTER and any(
            fnmatch(file, _WEIGHTS) for file in api.list_repo_files(repository, revision=f"refs/pr/{offer.num}")
        ):
            return f"refs/pr/{offer.num}"
    raise no_safetensors(repository)
