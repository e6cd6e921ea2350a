"""A picture of everything that pocket can name: one for each noun, one for each attribute, made by the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.images.jobs import Result, Sampling, generate, make_jobs
from shapefirst.policies.schedule import TextSchedule
from shapefirst.world.vocabulary import ATTRIBUTES, COLOURS, HELD_OUT, NOUNS, phrase_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["gallery", "gallery_prompts"]

STEPS: Final = 25
COLUMNS: Final = 10


def gallery_prompts() -> dict[str, str]:
    """What a picture shows -> its prompt, nouns first. The nouns come in changing colours; nothing is held out."""
    prompts = {}
    for n, noun in enumerate(NOUNS):
        colours = [*COLOURS][n % len(COLOURS) :] + [*COLOURS][: n % len(COLOURS)]
        prompts[noun] = phrase_of(next(c for c in colours if (c, noun) not in HELD_OUT), noun)
    for attribute in ATTRIBUTES:
        noun = next(n for n in ("cup", "car", "heart") if (attribute, n) not in HELD_OUT)
        prompts[attribute] = phrase_of(attribute, noun)
    return prompts


def gallery(
    pipe: Any, name: str, guidance_scale: float, *, on_progress: Callable[[float], None] | None = None
) -> Image.Image:
    """Samples the prompts of :func:`gallery_prompts` (seed 0) by the model ``name`` and lays them out on one sheet."""
    prompts = gallery_prompts()
    schedule, sampling = {"full": TextSchedule.always()}, Sampling(guidance_scale, STEPS)
    jobs = make_jobs(list(prompts.values()), num_images=1, seed=0)
    results = generate(pipe, jobs, schedule, sampling, batch_size=8, on_progress=on_progress)["full"]
    return contact_sheet(
        [*_rows(prompts, results[: len(NOUNS)], NOUNS), *_rows(prompts, results[len(NOUNS) :], ATTRIBUTES)],
        title=f"What {name} knows: {len(NOUNS)} nouns, then {len(ATTRIBUTES)} attributes",
        picture_width=112,
    )


def _rows(prompts: dict[str, str], results: Sequence[Result], names: Sequence[str]) -> list[list[Cell]]:
    cells = (Cell(result.image, f"{name}\n({prompts[name]})") for name, result in zip(names, results, strict=True))
    return [list(row) for row in iter(lambda: tuple(islice(cells, COLUMNS)), ())]
