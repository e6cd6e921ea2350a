"""Guidance scales and numbers of steps, and what is measured in each of them for X1.

    settings = {w = 2, 4, 7.5, 12 at all steps} and {a fifth, two fifths of the steps, at the run's own w}

The image without any text does not depend on w: it is made once for each number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image

from shapefirst.measure import l1
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.prompts import Pair, Prompt
from shapefirst.sampling.loop import Embeddings
from shapefirst.studies.conditions import CHANCE, Scores, score_conditions, unrelated
from shapefirst.studies.subject import Fork, Subject

__all__ = [
    "DROPPED",
    "FIRST",
    "FULL",
    "SECOND",
    "GuidanceSetting",
    "distances",
    "evaluations_of_settings",
    "in_either_place",
    "own",
    "settings",
    "two_objects",
    "under",
    "with_two_objects",
]

SCALES: Final = (2.0, 4.0, 7.5, 12.0)
#: Of the run's steps: 10 and 20 of 50.
SHARES: Final = (0.2, 0.4)
FULL, DROPPED = "text in all steps", "text in the first half"
FIRST, SECOND = "first object", "second object"


@dataclass(frozen=True)
class GuidanceSetting:
    """A guidance scale and a number of steps."""

    scale: float
    steps: int

    @property
    def half(self) -> int:
        return (self.steps + 1) // 2

    def __str__(self) -> str:
        return f"w = {self.scale:g}, {self.steps} steps"


def own(subject: Subject) -> GuidanceSetting:
    """The subject's."""
    return GuidanceSetting(subject.guidance_scale, subject.steps)


def settings(subject: Subject) -> list[GuidanceSetting]:
    """All guidance scales in order, the subject's among them, then the smaller numbers of steps; each once."""
    scales = [GuidanceSetting(w, subject.steps) for w in sorted({subject.guidance_scale, *SCALES})]
    numbers = [GuidanceSetting(subject.guidance_scale, max(2, round(share * subject.steps))) for share in SHARES]
    return list(dict.fromkeys(scales + numbers))


def evaluations_of_settings(subject: Subject) -> tuple[int, int]:
    """Denoiser evaluations per pair: as done here, and if no run shared its first steps or its lack of text."""
    order, every = subject.solver_order, settings(subject)
    full, textless = TextSchedule.always(), TextSchedule.never()
    done = apart = 0
    for setting in (*every, own(subject)):  # the last for the two objects, which are not switched and always have text
        runs = [full, TextSchedule.until(setting.half)]
        done += evaluations_together(runs, setting.steps, setting.scale, order)
        apart += sum(run.evaluations(setting.steps, order) for run in runs)
    for setting in every:
        done += full.evaluations(setting.steps, order)  # switched
        apart += full.evaluations(setting.steps, order) + textless.evaluations(setting.steps, order)
    return done + sum(textless.evaluations(steps, order) for steps in {s.steps for s in every}), apart


def two_objects(pair: Pair) -> Prompt:
    """ "a red car and a blue star"."""
    source, target = pair.source, pair.target
    return Prompt(f"{source.text} and {target.text}", source.phrases + target.phrases, "complex")


def under(subject: Subject, setting: GuidanceSetting) -> Subject:
    """The subject in this setting; its meter is the same."""
    return replace(subject, steps=setting.steps, guidance_scale=setting.scale)


def distances(
    subject: Subject, every: Sequence[GuidanceSetting], prompts: Embeddings, seeds: Sequence[int]
) -> np.ndarray:
    """(n, settings, 2): L1 to the fully guided image, of the one with text in the first half and of the one without."""
    textless: dict[int, list[Image.Image]] = {}  # w has no part in them
    found = []
    for setting in every:
        there = under(subject, setting)
        full, dropped = _full_and_dropped(there, prompts, seeds, setting.half)
        if setting.steps not in textless:
            textless[setting.steps] = there.sample(prompts, seeds, schedule=TextSchedule.never())
        compared = zip(full, dropped, textless[setting.steps], strict=True)
        found.append([(l1(late, whole), l1(none, whole)) for whole, late, none in compared])
    return np.array(found).transpose(1, 0, 2)


def _full_and_dropped(
    subject: Subject, embeddings: Embeddings, seeds: Sequence[int], half: int
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Images with the text in all steps, and in the first ``half`` of them."""
    branches = {DROPPED: lambda k: Fork(schedule=TextSchedule.until(k))}
    full, forked = subject.fork(embeddings, seeds, [half], branches)
    return full, forked[DROPPED, half]


def with_two_objects(subject: Subject, pairs: Sequence[Pair]) -> tuple[dict[str, list[Image.Image]], Scores]:
    """Pictures of both things of a pair, scored against each of them alone and against one of another pair."""
    both = [two_objects(pair) for pair in pairs]
    embeddings = subject.encode(both)
    full, dropped = _full_and_dropped(subject, embeddings, subject.seeds(len(pairs)), own(subject).half)
    images = {FULL: full, DROPPED: dropped}
    sides = {
        FIRST: [in_either_place(subject, pair.source) for pair in pairs],
        SECOND: [in_either_place(subject, pair.target) for pair in pairs],
        CHANCE: [in_either_place(subject, pairs[i].source) for i in unrelated(both)],
    }
    return images, score_conditions(subject, images, sides)


def in_either_place(subject: Subject, prompt: Prompt) -> Prompt:
    """A prompt of one phrase, to be found anywhere in a picture of two objects.

    Pocket's judge looks for a single phrase in the first place of a picture only, which is no fair question about a
    second object. A phrase named twice it looks for in both places, and gives the mean of the two. CLIPScore goes by
    the text, which stays.
    """
    return replace(prompt, phrases=prompt.phrases * 2) if subject.is_pocket and len(prompt.phrases) == 1 else prompt
