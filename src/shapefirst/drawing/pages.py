"""HTML pages from templates that lie beside the code that fills them. A page is one file: images stand inside it."""

from __future__ import annotations

import base64
from functools import cache
from typing import TYPE_CHECKING

from shapefirst.drawing import notation
from shapefirst.files import png_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL import Image

__all__ = ["data_uri", "fill", "png_uri"]


def fill(template: str, **values: object) -> str:
    """The page that ``template`` makes of ``values``; their text is escaped, and one that is missing is an error.

    Args:
        template: A file in the package, by its path from there: "report/report.html". It extends "drawing/page.html",
            and has the functions of ``notation`` and of this file as filters.
        values: What it names.
    """
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("shapefirst", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {name: getattr(notation, name) for name in notation.__all__}
    found.filters |= {"data_uri": data_uri, "png_uri": png_uri}
    return found


def data_uri(content: bytes, kind: str) -> str:
    """``content`` of the media type ``kind`` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png_uri(image: Image.Image) -> str:
    """The image as an address that holds it."""
    return data_uri(png_of(image, {}), "image/png")
