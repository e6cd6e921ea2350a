"""Where a policy has nothing to hold on to: short turns of a denoiser, calls without guidance, pipelines that ask."""

from __future__ import annotations

import warnings

import diffusers
import modular
import pytest
from conftest import BETAS
from laws import own
from test_guidance import generate

from shapefirst import Guider
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.callback import text_until_callback

NO_BRANCH = "without classifier-free guidance, at least in some steps, so there is no branch to drop"


@pytest.mark.parametrize(("boundary", "name", "steps"), [(0.9, "transformer", 1), (0.3, "transformer_2", 3)])
def test_a_budget_that_a_short_turn_cannot_hold_is_refused_before_anything_runs(boundary, name, steps):
    row = own("WanPipeline with two transformers")
    row.pipe.register_to_config(boundary_ratio=boundary)
    said = rf"^The {name} of this WanPipeline has its turn in {steps} of 10 steps, and there .*: take every:2"
    with guide(row.pipe, budget=0.8) as evaluations, pytest.raises(ShapefirstError, match=said):
        row(num_inference_steps=10)
    assert evaluations.asked == evaluations.calls == 0
    with guide(row.pipe, "every:2") as evaluations:
        row(num_inference_steps=10)
    assert 0 < evaluations.calls < evaluations.asked_calls


def test_a_callback_that_has_nothing_to_drop_says_so_once(make_pipe):
    pipe = make_pipe()
    callback = text_until_callback(pipe, 2)
    with pytest.warns(
        UserWarning, match=rf"StableDiffusionPipeline runs {NO_BRANCH} in them: .*guide\(pipe, budget=0.6"
    ):
        unguided = generate(pipe, guidance_scale=1.0, callback_on_step_end=callback)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(pipe, guidance_scale=1.0, callback_on_step_end=callback)
        generate(pipe, callback_on_step_end=text_until_callback(pipe, 2))
        assert (unguided == generate(pipe, guidance_scale=1.0)).all()


@pytest.mark.parametrize(("words", "says"), [("paper:3", True), ("full", False), ("every:2", False)])
def test_a_guider_that_has_nothing_to_drop_says_so_once(make_pipe, words, says):
    tiny = modular.stable_diffusion_3(make_pipe)
    guider = Guider(words, guidance_scale=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            tiny(guider)
    assert [NO_BRANCH in str(warning.message) for warning in caught if "guidance" in str(warning.message)] == [
        True
    ] * says


def test_a_modular_pipeline_is_told_of_the_guider():
    pipe = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(scheduler=diffusers.DDIMScheduler(**BETAS))
    with pytest.raises(UnsupportedPipelineError, match=r"update_components\(guider=Guider\("):
        guide(pipe, "paper:2")
