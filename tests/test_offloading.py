"""Pipelines that are offloaded to fit a card, with the card played by the CPU itself: they stay as offloaded as before.

accelerate wraps a module's forward, and with whole models it takes all of its hooks off and puts them on anew after
every call of a pipeline.
"""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from laws import K, check_laws, own
from test_matrix import _small_layers, counted, denoisers, error, traces  # noqa: F401
from tiny import STEPS, Tiny

from shapefirst.guidance.blocks import guide, is_steered, text_until
from shapefirst.policies.file import model_digest

CPU = torch.device("cpu")
SD, SD3, WAN = "StableDiffusionPipeline", "StableDiffusion3Pipeline", "WanPipeline"


@pytest.fixture(autouse=True)
def _a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate takes "cpu:0", which diffusers makes of it, for another place than that where the weights are."""
    offload = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", lambda model, _, **options: offload(model, CPU, **options))


def whole_models(row: Tiny) -> None:
    row.pipe.enable_model_cpu_offload(device="cpu")


def layers(row: Tiny) -> None:
    row.pipe.enable_sequential_cpu_offload(device="cpu")


def groups(row: Tiny) -> None:
    denoisers(row)[0].enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


def leaves(row: Tiny) -> None:
    denoisers(row)[0].enable_group_offload(CPU, CPU, offload_type="leaf_level")


def state(row: Tiny) -> tuple[list[Any], list[Any]]:
    """What the matrix looks for, and where the weights are and who moves them."""
    found = []
    for name, module in denoisers(row)[0].named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        hooks = [] if registry is None else sorted(registry.hooks)
        places = sorted(str(weight.device) for weight in module.parameters(recurse=False))
        found.append((name, type(getattr(module, "_hf_hook", None)), hooks, places))
    return traces(row), found


@pytest.mark.parametrize(
    ("name", "offload"),
    [*((SD, offload) for offload in (whole_models, layers, groups, leaves)), (WAN, whole_models), (WAN, groups)],
)
def test_an_offloaded_pipeline(name, offload):
    row = own(name)
    stock, alone = row(), state(row)
    offload(row)
    before = state(row)
    assert before != alone
    assert error(row(), stock) == 0
    check_laws(row)
    assert state(row) == before
    with guide(row.pipe, "every:2"):
        assert state(row) != before
        row()
    assert state(row) == before


@pytest.mark.parametrize("offload", [whole_models, layers, groups, leaves])
def test_a_tuned_policy_is_for_an_offloaded_pipeline_too(offload):
    row = own(SD)
    digest = model_digest(row.pipe)
    offload(row)
    assert model_digest(row.pipe) == digest


@pytest.mark.parametrize("offload", [whole_models, layers, groups, leaves])
def test_offloading_that_begins_at_any_moment(offload):
    row, other = own(SD3), own(SD3)
    stock = row()
    with text_until(row.pipe, K) as evaluations:
        expected = row()
    rows, calls = evaluations.rows, evaluations.calls
    offload(other)
    other()
    offloaded = state(other)

    block = text_until(row.pipe, K)
    offload(row)
    row()
    with block as evaluations, counted(row) as seen:
        for times in (1, 2, 3):
            assert error(row(), expected) == 0
            assert (evaluations.rows, evaluations.calls) == (times * rows, times * calls)
        assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
    assert error(row(), stock) == 0
    assert state(row) == offloaded

    row = own(SD3)
    row()
    with text_until(row.pipe, K) as evaluations:
        assert error(row(), expected) == 0
        offload(row)
        for _ in range(2):
            assert error(row(), expected) == 0
    assert evaluations.rows == 3 * rows
    assert error(row(), stock) == 0
    assert state(row) == offloaded


@pytest.mark.parametrize("offload", [whole_models, layers])
def test_offloading_that_ends_within_a_block(offload):
    row = own(SD)
    stock, alone = row(), state(row)
    with text_until(row.pipe, K):
        expected = row()
    offload(row)
    with text_until(row.pipe, K) as evaluations:
        assert error(row(), expected) == 0
        row.pipe.remove_all_hooks()
        assert error(row(), expected) == 0
    assert evaluations.rows == 2 * 2 * (2 * K + STEPS - K)
    assert error(row(), stock) == 0
    assert state(row)[1] == alone[1]
    assert not is_steered(row.pipe.unet)


@pytest.mark.parametrize("offload", [layers, groups, leaves])
def test_an_offloaded_denoiser_can_be_trained_afterwards(offload):
    """Its weights come and go in every call: none is left in a mode that forbids gradients."""
    row = own(SD)
    offload(row)
    with guide(row.pipe, "every:2"):
        row()
    unet = row.pipe.unet.requires_grad_()
    unet(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 5, 16)).sample.sum().backward()
