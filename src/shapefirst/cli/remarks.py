"""What several commands have to say before they run. Words only."""

from __future__ import annotations

from collections.abc import Sequence

from shapefirst.cli import terminal
from shapefirst.errors import shortened
from shapefirst.prompts import Prompt

__all__ = ["warn_of_unjudged"]


def warn_of_unjudged(prompt: Prompt, prompts: Sequence[Prompt], source: str) -> None:
    """Says that pocket's judge cannot score the prompts, of which ``prompt`` is the first that it does not read."""
    from shapefirst.world.vocabulary import unknown_words

    unknown = unknown_words(" ".join(one.text for one in prompts))
    why = f"pocket never saw {terminal.listed(unknown)}" if unknown else "it reads 'a red car' or two such phrases"
    terminal.warning(
        f"pocket's judge scores nothing here because of prompts such as {shortened(prompt.text)!r} (in {source}): "
        f"{why}. `shapefirst models pocket` lists its words."
    )
