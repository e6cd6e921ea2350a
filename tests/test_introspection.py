"""What has to be found out behind a pipeline's back, each by itself; and blocks that leave nothing, in any order."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import torch
from test_guidance import generate, trace

from shapefirst.attention.recording import record
from shapefirst.errors import UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.introspection import list_behind, place_in_memory, running


class Pipe:
    def __init__(self, unet: Any = None) -> None:
        self.unet = torch.nn.Linear(1, 1) if unet is None else unet

    def __call__(self, guidance_scale: float = 3.0, inner: Any = None) -> Any:
        timesteps = torch.tensor([3, 2, 1])
        found = running(self.unet) if inner is None else inner()
        return found, timesteps


def test_the_call_in_progress_is_found_on_the_stack():
    pipe = Pipe()
    assert running(pipe.unet) is None
    found, timesteps = pipe()
    assert found.pipe is pipe
    assert found.timesteps is timesteps
    assert found.guidance_scale == 3.0
    assert found.is_guided
    assert not pipe(guidance_scale=1.0)[0].is_guided
    # Of several, the innermost; of another denoiser's none; a wrapper of torch.compile is looked through.
    other = Pipe(pipe.unet)
    assert pipe(inner=other)[0][0].pipe is other
    assert Pipe()(inner=lambda: running(pipe.unet))[0] is None
    compiled = Pipe(torch.compile(pipe.unet))
    assert compiled(inner=lambda: running(pipe.unet))[0].pipe is compiled


def test_a_place_in_memory_is_a_position():
    listed = torch.tensor([9, 5, 5, 1])
    for i, t in enumerate(listed):
        assert place_in_memory(t, listed) == place_in_memory(t.expand(4), listed) == i
        assert place_in_memory(t, listed[1:]) == i - 1
        assert (
            place_in_memory(t.clone(), listed)
            is place_in_memory(t.float(), listed)
            is place_in_memory(int(t), listed)
            is None
        )
    assert place_in_memory(listed[:2], listed) is None


def test_the_list_behind_a_timestep():
    listed, own = torch.tensor([9, 5, 1]), torch.tensor([7, 3])
    assert list_behind(own[1], listed).tolist() == list_behind(own[1].expand(4), listed).tolist() == [7, 3]
    for t in (listed[1], own[1].clone(), 3, own):  # the scheduler's own, a copy, a number, several
        assert list_behind(t, listed) is None


def test_a_timestep_of_no_list_is_refused_in_a_sentence(make_pipe):
    pipe = make_pipe()
    pipe.scheduler.set_timesteps(4)
    with (
        torch.no_grad(),
        text_until(pipe, 2) as evaluations,
        pytest.raises(UnsupportedPipelineError, match=r"timestep 123\.5, which is not in its scheduler's list, so the"),
    ):
        pipe.unet(torch.zeros(2, 4, 8, 8), torch.tensor(123.5), torch.zeros(2, 77, 16))
    assert evaluations.calls == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_blocks_that_end_in_any_order_leave_nothing(make_pipe, order):
    pipe = make_pipe()
    before, stock = trace(pipe), generate(pipe)
    blocks = [contextlib.ExitStack() for _ in range(3)]
    for block, enter in zip(
        blocks, (guide(pipe, "paper:2"), record(pipe, size=4), guide(pipe, "every:2")), strict=True
    ):
        block.enter_context(enter)
    generate(pipe)
    for n in order:
        blocks[n].close()
    assert trace(pipe) == before
    assert torch.equal(generate(pipe), stock)
