"""What a newcomer sees first: eight prompts, fully guided, with fewer evaluations, and with the paper's rule.

One sheet (PNG) and one self-contained HTML page, both with what every policy cost in evaluations and how far its images
moved. Seconds are not told: those of a single pass say more of the machine than of the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from shapefirst.drawing.pages import fill
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.files import save_png, save_text
from shapefirst.images.comparison import Comparison, decibels, percent
from shapefirst.images.jobs import Sampling, generate, make_jobs
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import describe
from shapefirst.world.vocabulary import HELD_OUT

__all__ = ["POLICIES", "PROMPTS", "STEPS", "compare", "demo_page", "demo_sheet", "marked", "write_demo"]

PROMPTS: Final = (
    "a red mushroom",
    "a blue butterfly",
    "a wooden house",
    "a metallic rocket",
    "a fluffy rabbit",
    "a pink cactus",  # in HELD_OUT: pocket saw pink things and cacti, never this
    "a green tree on the left of a red house",
    "a purple umbrella above a yellow duck",
)
STEPS: Final = 50
POLICIES: Final = ("budget:0.75", "budget:0.6", "paper:25", "paper:10")  # as `shapefirst.policies.words` reads them

#: What to do after the demo -> how.
NEXT: Final = {
    "Your prompt, and what changes": 'shapefirst generate "a wooden house" --budget 0.75 --compare',
    "Your model, if diffusers knows it": "shapefirst check YOUR-MODEL",
    "The policy that keeps the picture best for the time that you want to save": "shapefirst tune --save-time 0.4",
    "How many seconds that saves on this machine": "shapefirst sweep run --count 8 && shapefirst sweep latency",
    "The paper's findings on this model": "shapefirst study all --quick",
}


def compare(
    pipe: Any,
    prompts: Sequence[str],
    policies: Sequence[Policy],
    sampling: Sampling,
    seed: int = 0,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> list[Comparison]:
    """One image of each prompt under full guidance (the first row) and under each policy."""
    rows = {str(row): policy for row, policy in enumerate((TextSchedule.always(), *policies))}
    results = generate(pipe, make_jobs(prompts, 1, seed), rows, sampling, on_progress=on_progress)
    return [Comparison(describe(rows[row], sampling.steps), mine, results["0"]) for row, mine in results.items()]


def write_demo(rows: Sequence[Comparison], out: Path, setting: str) -> tuple[Path, Path]:
    """Writes ``sheet.png`` and ``index.html`` to ``out``. ``setting`` says in a line how the images were made."""
    sheet, page = out / "sheet.png", out / "index.html"
    save_png(demo_sheet(rows, setting), sheet, {"Software": "shapefirst demo", "setting": setting})
    save_text(demo_page(rows, setting, [marked(result.prompt) for result in rows[0].results]), page)
    return sheet, page


def demo_sheet(rows: Sequence[Comparison], setting: str) -> Any:
    """Prompts across, schedules down, so that the eye goes down one prompt."""
    return contact_sheet(
        [
            [
                Cell(
                    result.image,
                    "the reference" if row.is_reference else f"L1 {row.l1[n]:.4f}, PSNR {decibels(row.psnr[n])}",
                )
                for n, result in enumerate(row.results)
            ]
            for row in rows
        ],
        title=f"Less evaluated: what changes, what is saved\n{setting}",
        column_titles=[marked(result.prompt) for result in rows[0].results],
        row_titles=[_row_title(row) for row in rows],
        picture_width=176,
        row_title_width=190,
    )


def demo_page(rows: Sequence[Comparison], setting: str, labels: Sequence[str]) -> str:
    """The page for ``rows`` (the fully guided one first), each prompt under its entry of ``labels``.

    Images are embedded; no script, no outside address; legible on a telephone and in the dark.
    """
    words = {"capital": _capital, "decibels": decibels, "percent": percent, "next_steps": NEXT}
    return fill("images/demo.html", rows=rows, setting=setting, labels=labels, **words)


def marked(prompt: str) -> str:
    """The prompt, marked where pocket never saw its combination in training."""
    words = prompt.split()
    held_out = any(pair in HELD_OUT for pair in pairwise(words))
    return f"{prompt} (combination never seen in training)" if held_out else prompt


def _row_title(row: Comparison) -> str:
    title = f"{_capital(row.title)}\n{row.evaluations:g} evaluations"
    if row.is_reference:
        return title
    saved = f" ({percent(row.evaluations_saved)} saved)"
    return f"{title}{saved}\nmean L1 {row.mean_l1:.4f}\nmean PSNR {decibels(row.mean_psnr)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
