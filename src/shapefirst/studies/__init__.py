"""The paper's findings, each as one study that runs on any model.

They import ``findings``, ``images``, ``attention`` and ``sampling``. A study more is one file here with a ``STUDY``,
and one entry in ``findings.order.STUDIES``; one that is not ours is a file of its own (`studies.own`).
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from importlib import import_module
from pathlib import Path

from shapefirst.errors import ShapefirstError, said
from shapefirst.findings.finding import Study
from shapefirst.findings.order import STUDIES
from shapefirst.signatures import guarded
from shapefirst.studies.own import advertised, study_of

__all__ = ["STUDIES", "chosen", "question_of", "study_named"]


@guarded
def chosen(names: Collection[str]) -> list[str]:
    """The studies that are meant, each once, in the order of the report; "all" is every one of ours.

    Raises:
        ShapefirstError: One is unknown, or there is none.
    """
    wanted = {name.strip().lower() for name in names}
    others = advertised()
    if unknown := sorted(wanted - {*STUDIES, *others, "all"}):
        raise ShapefirstError(f"There is no study {said(unknown[0])}: choose from {', '.join(STUDIES)}, or all.")
    if not wanted:
        raise ShapefirstError(f"Say which studies to run: {', '.join(STUDIES)}, or all.")
    return [name for name in STUDIES if name in wanted or "all" in wanted] + [name for name in others if name in wanted]


@guarded
def study_named(name: str) -> Study:
    """The study of this name.

    Raises:
        ShapefirstError: There is none.
    """
    if name not in STUDIES:
        if (point := advertised().get(name)) is not None:
            return study_of(point)
        raise ShapefirstError(f"There is no study {said(name)}: choose from {', '.join(STUDIES)}, or all.")
    found: Study = import_module(_module(name)).STUDY
    return found


@guarded
def question_of(name: str) -> tuple[str, str]:
    """A study's title and its question, read from the file that it stands in, so that torch need not be imported.

    Raises:
        ShapefirstError: There is no such study.
    """
    if name not in STUDIES or "." in STUDIES[name]:
        found = study_named(name)
        return found.title, found.question
    tree = ast.parse((Path(__file__).parent / f"{STUDIES[name]}.py").read_text(encoding="utf-8"))
    (made,) = (node.value for node in tree.body if isinstance(node, ast.AnnAssign) and _is_study(node))
    assert isinstance(made, ast.Call)
    said = {one.arg: ast.literal_eval(one.value) for one in made.keywords if one.arg in ("title", "question")}
    return said["title"], said["question"]


def _is_study(node: ast.AnnAssign) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == "STUDY"


def _module(name: str) -> str:
    module = STUDIES[name]
    return module if "." in module else f"{__name__}.{module}"
