"""diffusers' own caches skip parts of an evaluation, and a policy whole ones: both work together.

Where a policy drops a branch instead, they cannot follow, and it is said before anything runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import naive
import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from laws import K, check_counts, own
from test_matrix import GUIDED, _small_layers, counted, denoisers, error  # noqa: F401
from tiny import STEPS, Tiny

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.noise import levels
from shapefirst.guidance.blocks import guide, text_until

EVERYWHERE = (-1, 1001)


def first_block(pipe: Any) -> Any:
    return FirstBlockCacheConfig(threshold=5.0)


def magnitude(pipe: Any) -> Any:
    return MagCacheConfig(num_inference_steps=STEPS, mag_ratios=torch.full((STEPS,), 0.99))


def pyramid(pipe: Any) -> Any:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=EVERYWHERE,
        current_timestep_callback=lambda: int(pipe._current_timestep),
    )


def faster(pipe: Any) -> Any:
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=EVERYWHERE,
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=EVERYWHERE,
        attention_weight_callback=lambda _: 0.5,
        tensor_format="BFCHW",
        current_timestep_callback=lambda: int(pipe._current_timestep),
    )


def taylor(pipe: Any) -> Any:
    return TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, max_order=1)


@contextmanager
def skipped(row: Tiny) -> Iterator[None]:
    """Within the block, one generation's other calls never reach the denoiser: a line stands for what they give."""
    (denoiser,) = denoisers(row)
    inner, calls = denoiser.forward, 0
    known: dict[int, dict[float, Any]] = defaultdict(dict)

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        step, place = divmod(calls, row.calls)
        calls += 1
        u = levels(row.pipe.scheduler, row.pipe.scheduler.timesteps.tolist())[step]
        if step in GUIDED:
            known[place][u] = inner(*args, **kwargs)
            return known[place][u]
        last = list(known[place])[-2:]
        return (naive.polynomial(last, [known[place][at][0] for at in last], u),)

    with pytest.MonkeyPatch.context() as patch, naive.uncorrected(row.pipe.scheduler):
        patch.setitem(vars(denoiser), "forward", forward)
        yield


@pytest.mark.filterwarnings("ignore:FasterCache is a purely experimental feature")
@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("FluxPipeline", taylor),
        ("FluxPipeline with true CFG", magnitude),
        ("LTXPipeline", first_block),
        ("LTXPipeline", pyramid),
        ("CogVideoXPipeline", pyramid),
        ("CogVideoXPipeline", faster),
        ("WanPipeline", magnitude),
    ],
)
def test_whole_calls_are_skipped_beside_a_cache(name, cache):
    row = own(name)
    (denoiser,) = denoisers(row)
    plain = row()
    with guide(row.pipe, "steps:0+1+3"):
        uncached = row()
    denoiser.enable_cache(cache(row.pipe))
    with counted(row) as whole:
        stock = row()

    with guide(row.pipe, "full") as evaluations:
        assert error(row(), stock) == 0
    check_counts(evaluations, whole)
    with guide(row.pipe, "steps:0+1+3") as evaluations, counted(row) as seen:
        made = row()
    check_counts(evaluations, seen)
    assert seen["calls"] == len(GUIDED) * row.calls
    with skipped(row):
        assert error(made, row()) < 1e-4
    assert error(made, stock) > 1e-4
    assert max(error(made, uncached), error(stock, plain)) > 0  # the cache is at work
    with guide(row.pipe, "budget:0.84") as evaluations, counted(row) as seen:
        row()
    check_counts(evaluations, seen)
    assert seen["calls"] == 5 * row.calls
    assert error(row(), stock) == 0
    denoiser.disable_cache()
    assert error(row(), plain) == 0


@pytest.mark.parametrize(
    ("name", "policies"),
    [
        ("LTXPipeline", ("paper:3", "text:3", "every:2,keep=null", "tol:0.05")),  # each image decides for itself
        ("FluxPipeline with true CFG", ("paper:3", "text:3", "every:2,keep=text")),
    ],
)
def test_a_dropped_branch_is_refused_before_anything_runs(name, policies):
    row = own(name)
    (denoiser,) = denoisers(row)
    with text_until(row.pipe, K):
        expected = row()
    before = [guide(row.pipe, policy) for policy in policies]
    denoiser.enable_cache(first_block(row.pipe))
    with counted(row) as seen:
        for policy, block in zip(policies, before, strict=True):
            with pytest.raises(UnsupportedPipelineError, match=r"A cache of diffusers \(FBC.* disable_cache\(\)"):
                guide(row.pipe, policy)
            with block, pytest.raises(UnsupportedPipelineError, match=r"A cache of diffusers \(FBC.*budget=0.6"):
                row()
    assert not seen
    denoiser.disable_cache()
    with text_until(row.pipe, K):
        assert error(row(), expected) == 0
