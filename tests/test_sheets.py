"""Contact sheets show every picture, big enough, and every word."""

import numpy as np
from PIL import Image

from shapefirst.drawing.sheets import Cell, contact_sheet

RED, GREEN = (220, 30, 30), (30, 160, 30)


def tile(colour, size=(64, 64)):
    return Image.new("RGB", size, colour)


def count(sheet, colour):
    return int((np.asarray(sheet) == colour).all(-1).sum())


def test_small_pictures_are_enlarged():
    sheet = contact_sheet([[Cell(tile(RED)), Cell(tile(GREEN))]], picture_width=192)
    assert count(sheet, RED) == count(sheet, GREEN) == 192 * 192


def test_large_and_oblong_pictures_keep_their_proportions():
    sheet = contact_sheet([[Cell(tile(RED, (512, 256)))]], picture_width=192)
    assert count(sheet, RED) == 192 * 96


def test_rows_of_different_length_and_no_rows_at_all():
    sheet = contact_sheet([[Cell(tile(RED)), Cell(tile(RED))], [Cell(tile(GREEN))]], picture_width=160)
    assert count(sheet, RED) == 2 * count(sheet, GREEN) == 2 * 160 * 160
    assert contact_sheet([]).width > 0


def test_words_take_room_and_are_written():
    cells = [[Cell(tile(RED))]]
    plain = contact_sheet(cells)
    told = contact_sheet(
        [[Cell(tile(RED), "75 evaluations, 1.20 s\nL1 0.0123")]],
        title="A title",
        column_titles=["column"],
        row_titles=["first\nand more"],
    )
    assert told.width > plain.width
    assert told.height > plain.height
    ink = (np.asarray(told) < 128).all(-1)
    assert ink.sum() > 100


def test_long_captions_wrap_instead_of_running_into_the_next_picture():
    short = contact_sheet([[Cell(tile(RED), "word"), Cell(tile(GREEN))]], picture_width=160)
    long = contact_sheet([[Cell(tile(RED), "word " * 40 + "w" * 90), Cell(tile(GREEN))]], picture_width=160)
    assert long.width == short.width
    assert long.height > short.height
    gap = np.asarray(long)[:, 24 + 160 + 4 : 24 + 160 + 8]  # between the first picture and the second
    assert (gap > 200).all()


def test_a_prompt_without_end_is_shortened():
    short, long = (contact_sheet([[Cell(tile(RED))]], row_titles=["a" * n + "\nseed 0"]) for n in (300, 10_000))
    assert long.size == short.size
