"""The tiny pipelines themselves, without a line of shapefirst: what their rows say is so, and their text matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import PIPELINES, STEPS, Tiny


@pytest.fixture(params=PIPELINES)
def row(request: pytest.FixtureRequest) -> Tiny:
    return PIPELINES[request.param]()


def begins_later(row: Tiny) -> bool:
    """Whether the first step has a call less: skip-layer guidance is never on in it, whatever its range."""
    return type(getattr(row.pipe, "guider", None)).__name__ == "SkipLayerGuidance"


@contextmanager
def hooked(row: Tiny, names: Sequence[str], hook: Any) -> Iterator[None]:
    """Stand behind these parts of the pipeline: hook(module, arguments, named arguments, output)."""
    handles = [getattr(row.pipe, name).register_forward_hook(hook, with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The largest difference of two generations, in parts of the first's largest value."""
    assert [x.shape for x in one] == [x.shape for x in other]
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(one, other, strict=True))


def test_a_row_says_how_often_its_denoisers_are_called_and_repeats_itself(row):
    calls = []
    with hooked(row, row.denoisers, lambda module, *_: calls.append(module)):
        first = row()
    assert len(calls) == row.calls * STEPS - begins_later(row)
    assert set(calls) == {getattr(row.pipe, name) for name in row.denoisers}
    assert all(x.isfinite().all() and 0.1 < x.abs().max() < 100 for x in first)
    assert difference(first, row()) == 0


def test_a_batch_is_its_images_alone(row):
    alone = zip(row((0,)), row((1,)), strict=True)
    assert difference([torch.cat(pair) for pair in alone], row()) < 1e-4


def test_what_an_image_is_given_matters(row):
    """The same noise under another image's conditions becomes another image."""
    assert difference(row((1,)), row((0,), generator=[torch.Generator().manual_seed(101)])) > 1e-3


def test_guidance_matters(row):
    """Where all branches are answered by the first one's prediction from half of the steps on, much changes."""
    turn, first = 0, None

    def as_the_first(module: Any, args: Any, named: Any, output: Any) -> Any:
        nonlocal turn, first
        step, call = divmod(turn, row.calls)
        turn += 1
        if row.way == "one batch":
            first = as_first_rows(output, len(row.branches))
        elif not call:
            first = output
        return first if step >= STEPS // 2 else None

    if row.way != "whole calls":
        with hooked(row, row.denoisers, as_the_first):
            dropped = row()
        assert difference(row(), dropped) > 1e-3


def as_first_rows(output: Any, branches: int) -> Any:
    """All branches' rows as those of the first one, in all that a call returned."""
    if isinstance(output, torch.Tensor):
        return torch.cat([output.chunk(branches)[0]] * branches)
    if isinstance(output, list):  # one tensor a row
        return output[: len(output) // branches] * branches
    if isinstance(output, dict):
        return type(output)(**{name: as_first_rows(value, branches) for name, value in output.items()})
    return tuple(as_first_rows(value, branches) for value in output)
