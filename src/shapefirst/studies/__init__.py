"""The paper's findings, each as one study that runs on any model.

They import ``findings``, ``images``, ``attention`` and ``sampling``. A study more is one file here with a ``STUDY``,
and one entry in ``findings.order.STUDIES``.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module

from shapefirst.errors import ShapefirstError, said
from shapefirst.findings.finding import Study
from shapefirst.findings.order import STUDIES
from shapefirst.signatures import guarded

__all__ = ["STUDIES", "chosen", "study_named"]


@guarded
def chosen(names: Collection[str]) -> list[str]:
    """The studies that are meant, each once, in the order of the report; "all" is every one.

    Raises:
        ShapefirstError: One is unknown, or there is none.
    """
    wanted = {name.strip().lower() for name in names}
    if unknown := sorted(wanted - {*STUDIES, "all"}):
        raise ShapefirstError(f"There is no study {said(unknown[0])}: choose from {', '.join(STUDIES)}, or all.")
    if not wanted:
        raise ShapefirstError(f"Say which studies to run: {', '.join(STUDIES)}, or all.")
    return [name for name in STUDIES if name in wanted or "all" in wanted]


@guarded
def study_named(name: str) -> Study:
    """The study of this name.

    Raises:
        ShapefirstError: There is none.
    """
    if name not in STUDIES:
        raise ShapefirstError(f"There is no study {said(name)}: choose from {', '.join(STUDIES)}, or all.")
    found: Study = import_module(_module(name)).STUDY
    return found


def _module(name: str) -> str:
    module = STUDIES[name]
    return module if "." in module else f"{__name__}.{module}"
