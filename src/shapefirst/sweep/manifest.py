"""What a sweep was begun with, as its manifest.json says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import StrictInt

from shapefirst.errors import shortened
from shapefirst.sweep.grid import Grid

__all__ = ["About", "Manifest", "differences"]


@dataclass(frozen=True)
class About:
    """What besides the plan must be the same for shards to go together.

    Attributes:
        weights: Model -> fingerprint.
        scores: Fields of `work.Scorers`.
        images: Which are kept.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    images: str = "none"


@dataclass(frozen=True)
class Manifest:
    """The file's entries.

    Attributes:
        format: Of the sweep.
        plan: `Shards.digest`.
        shapefirst: The version that began it.
        about: See there.
        shards: How many.
        images: Of each policy in each setting.
        grid: Of the plan.
        command: What repeats it.
        versions: Of packages.
    """

    format: StrictInt
    plan: str
    shapefirst: str
    about: About
    shards: StrictInt
    images: StrictInt
    grid: Grid
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def differences(mine: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """In which respects two manifests are not of the same sweep, by the names in "grid" and "about"; which version of
    shapefirst began it is none."""
    found = [
        f"{key} ({shortened(repr(there.get(part, {}).get(key)))} there, {shortened(repr(value))} here)"
        for part in ("grid", "about")
        for key, value in mine[part].items()
        if there.get(part, {}).get(key) != value
    ]
    return found or (["its prompts"] if mine["plan"] != there.get("plan") else [])
