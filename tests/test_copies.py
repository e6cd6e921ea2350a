"""Within a block, pipelines are copied, stored, handed on and taken apart as ever."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from laws import K, own
from test_matrix import _small_layers, counted, denoisers, error, traces  # noqa: F401
from tiny import PIPELINES, STEPS

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import apply, guide, is_steered, text_until
from shapefirst.policies.schedule import TextSchedule

SD, WAN = "StableDiffusionPipeline", "WanPipeline"


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    ("name", "way"), [*((SD, way) for way in (copy.copy, copy.deepcopy, pickled, saved)), (WAN, copy.deepcopy)]
)
def test_copies_are_plain(name, way):
    row = own(name)
    (part,), stock = row.denoisers, row()
    plain = type(getattr(row.pipe, part))
    with text_until(row.pipe, K) as evaluations:
        expected = row()
        rows = evaluations.rows
        pipe = way(row.pipe) if way is not copy.copy else copy.copy(row.pipe)
        denoiser = way(getattr(row.pipe, part))
        assert type(denoiser).__mro__ == plain.__mro__
        other = replace(row, pipe=copy.copy(row.pipe))
        other.pipe.register_modules(**{part: denoiser})
        copies = [other] if way is copy.copy else [other, replace(row, pipe=pipe)]
        for made in copies:
            assert not is_steered(getattr(made.pipe, part))
            assert error(made(), stock) == 0
            with text_until(made.pipe, K):
                assert error(made(), expected) == 0
        assert evaluations.rows == rows
        assert error(row(), expected) == 0
    for made in (*copies, row):
        assert error(made(), stock) == 0


def test_a_pipeline_is_saved_as_the_one_that_it_is(tmp_path):
    row = own(SD)
    stock = row()
    with text_until(row.pipe, K):
        row.pipe.save_pretrained(tmp_path)
        unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    row.pipe.unet = unet
    assert error(row(), stock) == 0
    assert '"UNet2DConditionModel"' in (tmp_path / "model_index.json").read_text()


def test_another_pipeline_of_the_same_parts_follows_the_policy_by_its_own_steps():
    row, other = own(SD), PIPELINES["StableDiffusionImg2ImgPipeline"]()
    more = {"num_inference_steps": 10, "strength": 0.6}

    def from_pipe() -> Any:
        pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(row.pipe)
        pipe.set_progress_bar_config(disable=True)
        return replace(other, pipe=pipe)

    with text_until(from_pipe().pipe, 2) as evaluations:
        expected = from_pipe()(**more)
    assert (evaluations.rows, evaluations.calls) == (4 * 2 + 2 * 4, 6)
    with text_until(row.pipe, 2) as evaluations, counted(row) as seen:
        assert error(from_pipe()(**more), expected) == 0
        assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"]) == (4 * 2 + 2 * 4, 6)
        row()
    assert evaluations.rows == 16 + 4 * 2 + 2 * (STEPS - 2)


def test_another_scheduler_is_followed_within_a_block_too():
    row = own(SD)
    heun = diffusers.HeunDiscreteScheduler.from_config(row.pipe.scheduler.config)
    ddim, row.pipe.scheduler = row.pipe.scheduler, heun
    with text_until(row.pipe, K):
        expected = row()
    row.pipe.scheduler = ddim
    with text_until(row.pipe, K) as evaluations:
        row()
        assert evaluations.calls == STEPS
        row.pipe.scheduler = copy.deepcopy(heun)
        assert error(row(), expected) == 0
    assert evaluations.calls == STEPS + 2 * STEPS - 1
    assert evaluations.rows == (4 * K + 2 * (STEPS - K)) + (2 * (2 * STEPS - 1) + 2 * 2 * K)


@pytest.mark.parametrize("name", [SD, WAN])
def test_another_denoiser_is_noticed(name):
    row = own(name)
    (part,), (denoiser,) = row.denoisers, denoisers(row)
    stock, before = row(), traces(row)
    block = guide(row.pipe, "every:2")
    block.__enter__()
    row.pipe.register_modules(**{part: copy.deepcopy(denoiser)})
    assert error(row(), stock) == 0
    with pytest.raises(ShapefirstError, match=f"The {part} of this {name} was replaced while a policy was on it"):
        block.__exit__(None, None, None)
    row.pipe.register_modules(**{part: denoiser})
    assert traces(row) == before
    handle = apply(row.pipe, "every:2")
    row.pipe.register_modules(**{part: copy.deepcopy(denoiser)})
    with pytest.raises(ShapefirstError, match="put it in before"):
        handle.remove()
    handle.remove()
    row.pipe.register_modules(**{part: denoiser})
    assert traces(row) == before


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
def test_copies_of_a_pipeline_that_a_policy_says_the_steps_of_are_plain(way):
    row = own(SD)
    plain, stock = type(row.pipe), row()
    policy = replace(TextSchedule.at((0, 1, 3)), num_steps=5)
    with guide(row.pipe, policy):
        pipe = way(row.pipe)
        sister = type(row.pipe)(**row.pipe.components)
        assert type(pipe).__mro__ == plain.__mro__
        if way is not copy.copy:  # which shares the denoiser, and so follows the policy
            assert error(replace(row, pipe=pipe)(), stock) == 0
            with guide(pipe, policy) as evaluations:
                replace(row, pipe=pipe)(num_inference_steps=None)
            assert evaluations.asked_calls == 5
    for made in (pipe, sister, row.pipe):
        assert error(replace(row, pipe=made)(), stock) == 0
    assert type(row.pipe) is plain
