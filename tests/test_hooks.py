"""Hooks of others come and go in any order before, within and after a block, and guidance goes on."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import accelerate.hooks
import pytest
from diffusers.hooks import HookRegistry, ModelHook
from laws import K, own
from test_guidance import W, generate
from test_matrix import _small_layers, denoisers, error, traces  # noqa: F401
from tiny import STEPS

from shapefirst.attention.recording import record
from shapefirst.guidance.blocks import guide, text_until

ROWS = 2 * (2 * K + STEPS - K)


class Seeing(ModelHook):
    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


@pytest.mark.parametrize("leaves", list(permutations(("record", "guide", "outer"))))
@pytest.mark.parametrize("enters", [("record", "guide", "outer"), ("guide", "outer", "record")])
def test_blocks_end_in_any_order(make_pipe, enters, leaves):
    pipe = make_pipe()
    before = type(pipe.unet).__mro__, sorted(vars(pipe.unet)), pipe.unet.attn_processors
    stock = generate(pipe, guidance_scale=W)
    with guide(pipe, "paper:1"):
        expected = generate(pipe)
    blocks = {"record": record(pipe), "guide": guide(pipe, "paper:1"), "outer": guide(pipe, "paper:1")}
    for name in enters:
        blocks[name].__enter__()
    for number, name in enumerate(leaves):
        steered = {"guide", "outer"} & set(leaves[number:])
        assert error([generate(pipe)], [expected if steered else stock]) == 0
        blocks[name].__exit__(None, None, None)
    assert error([generate(pipe)], [stock]) == 0
    assert (type(pipe.unet).__mro__, sorted(vars(pipe.unet)), pipe.unet.attn_processors) == before


def test_hooks_of_diffusers_and_accelerate_come_and_go_within_a_block():
    row = own("StableDiffusionPipeline")
    stock = row()
    (unet,) = denoisers(row)
    with text_until(row.pipe, K):
        expected = row()
    registry = HookRegistry.check_if_exists_or_initialize(unet)
    seeing = Seeing()
    changes = [
        lambda: None,
        lambda: registry.register_hook(Seeing(), "within"),
        lambda: registry.remove_hook("before"),
        lambda: accelerate.hooks.add_hook_to_module(unet, accelerate.hooks.ModelHook()),
        lambda: registry.register_hook(seeing, "last"),
        lambda: registry.remove_hook("within"),
    ]
    registry.register_hook(Seeing(), "before")
    with text_until(row.pipe, K) as evaluations:
        for times, change in enumerate(changes, 1):
            change()
            assert error(row(), expected) == 0
            assert evaluations.rows == times * ROWS
    assert seeing.calls == 2 * STEPS
    assert error(row(), stock) == 0
    assert list(registry.hooks) == ["last"]
    assert hasattr(unet, "_hf_hook")


@pytest.mark.parametrize("removed", ["within the block", "after the block"])
def test_a_hook_of_accelerate_that_was_put_on_within_a_block(removed):
    row = own("StableDiffusionPipeline")
    stock = row()
    (unet,) = denoisers(row)
    with text_until(row.pipe, K):
        expected = row()
    with text_until(row.pipe, K) as evaluations:
        accelerate.hooks.add_hook_to_module(unet, accelerate.hooks.ModelHook())
        assert error(row(), expected) == 0
        if removed == "within the block":
            accelerate.hooks.remove_hook_from_module(unet)
            assert error(row(), expected) == 0
    assert evaluations.rows == (2 if removed == "within the block" else 1) * ROWS
    assert error(row(), stock) == 0
    accelerate.hooks.remove_hook_from_module(unet)
    assert error(row(), stock) == 0
    with text_until(row.pipe, K):
        assert error(row(), expected) == 0
