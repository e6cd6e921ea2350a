"""`shapefirst.apply`: a policy on a pipeline without a `with` block."""

import gc

import pytest
import torch

import shapefirst
from shapefirst.guidance.steering import SteeringHook


@pytest.fixture
def pipe(make_pipe):
    return make_pipe()


def images(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=8, output_type="np", generator=generator).images


def test_a_policy_is_followed_until_it_is_removed(pipe):
    stock = images(pipe)
    with shapefirst.guide(pipe, budget=0.7):
        guided = images(pipe)
    assert (guided != stock).any()
    handle = shapefirst.apply(pipe, budget=0.7)
    assert (images(pipe) == guided).all()
    assert handle.evaluations.asked == 16
    assert handle.evaluations.rows <= 0.7 * 16
    handle.remove()
    assert (images(pipe) == stock).all()
    handle.remove()


def test_a_policy_is_followed_though_nobody_keeps_its_handle(pipe):
    shapefirst.apply(pipe, "paper:0")
    gc.collect()
    hook = SteeringHook.on(pipe.unet)
    assert hook is not None
    (block,) = hook.blocks
    images(pipe)
    assert block.evaluations.rows == 8
    hook.leave(block)


def test_what_it_takes_is_what_guide_takes(pipe):
    with pytest.raises(shapefirst.ShapefirstError, match="Give one of a policy"):
        shapefirst.apply(pipe)
    assert SteeringHook.on(pipe.unet) is None
