"""Blocks and threads: what cannot be right is refused, and nothing is left behind in any order of exit."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from laws import K, own
from test_matrix import _small_layers, denoisers, error, traces  # noqa: F401
from tiny import STEPS

from shapefirst.attention.recording import record, substitute
from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import is_steered, text_until
from shapefirst.guidance.module import apply_to_module

SD = "StableDiffusionPipeline"


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def sharing(row: Any) -> Any:
    """Another pipeline with the same denoiser."""
    pipe = diffusers.StableDiffusionPipeline(
        **{**row.pipe.components, "scheduler": type(row.pipe.scheduler).from_config(row.pipe.scheduler.config)},
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return replace(row, pipe=pipe)


def test_two_threads_at_once_are_refused():
    row = own(SD)
    with text_until(row.pipe, K):
        expected = row()
    refused = []

    def meanwhile(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step in (1, 4):
            with pytest.raises(
                ShapefirstError, match=r"Two threads run this .* give each thread a pipeline of its own"
            ):
                in_a_thread(row)
            refused.append(step)
        return tensors

    with text_until(row.pipe, K) as evaluations:
        row(callback_on_step_end=meanwhile)
        assert refused == [1, 4]
        assert evaluations.calls == STEPS
        for _ in range(2):  # one after the other is fine
            assert error(in_a_thread(row), expected) == 0
            assert error(row(), expected) == 0


@pytest.mark.parametrize("hooked", [True, False])
def test_a_thread_that_knows_of_no_block_runs_its_own_pipeline_as_ever(hooked):
    """Though they share a denoiser; the one that is guided begins, is amid or ends while the other runs, and back."""
    row = own(SD)
    embeddings = row.conditions([5])["prompt_embeds"]
    other, edited = sharing(row), [embeddings, [1, 2]]
    stock, made = row(), []

    def block() -> Any:
        stack = ExitStack()
        evaluations = stack.enter_context(text_until(row.pipe, K))
        if hooked:
            maps = stack.enter_context(record(row.pipe, size=4))
            stack.enter_context(substitute(row.pipe, *edited))
            return stack, evaluations, maps
        return stack, evaluations, None

    def meanwhile(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step in (0, 4):
            made.append(in_a_thread(other))
        return tensors

    with block()[0]:
        expected = row()
    stack, evaluations, maps = block()
    with stack:
        assert error(row(callback_on_step_end=meanwhile), expected) == 0
        assert evaluations.calls == STEPS
        assert maps is None or set(maps.text) == set(range(K))
        made.append(in_a_thread(other))
    guided = []

    def around(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            guided.append(in_a_thread(block))
            guided.append(in_a_thread(row))
        elif step == 4:
            guided[0][0].close()
        return tensors

    made.append(other(callback_on_step_end=around))
    assert error(guided[1], expected) == 0
    assert [error(one, stock) for one in made] == [0] * 4
    assert traces(row) == traces(own(SD))


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


class Toy(torch.nn.Module):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sample


def test_blocks_that_threads_enter_and_leave_at_once():
    denoiser, scheduler = Toy(), diffusers.DDIMScheduler()
    scheduler.set_timesteps(4)
    before = sorted(vars(denoiser)), Toy.forward, Toy.__mro__

    def enter_and_leave(_: int) -> int:
        seen = 0
        for _ in range(2000):
            handle = apply_to_module(denoiser, "every:2", scheduler=scheduler)
            seen += is_steered(denoiser) and type(denoiser) is not Toy
            handle.remove()
        return seen

    with impatient(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(enter_and_leave, range(4))) == [2000] * 4
    assert (sorted(vars(denoiser)), type(denoiser).forward, type(denoiser).__mro__) == before
    assert not is_steered(denoiser)


def test_blocks_of_a_pipeline_that_threads_enter_and_leave_at_once():
    row = own(SD)
    before, stock = traces(row), row()
    (unet,) = denoisers(row)

    def enter_and_leave(_: int) -> int:
        seen = 0
        for _ in range(50):
            with text_until(row.pipe, K), record(row.pipe):
                seen += is_steered(unet) and type(unet).__mro__ != before[0][0]
        return seen

    with impatient(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(enter_and_leave, range(4))) == [50] * 4
    assert traces(row) == before
    assert torch.equal(row()[0], stock[0])


def test_a_block_is_the_pipelines_and_not_the_tasks():
    """What another task of asyncio runs while a block is open follows it, too."""
    row = own(SD)
    stock = row()
    with text_until(row.pipe, K):
        expected = row()

    async def guided(entered: asyncio.Event, leave: asyncio.Event) -> Any:
        with text_until(row.pipe, K):
            entered.set()
            await leave.wait()
            return row()

    async def both() -> tuple[Any, Any, Any]:
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(guided(entered, leave))
        await entered.wait()
        meanwhile = row()
        leave.set()
        return await task, meanwhile, row()

    made, meanwhile, afterwards = asyncio.run(both())
    assert error(made, expected) == error(meanwhile, expected) == error(afterwards, stock) == 0
