"""Studies that are not ours: in a file that is named, or advertised by an installed package.

shapefirst study --study half.py                    the file's STUDY

[project.entry-points."shapefirst.studies"]         in the pyproject.toml of a package
h1 = "mypackage.half:STUDY"                         shapefirst study h1
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ShapefirstError, first_line, said
from shapefirst.findings.finding import Study
from shapefirst.findings.order import STUDIES
from shapefirst.signatures import guarded

__all__ = ["advertised", "study_in", "study_of"]

GROUP: Final = "shapefirst.studies"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
#: What a folder of results holds beside those of studies.
_TAKEN: Final = (*STUDIES, "all", "sweep")


def advertised() -> dict[str, EntryPoint]:
    """Name -> entry point, of the studies that installed packages have; those named as ours are left out."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _TAKEN}


@guarded
def study_of(point: EntryPoint) -> Study:
    """The study that an entry point names.

    Raises:
        ShapefirstError: It cannot be imported, or is no study of that name.
    """
    what = f"The study {said(point.name)} of {said(point.value)}"
    try:
        found = point.load()
    except Exception as error:  # whatever somebody's module does when it is imported
        raise ShapefirstError(f"{what} cannot be imported: {type(error).__name__}: {first_line(error)}.") from error
    return _checked(found, what, point.name)


@guarded
def study_in(file: Path) -> Study:
    """The ``STUDY`` of a Python file, which is run for it.

    Raises:
        ShapefirstError: There is no such file, it fails, or it has no study.
    """
    what = f"The study of {said(str(file))}"
    if not file.is_file():
        raise ShapefirstError(f"There is no file {said(str(file))}: name a Python file with a STUDY.")
    spec = spec_from_file_location(f"study_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ShapefirstError(f"{what} is no Python file: give one whose name ends in .py.")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's file does
        raise ShapefirstError(f"{what} cannot be run: {type(error).__name__}: {first_line(error)}.") from error
    return _checked(getattr(module, "STUDY", None), what)


def _checked(found: Any, what: str, name: str | None = None) -> Study:
    if not isinstance(found, Study):
        raise ShapefirstError(f"{what} has no STUDY: `STUDY = shapefirst.findings.finding.Study(name=..., ...)`.")
    if not _NAME.fullmatch(found.name) or found.name in _TAKEN:
        raise ShapefirstError(
            f"{what} is named {said(found.name)}: take a name of small letters and digits that none of ours has "
            f"({', '.join(_TAKEN)})."
        )
    if name is not None and found.name != name:
        raise ShapefirstError(f"{what} is named {said(found.name)}: name both alike.")
    return found
