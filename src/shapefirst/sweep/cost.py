"""What a sweep will take: images, denoiser evaluations with and without sharing, disk; and time, from a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from shapefirst.models import is_pocket
from shapefirst.signatures import guarded
from shapefirst.sweep.grid import Setting, Shards

__all__ = ["SAMPLES", "Cost", "KeepImages", "Pace", "cost_of", "disk_bytes"]

#: Of a row without its features, compressed, as measured on pocket.
ROW_BYTES: Final = 120
FEATURE_BYTES: Final = 3.4
POCKET_WIDTH, CLIP_WIDTH, INCEPTION_WIDTH = 256, 512, 2048  # numbers in an image's features
POCKET_PNG_BYTES, PNG_BYTES = 5_000, 400_000  # 64 x 64 and 512 x 512 pixels
KeepImages: TypeAlias = Literal["none", "sample", "all"]
SAMPLES: Final = 4  # images of a shard that "sample" keeps, of each policy


@dataclass(frozen=True)
class Pace:
    """What a probe measured of a setting, in seconds.

    Attributes:
        evaluation: Of one evaluation of one image, the solver's share included.
        image: Of decoding, scoring and storing one image.
    """

    evaluation: float
    image: float


@dataclass(frozen=True)
class Cost:
    """What one setting takes, over all its policies.

    Attributes:
        setting: Which.
        images: How many.
        shared: Denoiser evaluations as the sweep does them.
        apart: Denoiser evaluations of separate runs.
    """

    setting: Setting
    images: int
    shared: int
    apart: int

    def seconds(self, pace: Pace) -> float:
        return self.shared * pace.evaluation + self.images * pace.image


@guarded
def cost_of(shards: Shards) -> list[Cost]:
    """The cost of each setting."""
    found = []
    for setting in shards.settings:
        schedules, n = shards.policies(setting).values(), shards.images
        apart = sum(setting.evaluations_together([schedule]) for schedule in schedules)
        found.append(Cost(setting, n * len(schedules), n * shards.evaluations(setting), n * apart))
    return found


@guarded
def disk_bytes(shards: Shards, *, inception: bool = False, keep_images: KeepImages = "none") -> float:
    """About what the results take: the tables, and the pictures that are kept."""
    total = 0.0
    for cost in cost_of(shards):
        pocket = is_pocket(cost.setting.model)
        width = INCEPTION_WIDTH if inception else POCKET_WIDTH if pocket else CLIP_WIDTH
        total += cost.images * (ROW_BYTES + FEATURE_BYTES * width)
        policies = len(shards.policies(cost.setting))
        pictures = {
            "none": 0,
            "sample": shards.parts * min(SAMPLES, shards.grid.shard_size) * policies,
            "all": cost.images,
        }
        total += pictures[keep_images] * (POCKET_PNG_BYTES if pocket else PNG_BYTES)
    return total
