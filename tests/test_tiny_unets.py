"""Tiny pipelines are what their rows say: their own calls, without any policy, show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from tiny import PIPELINES, STEPS, Tiny


@pytest.fixture(params=PIPELINES)
def row(request: Any, monkeypatch: Any) -> Tiny:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # slower than none in layers this small
    return PIPELINES[request.param]()


def differ(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Of the tensor that does most: the largest difference over the spread."""
    assert len(found) == len(expected)
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    return max(float((a - b).abs().max() / b.std().clamp(min=1e-6)) for a, b in pairs)


@contextmanager
def answered(row: Tiny, answer: Callable[[int, torch.Tensor], torch.Tensor | None]) -> Iterator[list[int]]:
    """Denoisers' calls, each (its number, its first output), may be answered; they and those beside are counted."""
    counts = [0, 0]

    def beside(*_: Any) -> None:
        counts[1] += 1

    def hook(_: Any, __: Any, out: Any) -> Any:
        first = out if isinstance(out, torch.Tensor) else out[0]
        made = answer(counts[0], first)
        counts[0] += 1
        if made is None:
            return None
        assert made.shape == first.shape
        if isinstance(out, torch.Tensor):
            return made
        return replace(out, **{fields(out)[0].name: made}) if is_dataclass(out) else (made, *out[1:])

    with ExitStack() as stack:
        for name in row.denoisers:
            stack.callback(getattr(row.pipe, name).register_forward_hook(hook).remove)
        for name in row.beside:
            stack.callback(getattr(row.pipe, name).register_forward_hook(beside).remove)
        yield counts


def text_dropped(row: Tiny, half: int) -> Callable[[int, torch.Tensor], torch.Tensor | None]:
    """From the half on, the text branch says what the null branch says; without both, all stays as it was."""
    last: list[torch.Tensor] = []

    def answer(count: int, out: torch.Tensor) -> torch.Tensor | None:
        if count < half:
            last[:] = [out]
            return None
        if row.way == "whole calls" or "null" not in row.branches:
            return last[0] if last[0].shape == out.shape else None
        if len(out) != 2 * len(row.branches):  # one of several denoisers, and it has one branch
            return None
        if row.way == "one batch":
            branches = list(out.chunk(len(row.branches)))
            branches[row.branches.index("text")] = branches[row.branches.index("null")]
            return torch.cat(branches)
        raise NotImplementedError(row.way)

    return answer


def test_a_row_is_what_it_says(row):
    made = row()
    assert all(torch.isfinite(tensor).all() for tensor in made)
    assert differ(row(), made) == 0

    singles = zip(*(row((number,)) for number in (0, 1)), strict=True)
    assert (differ([torch.cat(pair) for pair in singles], made) < 1e-4) == (row.alone is None)

    with answered(row, lambda count, out: None) as counts:
        row()
    assert counts == [row.calls * STEPS, len(row.beside) * STEPS]

    with answered(row, text_dropped(row, row.calls * STEPS // 2)):
        assert 1e-3 < differ(row(), made) < 100
    assert differ(row(), made) == 0
