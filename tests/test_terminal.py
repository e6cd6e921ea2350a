"""Progress, a bar on a terminal, and in a log a line now and then; and tables that fit."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from shapefirst.cli import terminal
from shapefirst.cli.tabular import Entry, print_table


def test_a_log_of_hours_has_a_line_now_and_then(monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with terminal.progress("64 shards", total=200) as progress:
        for done in range(0, 201, 10):
            progress(done)
            now += 25
    lines = capsys.readouterr().err.splitlines()
    # 25 s for each tenth of a hundred: every third update is more than a minute after the last line
    assert lines == [
        f"64 shards: {done / 2:.0f}% after 0:{seconds // 60:02d}:{seconds % 60:02d}, about {left} left"
        for done, seconds, left in (
            (30, 75, "0:07:05"),
            (60, 150, "0:05:50"),
            (90, 225, "0:04:35"),
            (120, 300, "0:03:20"),
            (150, 375, "0:02:05"),
            (180, 450, "0:00:50"),
        )
    ]


def test_what_comes_bit_by_bit_adds_up_to_the_whole_at_most(monkeypatch):
    told = []

    @contextmanager
    def progress(what, total):
        yield told.append

    monkeypatch.setattr(terminal, "progress", progress)
    with terminal.counting("shards", total=10) as add:
        for more in (3, 4, -4, 6, 5):
            add(more)
    assert told == [3, 7, 3, 9, 10]


def test_what_is_done_within_a_minute_says_nothing(capsys):
    with terminal.progress("images", total=3) as progress:
        for done in range(4):
            progress(done)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [40, 200])
def test_a_file_s_name_is_never_broken(monkeypatch, capsys, width):
    """It could not be copied."""
    monkeypatch.setattr(terminal, "stdout", lambda: Console(width=width, force_terminal=True, color_system=None))
    files = [Path("out") / f"a-red-mushroom-above-a-wooden-car_seed{n}_full.png" for n in range(2)]
    rows = [["a red mushroom above a wooden car", file, Entry(18.0, "18")] for file in files]
    print_table(("prompt", "file", "evaluations"), rows)
    written = capsys.readouterr().out
    assert all(str(file) in written for file in files)
    assert all(len(line) <= width or line.startswith("  a red") for line in written.splitlines())
    assert ("file" in written.partition("evaluations")[0]) is (width == 200)
