"""Models as the commands load them: with a sign of life, without the libraries' own bars; and what they will not do."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from shapefirst.cli import terminal
from shapefirst.errors import shortened
from shapefirst.models import MODELS
from shapefirst.prompts import Prompt
from shapefirst.prompts.known import VocabularyWarning

__all__ = ["load_quietly", "obtained", "quiet_libraries", "warn_of_cuts", "warn_of_unjudged"]


def obtained(model: str, dtype: str | None = None, device: str | None = None) -> Path:
    """Where the model lies on this disk, after it has been downloaded if it did not; a sentence says how much it is."""
    from shapefirst.models import download_of, find, locate
    from shapefirst.models.hub import gigabytes
    from shapefirst.models.loader import dtype_name

    named = None if dtype is None else dtype_name(dtype)  # of what is here, too, before anything is made with it
    if (place := locate(model)) is not None:
        return place
    kind = named or dtype_name(None, device)
    if model not in MODELS or MODELS[model].source is not None:
        files = download_of(model, kind)
        terminal.remark(f"Downloading {model}: {len(files)} files, {gigabytes(sum(files.values()))}.")
    return find(model, kind)


def load_quietly(
    model: str, sampler: str | None, device: str | None = None, dtype: str | None = None, *, conditioned: bool = False
) -> Any:
    """The pipeline (see ``models.load``), after ``quiet_libraries``."""
    obtained(model, dtype, device)
    with terminal.working(f"Loading {model}"):
        quiet_libraries()
        from shapefirst.models import load

        pipe = load(model, sampler=sampler, device=device, dtype=dtype, conditioned=conditioned)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quiet_libraries() -> None:
    """diffusers and transformers print nothing from now on, as the commands have bars of their own; and they warn of
    pocket's words themselves."""
    warnings.filterwarnings("ignore", category=VocabularyWarning)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


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
