"""Folders of models: read, and checked before anything is built from them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ModelError, shortened
from shapefirst.models.components import Component, components_of, files_of
from shapefirst.models.configurations import check_content

__all__ = [
    "check_configurations",
    "check_keys",
    "check_numbers",
    "check_shards",
    "check_whole",
    "checked",
    "file_names",
    "read_index",
    "read_json",
]


_NUMBER: Final = re.compile(r"\d+")
_LARGEST: Final = 10**8  # bytes of a JSON file; the longest vocabularies take a third of it
_COUNTERS: Final = ("position_ids", "num_batches_tracked")  # buffers that count and are no weights


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json: the pipeline's class, and component -> where its class is from.

    Raises:
        ModelError: There is none, or it is corrupt.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise ModelError(f"{folder} is no diffusers pipeline: it has no model_index.json.")
    content = read_json(file)
    if isinstance(content, dict) and isinstance(content.get("_class_name"), str):
        check_content(content, file)
        return content
    if isinstance(content, dict) and isinstance(content.get("_class_name"), list):
        raise ModelError(f"{file} names a pipeline of the model's own, whose code is not run: get one of diffusers.")
    raise ModelError(f"{file} is corrupt: it does not name a diffusers pipeline; get the file again.")


def file_names(folder: Path) -> list[str]:
    """The files of a model's folder and of its components' folders, as paths relative to it."""
    return [
        file.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for file in folder.glob(pattern)
        if file.is_file()
    ]


def checked(
    folder: Path, index: Mapping[str, Any], variants: tuple[str | None, ...]
) -> dict[Component, tuple[list[Path], str | None]]:
    """The components of a folder that are loaded, each with its files and the variant of the weights among them.

    Raises:
        ModelError: One is missing, or a file of it is corrupt.
    """
    components, _ = components_of(index)
    found = files_of(components, file_names(folder), variants, str(folder))
    parts = {}
    for component in components:
        names, variant = found[component.name]
        files = [folder / name for name in names]
        check_configurations(files)
        check_shards(files)
        check_whole(file for file in files if file.suffix == ".safetensors")
        if component.is_network:
            check_numbers(file for file in files if file.suffix == ".safetensors")
        parts[component] = files, variant
    return parts


def check_configurations(files: Iterable[Path]) -> None:
    """Raise ModelError unless the JSON among these files is JSON, and the configurations objects without code."""
    for file in files:
        if file.suffix != ".json":
            continue
        content = read_json(file)
        if file.name.endswith("config.json"):
            check_content(content, file)


def check_shards(files: Collection[Path]) -> None:
    """Raise ModelError unless all shards that an index among these files names are among them, too."""
    for file in files:
        if ".safetensors." not in file.name:
            continue
        try:
            shards = set(read_json(file)["weight_map"].values())
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file} is corrupt: it does not name the shards; get the file again.") from error
        beside = {other.name for other in files if other.suffix == ".safetensors" and other.is_file()}
        if missing := sorted(shortened(str(name)) for name in shards if name not in beside):
            raise ModelError(f"{file.parent} is incomplete: it lacks {missing[0]}, which {file.name} names.")


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
            if file.stat().st_size < 1000 and file.read_bytes().startswith(b"version https://git-lfs"):
                raise ModelError(f"{file} is a pointer of git-lfs and holds no weights: say `git lfs pull`.") from error
            kept = file.resolve()  # the hub's cache links to what it has downloaded
            also = "" if kept == file.absolute() else f" (and {kept})"
            raise ModelError(f"{file} is corrupt or truncated: delete it{also} and get it again.") from error


def check_numbers(files: Iterable[Path]) -> None:
    """Raise ModelError unless the weights in these safetensors are floating-point numbers as they stand.

    Quantised ones are read as if they were the values themselves, without the scales that belong to them.
    """
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="numpy") as content:
            for name in list(content.keys()):
                kind = content.get_slice(name).get_dtype()
                if kind not in ("F64", "F32", "F16", "BF16") and not name.endswith(_COUNTERS):
                    raise ModelError(
                        f"{file} holds {name} as {kind}: quantised weights are not read, get them in float32, float16 "
                        "or bfloat16."
                    )


def check_keys(folder: Path, info: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ModelError if weights were missing from a folder, where the libraries go on with random ones, or left over
    that are further layers of the same network.

    Args:
        folder: Where the weights lie.
        known: The names of the network's own weights.
        info: What `from_pretrained(..., output_loading_info=True)` tells.
    """
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]}, ...): its configuration and its weights are "
            "not of the same model."
        )
    stems = {_NUMBER.sub("", _bare(name)) for name in known}
    if surplus := sorted(name for name in info["unexpected_keys"] if _NUMBER.sub("", _bare(name)) in stems):
        raise ModelError(
            f"{folder} has {len(surplus)} weights more than its configuration has layers for ({surplus[0]}, ...): the "
            "two are not of the same model."
        )


def read_json(file: Path) -> Any:
    """The content of a JSON file, an object if it is a configuration. Raises ModelError if it is none, or too large to
    be one of a model's."""
    try:
        if file.stat().st_size > _LARGEST:
            raise ModelError(f"{file} is no file of a model: it has {file.stat().st_size:,} bytes.")
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name.endswith("config.json") and not isinstance(content, dict):
            raise ValueError("a configuration is an object")
        return content
    except ModelError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is corrupt: get the file again.") from error


def _bare(name: str) -> str:
    """A weight's name without the prefix that transformers 4 gave to those of a text encoder."""
    return name.removeprefix("text_model.")
