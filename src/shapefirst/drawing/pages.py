"""What the HTML pages share: their look, and images inside the page, so that it is one file and needs no network."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["STYLE", "data_uri", "png_uri"]

#: Legible on a telephone and in the dark; a page adds what is its own.
STYLE: Final = """\
:root { color-scheme: light dark; --ink: #18181b; --quiet: #5b5b66; --paper: #fff; --line: #d4d4d8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f4f4f5; --quiet: #a5a5b0; --paper: #18181b; --line: #3f3f46; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 16px 48px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .85rem; }
figure { margin: 0; }
figcaption { margin-top: .3rem; line-height: 1.35; }"""


def data_uri(content: bytes, kind: str) -> str:
    """``content`` of the media type ``kind`` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png_uri(image: Image.Image) -> str:
    """The image as an address that holds it."""
    png = io.BytesIO()
    image.save(png, format="PNG")
    return data_uri(png.getvalue(), "image/png")
