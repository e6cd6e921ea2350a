"""Contact sheets: rows of pictures under column titles, each with a caption, as one image.

    title
                 column title   column title   ...
    row title    [picture]      [picture]
                 caption        caption

Small pictures are enlarged so that they can be seen, large ones reduced; text wraps to the width it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from shapefirst.errors import shortened
from shapefirst.measure.rgb import to_rgb

__all__ = ["Cell", "contact_sheet"]

PAPER, INK, QUIET, FRAME = (255, 255, 255), (24, 24, 27), (95, 95, 105), (212, 212, 216)
MARGIN, GAP = 24, 12
TITLE, HEAD, BODY = 24, 16, 14  # type sizes in pixels
LEADING = 1.35  # line height / type size
LONGEST = 300  # characters of a title, which may be a prompt of any length


@dataclass(frozen=True)
class Cell:
    """A picture and the lines under it."""

    image: Image.Image
    caption: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    picture_width: int = 192,
    row_title_width: int = 200,
) -> Image.Image:
    """Lays out ``rows`` of cells on white.

    Args:
        rows: Cells; rows may differ in length.
        title: Above everything. The first line is set larger than the rest.
        column_titles: One for each column, or none.
        row_titles: One for each row, or none. The first line is set larger than the rest, and shortened if it is long.
        picture_width: Width of every picture on the sheet in pixels; heights follow from their proportions.
        row_title_width: Room for the row titles in pixels.

    Returns:
        An RGB image, just as large as it has to be.
    """
    left = MARGIN + (row_title_width + GAP if row_titles else 0)
    columns = max((len(row) for row in rows), default=0)
    width = max(left + columns * (picture_width + GAP) - GAP, left) + MARGIN
    heads = [_Text(text, picture_width, HEAD) for text in column_titles]
    labels = [_headed(text, row_title_width, HEAD) for text in row_titles]
    captions = [[_Text(cell.caption, picture_width, BODY, QUIET) for cell in row] for row in rows]
    pictures = [[_scaled(cell.image, picture_width) for cell in row] for row in rows]
    top = _headed(title, width - 2 * MARGIN, TITLE)

    y = MARGIN + _height(top) + (GAP if title else 0)
    y_heads, y = y, y + max((head.height for head in heads), default=0) + (GAP // 2 if heads else 0)
    y_rows = []
    for r in range(len(rows)):
        y_rows.append(y)
        tallest = max(
            (p.height + GAP // 2 + c.height for p, c in zip(pictures[r], captions[r], strict=True)), default=0
        )
        y += max(tallest, _height(labels[r]) if r < len(labels) else 0) + GAP

    sheet = Image.new("RGB", (width, y - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(top, draw, MARGIN, MARGIN)
    for c, head in enumerate(heads):
        bottom = max(h.height for h in heads)
        head.write(draw, left + c * (picture_width + GAP), y_heads + bottom - head.height)
    for r, y in enumerate(y_rows):
        if r < len(labels):
            _write(labels[r], draw, MARGIN, y)
        for c, (picture, caption) in enumerate(zip(pictures[r], captions[r], strict=True)):
            x = left + c * (picture_width + GAP)
            sheet.paste(picture, (x, y))
            draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=FRAME)
            caption.write(draw, x, y + picture.height + GAP // 2)
    return sheet


class _Text:
    """Text wrapped to a width."""

    def __init__(self, text: str, width: int, size: int, colour: tuple[int, int, int] = INK) -> None:
        self._font = ImageFont.load_default(size=size)
        self._lines = [line for paragraph in text.splitlines() for line in _wrap(paragraph, width, self._font)]
        self._leading = round(size * LEADING)
        self._colour = colour
        self.height = len(self._lines) * self._leading

    def write(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        for n, line in enumerate(self._lines):
            draw.text((x, y + n * self._leading), line, font=self._font, fill=self._colour)


def _headed(text: str, width: int, size: int) -> tuple[_Text, _Text]:
    """The first line in ``size``, the rest small."""
    first, _, rest = text.partition("\n")
    return _Text(shortened(first, LONGEST), width, size), _Text(rest, width, BODY, QUIET)


def _height(parts: Sequence[_Text]) -> int:
    return sum(part.height for part in parts)


def _write(parts: Sequence[_Text], draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for part in parts:
        part.write(draw, x, y)
        y += part.height


def _wrap(paragraph: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Breaks at spaces, and inside a word only where it is wider than the line."""
    lines: list[str] = []
    line = ""
    for word in paragraph.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            fits = max((n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line or not lines else lines


def _scaled(image: Image.Image, width: int) -> Image.Image:
    height = max(1, round(image.height * width / image.width))
    return to_rgb(image).resize((width, height), Image.Resampling.LANCZOS)
