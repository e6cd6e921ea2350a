"""What a name says of a pipeline before any weight of it is there: its class, and the classes of its networks.

Of a model only its model_index.json is read, which has to be on the disk: nothing is downloaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ModelError, shortened
from shapefirst.files import on_disk
from shapefirst.models.catalogue import MODELS, embedded_folder
from shapefirst.models.disk import read_index
from shapefirst.models.hub import cached, is_hub_id
from shapefirst.models.quiet import quietly
from shapefirst.models.tasks import absent_class, refuse_folder
from shapefirst.signatures import guarded

__all__ = ["pipeline_classes", "pipeline_of"]

_INDEX: Final = "model_index.json"
_EXAMPLE: Final = "StableDiffusionXLPipeline"


@guarded
def pipeline_of(name: str) -> tuple[type, dict[str, type] | None]:
    """The class of a pipeline, and its networks, name -> class, where one model was named: else None.

    Args:
        name: A class of diffusers, a name in `MODELS`, the folder of a model, or the id of one of the hub of which the
            model_index.json is in the cache.

    Raises:
        ModelError: There is no such pipeline, or it has no name here and is not on the disk.
    """
    with quietly():
        place = _known(name) if name in MODELS else None
        called = name if name not in MODELS else MODELS[name].pipeline
        if place is None and (found := _class_called(called)) is not None:
            return found, None
        index = read_index(place or _folder(name))
        pipeline_class = _class_called(index["_class_name"])
        if pipeline_class is None:
            raise ModelError(absent_class(index["_class_name"], name))
        return pipeline_class, _networks(index)


def pipeline_classes() -> dict[str, type]:
    """The pipelines of the installed diffusers, by name, without the class that all derive from."""
    import diffusers

    with quietly():
        found = {name: _class_called(name) for name in dir(diffusers) if name.endswith("Pipeline")}
    bases = (diffusers.DiffusionPipeline, diffusers.ModularPipeline)
    return {name: kind for name, kind in found.items() if kind is not None and kind not in bases}


def _class_called(name: str) -> type | None:
    import diffusers

    kind = getattr(diffusers, name, None)
    bases = (diffusers.DiffusionPipeline, diffusers.ModularPipeline)
    return kind if inspect.isclass(kind) and issubclass(kind, bases) else None


def _known(name: str) -> Path | None:
    """Where the model_index.json of a model with a name here lies, if it is on this disk: else its class is known."""
    source = MODELS[name].source
    return embedded_folder(name) if source is None else _in_cache(source)


def _in_cache(source: str) -> Path | None:
    return cached(source, lambda folder: (folder / _INDEX).is_file())


def _folder(name: str) -> Path:
    """Where the model_index.json of a model without a name here lies on this disk."""
    place = on_disk(name)
    if place is not None and place.is_file():
        raise ModelError(
            f"{name} is a single file, which does not say what pipeline it is for: name the class, such as {_EXAMPLE}."
        )
    if place is not None:
        if not (place / _INDEX).is_file():
            refuse_folder(place)
        return place
    if not is_hub_id(name):
        raise ModelError(_unknown(name))
    place = _in_cache(name)
    if place is None:
        from huggingface_hub import constants

        raise ModelError(
            f"The {_INDEX} of {name} is not in the cache {constants.HF_HUB_CACHE}: say "
            f"`hf download {name} {_INDEX}`, which is all that is needed of it, or name its class, such as "
            f"{_EXAMPLE}."
        )
    return place


def _unknown(name: str) -> str:
    import diffusers

    from shapefirst.families import FAMILIES

    installed = f"diffusers {diffusers.__version__}"
    if name in FAMILIES:
        return f"The installed {installed} has no {name}, which others have: pip install --upgrade diffusers."
    if needed := getattr(getattr(diffusers, name, None), "_backends", None):  # it stands in for one that is not there
        absent = [package for package in needed if find_spec(package) is None] or needed
        return f"{name} of {installed} needs {' and '.join(absent)}, in other versions or at all: install them."
    stems = [other.removesuffix("Pipeline") for other in dir(diffusers) if other.endswith("Pipeline")]
    near = [f"{stem}Pipeline" for stem in get_close_matches(name.removesuffix("Pipeline"), stems)]
    having = f", which has {' and '.join(near)}" if near else ""
    return (
        f"There is no pipeline {shortened(name)!r} in {installed}{having}: name one of its classes, a model of "
        "`shapefirst models`, a model's folder, or a hub id."
    )


def _networks(index: Mapping[str, Any]) -> dict[str, type]:
    """The networks that a model_index.json names, as far as their classes are there: name -> class."""
    import torch

    found = {}
    for name, origin in index.items():
        if isinstance(origin, list) and len(origin) == 2 and all(isinstance(word, str) for word in origin):
            kind = _part(*origin)
            if inspect.isclass(kind) and issubclass(kind, torch.nn.Module):
                found[name] = kind
    return found


def _part(library: str, class_name: str) -> Any:
    """A class of diffusers, of transformers, or of the code of one of diffusers' pipelines; None if there is none."""
    if library not in ("diffusers", "transformers"):
        if not library.isidentifier():
            return None
        library = f"diffusers.pipelines.{library}"
    try:
        return getattr(import_module(library), class_name, None)
    except ImportError:
        return None
