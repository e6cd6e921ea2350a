"""The findings of several models side by side: a folder for each model, as `study --model A --model B` leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Claim
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import FACTS, Stored, load_all

__all__ = ["Compared", "compared", "load_models"]

_DECIDED: Final = ("replicates", "does not replicate")


@dataclass(frozen=True)
class Compared:
    """One claim, or a study without any, in all models.

    Attributes:
        study: As the first of the models has it that was asked.
        statement: The claim; "" where the study applies to none of the models.
        claims: What each model answered; None where it was not asked.
        reasons: Why the study does not apply to a model, of each; else "".
    """

    study: Stored
    statement: str
    claims: tuple[Claim | None, ...]
    reasons: tuple[str, ...]

    @property
    def first(self) -> Claim | None:
        """The claim as the first model has it that was asked."""
        return next((claim for claim in self.claims if claim is not None), None)

    @property
    def together(self) -> Literal["agree", "differ", "open"]:
        """Whether all models decide it, and alike; "open" where one of them does not decide it, or was not asked."""
        verdicts = [claim.verdict if claim else "" for claim in self.claims]
        decided = {verdict for verdict in verdicts if verdict in _DECIDED}
        if len(decided) > 1:
            return "differ"
        return "agree" if set(verdicts) == decided else "open"


def compared(found: Iterable[Iterable[Stored]]) -> Iterator[Compared]:
    """Claim by claim, in the order of the studies.

    Args:
        found: Of each model, what its studies found.
    """
    models = [{one.name: one for one in stored} for stored in found]
    names = {name for model in models for name in model}
    for name in [*(name for name in STUDIES if name in names), *sorted(names.difference(STUDIES))]:
        of_models = [model.get(name) for model in models]
        there = [study for study in of_models if study is not None]
        reasons = tuple(study.reason if study else "" for study in of_models)
        statements = dict.fromkeys(claim.statement for study in there for claim in study.claims)
        for statement in statements or [""]:
            mine = [{one.statement: one for one in study.claims} if study else {} for study in of_models]
            asked = next(
                study for study in there if not statement or any(c.statement == statement for c in study.claims)
            )
            yield Compared(asked, statement, tuple(one.get(statement) for one in mine), reasons)


def load_models(out: Path) -> dict[str, list[Stored]]:
    """The name of each folder under ``out`` that holds findings -> what is stored in it, in alphabetical order.

    Raises:
        ShapefirstError: Two folders are of one model, or as `storage.load_stored`.
    """
    folders = sorted({facts.parent.parent for facts in out.glob(f"[!.]*/[!.]*/{FACTS}")})
    found = {folder.name: load_all(folder) for folder in folders}
    names = [stored[0].setting.model for stored in found.values()]
    if again := next((name for name in names if names.count(name) > 1), None):
        raise ShapefirstError(f"Two folders in {str(out)!r} hold findings of {again}: move one of them away.")
    return found
