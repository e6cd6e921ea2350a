"""Where cases come from: a function for each source, by its name in `make fuzz ONLY=...`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fuzz.cases import Source
from fuzz.files import file_case
from fuzz.options import option_case

__all__ = ["SOURCES"]

SOURCES: Final[Mapping[str, Source]] = {"options": option_case, "files": file_case}
