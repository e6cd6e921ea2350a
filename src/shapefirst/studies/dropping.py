"""What the studies that drop the text share: F6, F7, X1 and X2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from shapefirst.findings.finding import DoesNotApply
from shapefirst.findings.tables import crossed
from shapefirst.measure.distances import Distances, Similarity
from shapefirst.measure.scores import features_for, similarity_for
from shapefirst.prompts import Prompt
from shapefirst.studies.subject import Subject

__all__ = ["check_guidance", "distance_table", "features_of", "similarity_of", "steps_at"]


def steps_at(shares: Iterable[float], steps: int) -> list[int]:
    """The numbers of steps that these shares of the run are, rounded as ``TextSchedule`` rounds them, each once."""
    return sorted({math.floor(share * steps + 0.5) for share in shares})


def check_guidance(subject: Subject) -> None:
    """Refuse a guidance scale at which there is nothing to drop.

    Raises:
        DoesNotApply: At w <= 1 a run evaluates the text branch alone.
    """
    if subject.guidance_scale <= 1:
        raise DoesNotApply(
            f"At guidance scale {subject.guidance_scale:g} no step has a null branch, so no evaluation can be saved "
            "by dropping the text: use a scale above 1."
        )


def distance_table(
    subject: Subject, prompts: Sequence[Prompt], found: Distances, condition: dict[str, Any], **more: Any
) -> dict[str, list[Any]]:
    """A tidy table of the images that were made under one condition, n of them; ``more`` as of ``crossed``."""
    rows = [found.row(i) for i in range(len(prompts))]
    distances = {name: [row[name] for row in rows] for name in rows[0]}
    return crossed({name: [value] for name, value in condition.items()}, subject.about(prompts), **distances, **more)


def similarity_of(subject: Subject) -> Similarity:
    """The image-CLIP similarity that suits the subject."""
    return similarity_for(subject.name, subject.clip, subject.scoring_device)


def features_of(subject: Subject) -> tuple[str, Any]:
    """What the features are called, and (images -> (n, d)) that makes them."""
    return features_for(subject.name, subject.clip, subject.scoring_device)
