"""What the studio shows, as HTML from the templates beside this file: whatever a prompt holds, it is text there."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from shapefirst import __version__
from shapefirst.drawing.pages import data_uri, fill
from shapefirst.files import png_of, slug
from shapefirst.images.comparison import decibels, percent
from shapefirst.images.outputs import BRIGHTER
from shapefirst.measure import difference
from shapefirst.measure.rgb import to_rgb
from shapefirst.models import OWN_SAMPLER
from shapefirst.studio.making import JobResult, Progress, Sampled
from shapefirst.studio.shelf import Hung, Shelf, Tab

__all__ = ["Framed", "gallery_html", "moment_html", "progress_html", "result_html", "status_html"]

LARGEST: Final = 384  # pixels of a preview's longer side
TITLES: Final = {
    "full": "Full guidance",
    "saved": "With the policy",
    "difference": f"Difference, {BRIGHTER} times brighter",
    "switched": "First prompt, second [EOS]",
    "second": "Second prompt",
}
SUMS: Final = ("evaluations saved", "L1 to the full picture", "PSNR")
UNKNOWN: Final = "–"  # a figure that is still to come


@dataclass(frozen=True)
class Framed:
    """A picture and what stands below it.

    Attributes:
        title: What it is.
        address: Where it is; "" for one that is still to come.
        alt: What a reader without eyes is told.
        lines: Its cost and the like.
        cells: Evaluations an image in each step, for the strip below.
        is_link: Whether it opens by itself.
    """

    title: str
    address: str = ""
    alt: str = ""
    lines: tuple[str, ...] = ()
    cells: tuple[int, ...] = ()
    is_link: bool = False


def status_html(sentence: str, *, is_error: bool = False, notes: Sequence[str] = ()) -> str:
    """One line on what goes on."""
    return fill("studio/status.html", sentence=sentence, is_error=is_error, notes=notes)


def progress_html(progress: Progress, names: Sequence[str], note: str = "") -> str:
    """What there is of the pictures of a job, in the places that they will have; ``names`` are those of its runs."""
    count = max((len(images) for images in (*progress.finished.values(), progress.preview)), default=1) or 1
    shown = {**progress.finished, **({progress.name: progress.preview} if progress.preview else {})}
    rows = [
        [
            Framed(TITLES[name], _preview(shown[name][n]) if name in shown else "", f"{TITLES[name]}, so far")
            for name in _places(names)
        ]
        for n in range(count)
    ]
    sums = [(title, UNKNOWN) for title in SUMS] if "saved" in names else []
    return fill("studio/result.html", rows=rows, sums=sums, note=note)


def result_html(outcome: JobResult, shelf: Shelf, tab: Tab) -> str:
    """The pictures of a job side by side, with what they cost; they are kept on the shelf and hung in the gallery."""
    settings = outcome.settings
    rows: list[list[Framed]] = []
    hung: list[Hung] = []
    for n, seed in enumerate(settings.seeds):
        row = [
            _difference(outcome, n, shelf)
            if name == "difference"
            else _figure(outcome, name, outcome.runs[name], n, shelf)
            for name in _places(outcome.runs)
        ]
        rows.append(row)
        best = row[1] if "saved" in outcome.runs else row[0]
        said = (
            f"{settings.prompt}, seed {seed}: {settings.policy}, {settings.steps} steps of {_called(settings.sampler)}"
        )
        hung.append(Hung(settings, seed, best.address, said))
    shelf.hang(tab, hung)
    return fill("studio/result.html", rows=rows, sums=_sums(outcome), note=f"{outcome.policy}.")


def gallery_html(tab: Tab, links: Sequence[str]) -> str:
    """The tab's gallery; ``links`` are those of its pictures' settings."""
    return fill("studio/gallery.html", hung=list(zip(tab.hung, links, strict=True)))


def moment_html(rows: Mapping[str, Sequence[tuple[str, Image.Image]]], note: str = "") -> str:
    """A step of each run: run's title -> (what it shows, picture)."""
    figures = [
        [Framed(what, _preview(image), f"{title}: {what}") for what, image in row] for title, row in rows.items()
    ]
    return fill("studio/moment.html", rows=list(zip(rows, figures, strict=True)), note=note)


def _figure(outcome: JobResult, name: str, run: Sampled, n: int, shelf: Shelf) -> Framed:
    result = run.results[n]
    prompt = outcome.settings.second if name == "second" else outcome.settings.prompt
    address = _kept(result.image, _chunks(outcome, run, n), outcome, n, name, shelf)
    cost = f"{result.evaluations:g} evaluations", f"{result.seconds:.2f} s"
    cells = tuple(round(one) for one in run.spent) if name == "saved" else ()
    return Framed(TITLES[name], address, f"{TITLES[name]}: {prompt}", cost, cells, is_link=True)


def _difference(outcome: JobResult, n: int, shelf: Shelf) -> Framed:
    """Of the saved picture to the full one; nothing is shown where there is none."""
    found = outcome.comparison
    assert found is not None
    if not found.l1[n]:
        return Framed("No difference", lines=("identical",))
    change = difference(found.results[n].image, found.reference[n].image)
    content = {"content": f"absolute difference to full guidance, {BRIGHTER} times brighter"}
    brighter = change.point(lambda value: min(255, BRIGHTER * value))
    chunks = {**_chunks(outcome, outcome.runs["saved"], n), **content}
    address = _kept(brighter, chunks, outcome, n, "difference", shelf)
    distance = f"L1 {found.l1[n]:.4f}", f"PSNR {decibels(found.psnr[n])}"
    return Framed(TITLES["difference"], address, "The difference of the two", distance, is_link=True)


def _sums(outcome: JobResult) -> list[tuple[str, str]]:
    """Seconds are not among them: a share of those of a single pass says more of the machine."""
    found = outcome.comparison
    if found is None:
        return []
    distances = (f"{found.mean_l1:.4f}", decibels(found.mean_psnr)) if found.mean_l1 else ("identical", "identical")
    return list(zip(SUMS, (percent(found.evaluations_saved), *distances), strict=True))


def _places(names: Iterable[str]) -> list[str]:
    """The pictures of a row: those of the runs, and the difference behind the saved one."""
    return [place for name in names for place in ((name, "difference") if name == "saved" else (name,))]


def _called(sampler: str) -> str:
    return "the model's own sampler" if sampler == OWN_SAMPLER else sampler


def _chunks(outcome: JobResult, run: Sampled, n: int) -> dict[str, object]:
    """What stands in the PNG, under the names of `shapefirst generate`."""
    settings, result = outcome.settings, run.results[n]
    is_saved = run is outcome.runs.get("saved")
    switched = {"prompt_of_eos": settings.second} if run is outcome.runs.get("switched") else {}
    return {
        "Software": f"shapefirst {__version__}",
        "model": settings.model,
        "sampler": settings.sampler,
        "device": outcome.device,
        "num_inference_steps": settings.steps,
        "guidance_scale": f"{settings.guidance:g}",
        "negative_prompt": settings.negative,
        "policy": settings.policy if is_saved else "full",
        "prompt": settings.second if run is outcome.runs.get("second") else settings.prompt,
        **switched,
        "seed": result.seed,
        "denoiser_evaluations": f"{result.evaluations:g}",
        "seconds": f"{result.seconds:.3f}",
    }


def _kept(image: Image.Image, chunks: Mapping[str, object], outcome: JobResult, n: int, name: str, shelf: Shelf) -> str:
    settings = outcome.settings
    return shelf.keep(png_of(image, chunks), f"{slug(settings.prompt)}_seed{settings.seeds[n]}_{name}.png")


def _preview(image: Image.Image) -> str:
    """A small copy as an address that holds it."""
    small = to_rgb(image).copy()
    small.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=92)
    return data_uri(stream.getvalue(), "image/jpeg")
