"""The folders that models lie in: found on this disk, downloaded from the Hugging Face hub, checked before they load.

A diffusers folder has a model_index.json, which names the pipeline's class and its components, and a folder for each
component with its configuration and its weights. Weights are safetensors: pickled ones can run code when opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shapefirst.errors import ModelError
from shapefirst.quiet import quietly

__all__ = [
    "cached",
    "check_class",
    "check_configurations",
    "check_files",
    "check_keys",
    "check_vocabulary",
    "check_whole",
    "download",
    "is_hub_id",
    "networks",
    "no_safetensors",
    "read_index",
    "refuse_pickled",
    "unreachable",
    "weight_files",
]

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
_SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")  # components that plain generation does not use


def is_hub_id(name: str) -> bool:
    """Whether this could be the id of a model on the hub: "owner/name"."""
    return re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name) is not None


def cached(repository: str) -> Path | None:
    """The folder of a hub model in the hub's cache; None unless all of it is there. Needs no network."""
    from huggingface_hub import try_to_load_from_cache

    index_file = try_to_load_from_cache(repository, "model_index.json")
    if not isinstance(index_file, str):
        return None
    folder = Path(index_file).parent
    return folder if _is_complete(folder) else None


def download(repository: str, name: str) -> Path:
    """Download a hub model into the hub's cache: its index first, to refuse what cannot be used before it is large.

    Args:
        repository: Its id on the hub.
        name: What the user calls it.

    Raises:
        ModelError: The hub cannot be reached, or has no such model, or no safetensors of it.
        UnsupportedPipelineError: It is no pipeline that shapefirst can steer.
    """
    from huggingface_hub import constants, hf_hub_download

    with quietly(bars=True):  # a download of gigabytes shows how far it is
        import diffusers

        try:
            index = read_index(Path(hf_hub_download(repository, "model_index.json")).parent)
        except ModelError:
            raise
        except Exception as error:
            raise unreachable(name, repository, constants.HF_HUB_CACHE) from error
        check_class(index, name)
        skipped = {part: None for part in _SKIPPED if part in index}
        try:
            folder = Path(diffusers.DiffusionPipeline.download(repository, use_safetensors=True, **skipped))
        except Exception as error:
            if "safetensors" in str(error):
                raise no_safetensors(repository) from error
            raise unreachable(name, repository, constants.HF_HUB_CACHE) from error
        if not _is_complete(folder):  # without network diffusers makes do with what an earlier download has left
            raise unreachable(name, repository, constants.HF_HUB_CACHE)
        return folder


def unreachable(name: str, repository: str, cache: str) -> ModelError:
    """The error where a hub model, called `name` by the user, is neither in the cache nor to be had."""
    called = repository if name == repository else f"{name} ({repository})"
    return ModelError(
        f"The weights of {called} are not in the cache {cache} and could not be downloaded from the Hugging Face hub: "
        f"check the name and the network, then get them with `hf download {repository}`."
    )


def no_safetensors(repository: str) -> ModelError:
    """The error where a hub model has pickled weights only."""
    return ModelError(
        f"{repository} offers no safetensors weights, and pickled checkpoints are not read: they can run code when "
        "opened."
    )


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json: the pipeline's class, and component -> where its class is from.

    Raises:
        ModelError: There is none, or it is corrupt.
    """
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


def check_class(index: dict[str, Any], name: str) -> None:
    """Raise unless the index of the model called `name` is that of a pipeline that shapefirst can steer.

    Raises:
        ModelError: A class that this diffusers has not got.
        UnsupportedPipelineError: A class of another layout.
    """
    with quietly():
        import diffusers

        pipeline_class = getattr(diffusers, index["_class_name"], None)
        if not isinstance(pipeline_class, type):
            raise ModelError(
                f"{name} is a {index['_class_name']}, which diffusers {diffusers.__version__} has not got."
            )
        from shapefirst.layout import check_layout

        check_layout(pipeline_class)


def weight_files(folder: Path, index: dict[str, Any]) -> list[Path]:
    """The safetensors of the components that are loaded."""
    return [file for part in _parts(index) for file in sorted((folder / part).glob("*.safetensors"))]


def check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raise ModelError unless all components are there, as safetensors that are whole."""
    for part in _parts(index):
        if not _part_is_there(folder / part):
            refuse_pickled(folder / part, "pipe.save_pretrained(folder, safe_serialization=True)")
            raise ModelError(f"{folder} is incomplete: {part} is missing or has no weights (*.safetensors).")
        if "Tokenizer" in index[part][1]:
            check_vocabulary(folder / part)
        check_configurations(folder / part)
    check_whole(weight_files(folder, index))


def check_configurations(folder: Path) -> None:
    """Raise ModelError unless the JSON files of a component's folder are JSON, and its configurations objects."""
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{file} is corrupt: get the model again.") from error
        if file.name.endswith("config.json") and not isinstance(content, dict):
            raise ModelError(f"{file} is corrupt: get the model again.")


def networks(folder: Path, index: dict[str, Any]) -> list[str]:
    """The components with weights of diffusers' and transformers' own classes, by the name of their folder."""
    return [
        part
        for part in _parts(index)
        if index[part][0] in ("diffusers", "transformers") and (folder / part / "config.json").is_file()
    ]


def check_keys(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise ModelError if weights were missing from a folder: the libraries go on with random ones in their place.

    Args:
        folder: Where the weights lie.
        info: What `from_pretrained(..., output_loading_info=True)` tells.
    """
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{folder} lacks {len(missing)} of its weights ({missing[0]}, ...): get the model again.")


def check_vocabulary(folder: Path) -> None:
    """Raise ModelError unless a tokenizer's words are there: transformers goes on with one that knows no word."""
    if not any(all((folder / file).is_file() for file in files) for files in _VOCABULARIES):
        raise ModelError(f"{folder} has no vocabulary (tokenizer.json): get the model again.")


def refuse_pickled(folder: Path, remedy: str) -> None:
    """Raise ModelError if a file of the folder is a pickled checkpoint; `remedy` is the call that converts it."""
    if pickled := [file for file in sorted(folder.glob("*")) if file.suffix in _PICKLED]:
        raise ModelError(
            f"{pickled[0]} is a pickled checkpoint, which can run code when opened, and is not read: convert the model "
            f"to safetensors ({remedy})."
        )


def check_whole(files: Iterable[Path]) -> None:
    """Raise ModelError unless each of these safetensors can be read and is as long as it declares itself to be."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass  # reads the header, and compares the length that it declares to the file's
        except PermissionError as error:
            raise ModelError(f"{file} cannot be read: allow it to be (chmod u+r).") from error
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is corrupt or truncated: get it again.") from error


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
    return all(_part_is_there(folder / part) for part in _parts(read_index(folder)))
