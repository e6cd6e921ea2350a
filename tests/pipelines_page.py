"""Write docs/pipelines.md: how each class of diffusers' pipelines is met.

    python tests/pipelines_page.py

What is tested are the rows of `tiny`; how a class is met says the package itself (`guidance.meeting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import diffusers
from tiny import PIPELINES

from shapefirst.guidance.meeting import MODULAR, WAYS, WHOLE, Meeting, meeting_of
from shapefirst.models.pipelines import pipeline_classes

PAGE: Final = Path(__file__).parent.parent / "docs" / "pipelines.md"

_HEAD: Final = """# Pipelines

How shapefirst meets the pipelines of diffusers {version}. `shapefirst check CLASS` says it of one of them, and of a
model by its name, folder or hub id. This page is written by `python tests/pipelines_page.py`.

{counts}

A row is one tiny random pipeline of the tests (`tests/tiny`): full guidance gives the stock pipeline's images bit for
bit, text in half of the steps those of a naive reference (where branches are known), extrapolated steps likewise; what
is evaluated is counted inside of the networks, nothing is left behind, and a batch of two gives the images of two
calls, where it does so in diffusers.

{ways}

All policies are `{every}`.
Those that keep no branch are `{whole}`: they skip whole evaluations,
also where the guidance of a call is off or distilled. A ControlNet is skipped with its denoiser; text encoders,
autoencoders and adapters run as ever.
"""


def page() -> str:
    """The page's text."""
    classes = {name: meeting_of(kind) for name, kind in pipeline_classes().items()}
    rows: dict[str, list[str]] = {name: [] for name in sorted({row.split()[0] for row in PIPELINES}, key=str.lower)}
    for row in PIPELINES:
        name, _, special = row.partition(" ")
        rows[name].append(special or "plain")
    groups: dict[str, list[str]] = {way: [] for way in (*WAYS, "refused")}
    for name in rows:
        groups["refused" if classes[name].refused else classes[name].way].append(name)
    counts = [
        (f"[{title}](#{title.replace(' ', '-')})", len(names), sum(len(rows[name]) for name in names))
        for title, names in groups.items()
    ]
    others = [found for name, found in classes.items() if name not in rows]
    head = _HEAD.format(
        version=diffusers.__version__,
        counts=_table(
            ("met by", "classes", "rows"),
            *counts,
            ("**tested**", len(rows), len(PIPELINES)),
            ("[others](#others)", len(others), 0),
            right=2,
        ),
        ways="\n".join(f"- **{way}**: {what}." for way, what in WAYS.items()),
        every="`, `".join(classes["StableDiffusionPipeline"].policies),
        whole="`, `".join(WHOLE),
    )
    refused = [(f"`{name}`", _why(classes[name])) for name in groups.pop("refused")]
    tables = [
        _section(
            way,
            _table(
                ("class", "works how", "policies", "rows"),
                *(
                    (f"`{name}`", _how(classes[name]), _policies(classes[name]), "; ".join(rows[name]))
                    for name in names
                ),
            ),
        )
        for way, names in groups.items()
    ]
    return "\n".join(
        [
            head,
            *tables,
            _section("refused", _table(("class", "refused why"), *refused)),
            _section("others", _said(others)),
        ]
    )


def _how(found: Meeting) -> str:
    return f"{found.way}: {', '.join(found.branches)}" if found.branches else found.way


def _policies(found: Meeting) -> str:
    return "those that keep no branch" if found.policies == WHOLE else "all"


def _why(found: Meeting) -> str:
    return str(found.refused).removeprefix(f"{found.name} ").rstrip(".")


def _said(others: Sequence[Meeting]) -> str:
    """Of the classes that are in no row."""
    refused = [f"`{found.name}`" for found in others if found.refused]
    guided = sum(found.has_guider for found in others if not found.refused)
    return (
        f"{len(others)} pipelines of diffusers {diffusers.__version__} are in no row. {len(others) - len(refused)} of "
        "them are met by whole calls, with the policies that keep no branch, as any class is that nobody has seen: "
        f"untested; {guided} of these are modular and take a `shapefirst.Guider` with all policies, {len(MODULAR)} "
        f"of them tested with it and without: {', '.join(f'`{name}`' for name in MODULAR)}. {len(refused)} are "
        f"refused, since no part of theirs is given a timestep: {', '.join(refused)}."
    )


def _section(title: str, text: str) -> str:
    return f"## {title.capitalize()}\n\n{text}\n"


def _table(*rows: Sequence[object], right: int = 0) -> str:
    """A table of Markdown, of which the last `right` columns are numbers."""
    head, *body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * (len(rows[0]) - right) + "--:|" * right, *body])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
