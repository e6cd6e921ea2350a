"""Blocks and threads: what cannot be right is refused, and nothing is left behind in any order of exit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from laws import K, own
from test_matrix import _small_layers, denoisers, error, traces  # noqa: F401
from tiny import STEPS

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import is_steered, text_until

SD = "StableDiffusionPipeline"


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize("shared", ["the pipeline", "the denoiser alone"])
def test_two_threads_at_once_are_refused(shared):
    row = own(SD)
    other = row
    if shared == "the denoiser alone":
        pipe = diffusers.StableDiffusionPipeline(
            **{**row.pipe.components, "scheduler": type(row.pipe.scheduler).from_config(row.pipe.scheduler.config)},
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        other = replace(row, pipe=pipe)
    with text_until(row.pipe, K):
        expected = row()
    refused = []

    def meanwhile(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step in (1, 4):
            with pytest.raises(
                ShapefirstError, match=r"Two threads run this .* give each thread a pipeline of its own"
            ):
                in_a_thread(other)
            refused.append(step)
        return tensors

    with text_until(row.pipe, K) as evaluations:
        made = row(callback_on_step_end=meanwhile)
        assert refused == [1, 4]
        assert evaluations.calls == STEPS
        if shared == "the denoiser alone":
            assert error(made, expected) == 0
        for _ in range(2):  # one after the other is fine
            assert error(in_a_thread(row), expected) == 0
            assert error(row(), expected) == 0


def test_each_thread_with_a_pipeline_of_its_own():
    rows = [own(SD), own("StableDiffusion3Pipeline")]
    expected = []
    for row in rows:
        with text_until(row.pipe, K):
            expected.append(row())
    both = threading.Barrier(2)

    def generate(row: Any) -> Any:
        def together(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            both.wait(60)
            return tensors

        with text_until(row.pipe, K) as evaluations:
            made = row(callback_on_step_end=together)
        assert evaluations.rows == evaluations.asked * 3 // 4
        return made

    with ThreadPoolExecutor(2) as pool:
        # Deterministic without a seed of torch's own, which all threads share.
        for made, of in zip(pool.map(generate, rows), expected, strict=True):
            assert error(made, of) == 0


@contextmanager
def impatient() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_blocks_that_threads_enter_and_leave_at_once():
    row = own(SD)
    before, stock = traces(row), row()
    (unet,) = denoisers(row)

    def enter_and_leave(_: int) -> int:
        seen = 0
        for _ in range(100):
            with text_until(row.pipe, K):
                seen += is_steered(unet) and type(unet).__mro__ != before[0][0]
        return seen

    with impatient(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(enter_and_leave, range(4))) == [100] * 4
    assert traces(row) == before
    assert torch.equal(row()[0], stock[0])
