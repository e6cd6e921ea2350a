"""Tiny pipelines of pictures, videos and sound are what their rows say, without a line of shapefirst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import PIPELINES, STEPS, Tiny, pictures, sounds, videos

MODULES: tuple[ModuleType, ...] = (pictures, videos, sounds)
BUILT = [build for module in MODULES for build in vars(module).values()]
ROWS = [name for name, build in PIPELINES.items() if build in BUILT]
CALLS = {name: calls for module in MODULES for name, calls in module.CALLS.items()}
ALONE = {name for module in MODULES for name in module.ALONE}


@pytest.fixture(autouse=True)
def _plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative."""
    return float((a - b).norm() / b.norm())


@contextmanager
def heard(row: Tiny, *names: str, hook: Any) -> Iterator[None]:
    handles = [getattr(row.pipe, name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ROWS)
def test_a_generation_is_what_its_row_says(name: str) -> None:
    row, images = PIPELINES[name](), (0,) if name in ALONE else (0, 1)
    calls: Counter[str] = Counter()
    with heard(row, *row.denoisers, *row.beside, hook=lambda part: lambda *_: calls.update([part])):
        made = row(images)
    of_denoisers = sum(calls[part] for part in row.denoisers)
    assert of_denoisers == CALLS.get(name, row.calls * STEPS)
    assert all(calls[part] == STEPS for part in row.beside)
    assert all(len(value) == len(images) and value.isfinite().all() and value.float().std() < 10 for value in made)
    assert all(torch.equal(a, b) for a, b in zip(made, row(images), strict=True))
    for at, image in enumerate(images):
        assert all(distance(b, a[at : at + 1]) < 1e-4 for a, b in zip(made, row((image,)), strict=True))
    if name not in ALONE:
        assert all(distance(value[0], value[1]) > 0.01 for value in made)
    if len(row.branches) > 1:
        assert all(distance(a, b) > 1e-3 for a, b in zip(without_text(row, images), made, strict=True))


def without_text(row: Tiny, images: tuple[int, ...]) -> list[torch.Tensor]:
    """What is made when the null prediction takes the text's place in the second half of the steps."""
    latest = Counter[str]()

    def replace(part: str) -> Any:
        def hook(module: Any, given: Any, out: Any) -> None:
            prediction = out[0] if isinstance(out, tuple) else next(iter(out.values()))
            if prediction is None or len(prediction) < len(row.branches) * len(images):
                return
            rows = list(prediction.chunk(len(row.branches)))
            latest.update([part])
            if latest[part] > STEPS // 2:
                rows[row.branches.index("text")] = rows[row.branches.index("null")]
                prediction.copy_(torch.cat(rows))

        return hook

    with heard(row, *row.denoisers, hook=replace):
        return row(images)
