"""What samples a model that lies on this disk, told from its scheduler's configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shapefirst.errors import ShapefirstError
from shapefirst.models.catalogue import OWN_SAMPLER, default_sampler, make_sampler, own_sampler
from shapefirst.models.disk import read_index, read_json
from shapefirst.models.single_file import read_checkpoint
from shapefirst.signatures import guarded

__all__ = ["check_samplers", "sampler_of", "usual_sampler"]


@guarded
def usual_sampler(place: Path) -> str:
    """The name of the sampler that `load` takes by default for the model that lies in a folder or file.

    Raises:
        ModelError: It is no model.
    """
    return default_sampler(_scheduler_config(place))


@guarded
def sampler_of(name: str, place: Path) -> Any:
    """A sampler, or the model's own (`OWN_SAMPLER`), for the model that lies in a folder or file; None if it says none.

    Raises:
        ShapefirstError: There is no such sampler, or it cannot sample this model.
    """
    import diffusers

    config = _scheduler_config(place)
    if name != OWN_SAMPLER:
        return make_sampler(name, config)
    _, class_name = read_index(_folder_of(place)).get("scheduler", (None, None))
    kind = getattr(diffusers, str(class_name), None)
    return None if kind is None else own_sampler(kind, config)


@guarded
def check_samplers(place: Path, names: Iterable[str]) -> None:
    """Raise ShapefirstError unless the model that lies in a folder or file can be sampled by all of these samplers."""
    for name in names:
        try:
            make_sampler(name, _scheduler_config(place))
        except ShapefirstError as error:
            raise ShapefirstError(f"{place} cannot be sampled by {name}: {error}") from error


def _scheduler_config(place: Path) -> Any:
    file = _folder_of(place) / "scheduler" / "scheduler_config.json"
    return read_json(file) if file.is_file() else {}


def _folder_of(place: Path) -> Path:
    return read_checkpoint(place).base if place.is_file() else place
