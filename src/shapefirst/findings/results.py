"""What studies found, as tables for pandas, polars or whatever reads Arrow.

found = shapefirst.results("out/studies")
found.claims.to_pandas()            # one row a claim: study, estimate, interval, n, verdict
found["f4"].to_pandas()             # the study's tidy table: one row for each thing measured
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ShapefirstError, imported, said
from shapefirst.files import content_of
from shapefirst.findings.folder import placed
from shapefirst.findings.storage import TABLE, Stored, load_all
from shapefirst.signatures import guarded

__all__ = ["Results", "results"]

_COLUMNS: Final = (
    *("study", "title", "model", "seed", "claim", "paper", "quantity"),
    *("estimate", "low", "high", "n", "rule", "verdict", "hypothesis"),
)


class _NoTableError(ShapefirstError, KeyError):
    """What a mapping raises, as a sentence."""

    __str__ = ValueError.__str__  # a KeyError's own gives it in quotes


class Results(Mapping[str, Any]):
    """A folder of `shapefirst study` (or of `sweep report`): a study's name -> its tidy table, a `pyarrow.Table`.

    Studies that do not apply to the model have no table; `claims` has a row for each of them all the same.
    """

    def __init__(self, folder: Path, stored: list[Stored]) -> None:
        self._folder = folder
        self._stored = {one.name: one for one in stored}

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise _NoTableError(self._why_not(name))
        parquet = imported("pyarrow.parquet", "Tables of results are read")
        return parquet.read_table(io.BytesIO(content_of(placed(self._folder / name) / TABLE)))

    def __contains__(self, name: object) -> bool:
        return name in self._stored and not self._stored[str(name)].reason

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._stored if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Results({str(self._folder)!r}: {', '.join(self) or 'none'}; .claims, and [name] of each)"

    def _why_not(self, name: object) -> str:
        if name in self._stored:
            return f"The study {name} has no table, as it does not apply: {self._stored[str(name)].reason}"
        there = f"the tables are {', '.join(self)}" if len(self) else "it has no tables"
        return f"There is no table {said(name)} in {said(str(self._folder))}: {there}, and `claims`."

    @cached_property
    def claims(self) -> Any:
        """A `pyarrow.Table`, one row a claim: study, model, claim, paper, quantity, estimate, low, high, n, rule,
        verdict, hypothesis; and one for each study that does not apply."""
        arrow = imported("pyarrow", "Tables of results are read")
        rows = []
        for one in self._stored.values():
            about = {"study": one.name, "title": one.title, "model": one.setting.model, "seed": one.setting.seed}
            if one.reason:
                rows.append({**about, "verdict": "does not apply", "hypothesis": one.reason})
            for claim in one.claims:
                interval = {name: getattr(claim.found, name) for name in ("estimate", "low", "high", "n")}
                told = {"claim": claim.statement, "paper": claim.paper, "quantity": claim.quantity}
                verdict = {"rule": str(claim.rule), "verdict": claim.verdict, "hypothesis": claim.hypothesis}
                rows.append({**about, **told, **interval, **verdict})
        return arrow.table({name: [row.get(name) for row in rows] for name in _COLUMNS})


@guarded
def results(folder: str | Path) -> Results:
    """The results of `shapefirst study --out FOLDER`, as tables.

    Args:
        folder: Where they lie.

    Returns:
        A mapping, the study's name -> its tidy table, with all claims as `claims`. ``.to_pandas()`` of either is a
        DataFrame, where pandas is installed.

    Raises:
        ShapefirstError: There are none, they are damaged, or pyarrow is missing.
    """
    place = Path(folder)
    stored = load_all(place)
    if not stored:
        raise ShapefirstError(
            f"There are no results of studies in {said(str(folder))}: `shapefirst study` writes them."
        )
    return Results(place, stored)
