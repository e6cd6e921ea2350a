"""Pictures of a sweep for its report: what its policies make of the same noise, where it has kept images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Picture
from shapefirst.measure.rgb import read_rgb
from shapefirst.sweep.grid import Shard, Shards
from shapefirst.sweep.rows import picture_name
from shapefirst.sweep.store import Store
from shapefirst.sweep.summary import PolicySummary

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["pictures_of"]

SHOWN: Final = 4  # prompts
WIDTH: Final = 112  # of a picture on the sheet, in pixels


def pictures_of(store: Store, shards: Shards, found: Sequence[PolicySummary]) -> list[Picture]:
    """A sheet for each setting: a row for each of the first prompts, a column for each policy; none without images.

    Args:
        store: Of the sweep.
        shards: Its plan.
        found: Its conditions, in the order of the columns.
    """
    done, drawn = store.done(), []
    for setting in dict.fromkeys(one.setting for one in found):
        policies = [one for one in found if one.setting == setting]
        mine = (shard for shard in shards if shard.setting == setting and shard.name in done)
        rows = list(islice(_rows(store, mine, policies), SHOWN))
        if rows:
            sheet = contact_sheet(
                [row for _, row in rows],
                column_titles=[f"{one.policy}\n{one.saved:.0%} saved" for one in policies],
                row_titles=[prompt for prompt, _ in rows],
                picture_width=WIDTH,
                row_title_width=150,
            )
            drawn.append(
                Picture(
                    f"{setting.model} {setting.sampler} {setting.steps} {setting.guidance_scale:g}",
                    sheet,
                    f"{setting}: the first prompts, one seed each, none selected.",
                    "One row for each prompt: from the policy with the fewest evaluations on the left to full guidance "
                    "on the right.",
                )
            )
    return drawn


def _rows(store: Store, shards: Iterable[Shard], policies: Sequence[PolicySummary]) -> Iterator[tuple[str, list[Cell]]]:
    """Prompts with their images, for as long as shards begin with images that are kept."""
    for shard in shards:
        kept = 0
        for number, prompt in enumerate(shard.prompts, start=shard.first):
            names = [picture_name(number, one.policy) for one in policies]
            contents = [store.picture(shard.name, name) for name in names]
            if not all(contents):
                break
            yield prompt.text, [Cell(_read(c, shard, name)) for name, c in zip(names, contents, strict=True) if c]
            kept += 1
        if not kept:
            return


def _read(content: bytes, shard: Shard, name: str) -> Image.Image:
    return read_rgb(io.BytesIO(content), f"images/{shard.name}/{name}")
