"""What several commands have to say before they run. Words only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shapefirst.cli import terminal
from shapefirst.errors import shortened
from shapefirst.prompts import Prompt

__all__ = ["warn_of_cuts", "warn_of_unjudged"]


def warn_of_cuts(pipe: Any, prompts: Collection[str]) -> None:
    """Says that the text encoder does not see the ends of some prompts: what stands there is asked for all the same."""
    from shapefirst.images.jobs import cut_text

    if cut := [text for text in sorted(prompts) if cut_text(pipe, text)]:
        terminal.warning(
            f"{len(cut)} of {len(prompts)} prompts are too long for the text encoder, which does not see their ends, "
            f"the first of them from {shortened(cut_text(pipe, cut[0]))!r} on: shorten them."
        )


def warn_of_unjudged(prompt: Prompt, prompts: Sequence[Prompt], source: str) -> None:
    """Says that pocket's judge cannot score the prompts, of which ``prompt`` is the first that it does not read."""
    from shapefirst.world.vocabulary import unknown_words

    unknown = unknown_words(" ".join(one.text for one in prompts))
    why = f"pocket never saw {terminal.listed(unknown)}" if unknown else "it reads 'a red car' or two such phrases"
    terminal.warning(
        f"pocket's judge scores nothing here because of prompts such as {shortened(prompt.text)!r} (in {source}): "
        f"{why}. `shapefirst models pocket` lists its words."
    )
