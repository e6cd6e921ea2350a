"""The paper's findings, each as one study that runs on any model.

They import ``findings``, ``images``, ``attention`` and ``sampling``. A study more is one file here with a ``STUDY``,
and one entry in ``findings.order.STUDIES``.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Study
from shapefirst.findings.order import STUDIES

__all__ = ["COSTS", "STUDIES", "chosen", "study_named"]

#: About what a study costs at its default count, in images of 50 guided steps: weights of the progress bar, no more.
COSTS: Final = {
    "f1": 41,
    "f2": 26,
    "f3": 39,
    "f4": 60,
    "f5": 110,
    "f6": 104,
    "f7": 178,
    "a1": 64,
    "a2": 48,
    "a3": 60,
    "a4": 48,
    "a5": 40,
    "a7": 57,
    "x1": 100,
    "x2": 58,
}


def chosen(names: Iterable[str]) -> list[str]:
    """The studies that are meant, each once, in the order of the report; "all" is every one.

    Raises:
        ShapefirstError: One is unknown, or there is none.
    """
    wanted = {name.strip().lower() for name in names}
    if unknown := sorted(wanted - {*STUDIES, "all"}):
        raise ShapefirstError(f"There is no study {unknown[0]!r}: choose from {', '.join(STUDIES)}, or all.")
    if not wanted:
        raise ShapefirstError(f"Say which studies to run: {', '.join(STUDIES)}, or all.")
    return [name for name in STUDIES if name in wanted or "all" in wanted]


def study_named(name: str) -> Study:
    """The study of this name.

    Raises:
        ShapefirstError: There is none.
    """
    if name not in STUDIES:
        raise ShapefirstError(f"There is no study {name!r}: choose from {', '.join(STUDIES)}, or all.")
    found: Study = import_module(_module(name)).STUDY
    return found


def _module(name: str) -> str:
    module = STUDIES[name]
    return module if "." in module else f"{__name__}.{module}"
