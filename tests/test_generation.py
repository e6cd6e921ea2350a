"""Images of prompts: what they cost is counted, and a seed gives the same image in any company."""

import math

import numpy as np
import pytest

from shapefirst.errors import ShapefirstError
from shapefirst.images.comparison import Comparison
from shapefirst.images.jobs import Job, Sampling, cut_text, generate, make_jobs
from shapefirst.policies.schedule import TextSchedule

FULL, HALF = TextSchedule.always(), TextSchedule.until(2)
FOUR_STEPS = Sampling(guidance_scale=5.0, steps=4)


def pixels(result):
    return np.asarray(result.image).astype(int)


def test_every_prompt_gets_the_same_seeds():
    assert make_jobs(["a", "b"], num_images=2, seed=7) == [Job("a", 7), Job("a", 8), Job("b", 7), Job("b", 8)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], 1, 0), "no prompt"),
        ((["a", "  "], 1, 0), "Prompt 2 is empty"),
        ((["a"], 0, 0), "number of images"),
        ((["a"], 1, -1), "seed"),
        ((["a"], 1, 2**63), "seed"),
    ],
)
def test_a_plan_of_nothing_is_refused(arguments, sentence):
    with pytest.raises(ShapefirstError, match=sentence):
        make_jobs(*arguments)


@pytest.mark.parametrize("scale", [-1, math.nan, math.inf])
def test_a_guidance_scale_is_finite_and_not_negative(scale):
    with pytest.raises(ShapefirstError, match=r"guidance.scale"):
        Sampling(scale)


def test_no_steps_are_refused():
    with pytest.raises(ShapefirstError, match="at least 1"):
        Sampling(5.0, steps=0)


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_a_step_with_text_costs_two_evaluations_and_one_without_costs_one(make_pipe, kind):
    jobs = make_jobs(["a cat", "a dog", "a car"], num_images=1, seed=0)
    results = generate(make_pipe(kind), jobs, {"full": FULL, "half": HALF}, FOUR_STEPS, batch_size=2)
    assert [r.evaluations for r in results["full"]] == [8, 8, 8]
    assert [r.evaluations for r in results["half"]] == [6, 6, 6]
    assert [r.prompt for r in results["half"]] == ["a cat", "a dog", "a car"]
    assert all(r.seconds > 0 for rows in results.values() for r in rows)


def test_a_seed_gives_the_same_image_in_any_batch(make_pipe):
    jobs = make_jobs(["a cat", "a dog"], num_images=2, seed=3)
    together = generate(make_pipe(), jobs, {"": HALF}, FOUR_STEPS, batch_size=4)[""]
    alone = [generate(make_pipe(), [job], {"": HALF}, FOUR_STEPS)[""][0] for job in jobs]
    for a, b in zip(together, alone, strict=True):
        assert abs(pixels(a) - pixels(b)).max() <= 1
    assert abs(pixels(together[0]) - pixels(together[1])).max() > 1


def test_the_images_are_the_pipelines_own(make_pipe):
    from shapefirst.sampling.loop import generators

    pipe = make_pipe()
    mine = generate(pipe, [Job("a cat", 5)], {"": FULL}, Sampling(5.0, 4, negative_prompt="a dog"))[""][0]
    stock = pipe(
        ["a cat"], negative_prompt=["a dog"], generator=generators([5]), num_inference_steps=4, guidance_scale=5.0
    )
    assert (pixels(mine) == np.asarray(stock.images[0])).all()


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_progress_is_told_in_images_and_never_goes_back(make_pipe, kind):
    told = []
    jobs = make_jobs(["a cat", "a dog", "a car"], num_images=1, seed=0)
    generate(make_pipe(kind), jobs, {"full": FULL, "half": HALF}, FOUR_STEPS, batch_size=2, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 6
    assert len(told) > 12  # within the calls, too


def test_what_does_not_fit_into_the_text_encoder_is_known(make_pipe):
    for kind in ("sd-epsilon", "pixart"):
        assert cut_text(make_pipe(kind), "a red cat") == ""
        assert "z" in cut_text(make_pipe(kind), "a" * 200 + " z")


def test_a_comparison_measures_against_the_fully_guided_images(make_pipe):
    jobs = make_jobs(["a cat", "a dog"], num_images=1, seed=0)
    results = generate(make_pipe(), jobs, {"full": FULL, "half": HALF}, FOUR_STEPS)
    full = Comparison("full", results["full"], results["full"])
    half = Comparison("half", results["half"], results["full"])
    assert full.is_reference
    assert full.mean_l1 == 0
    assert full.mean_psnr == math.inf
    assert not half.is_reference
    assert half.evaluations_saved == 0.25
    assert 0 < half.mean_l1 < 1
    assert half.mean_l1 == pytest.approx(
        np.mean(
            [abs(pixels(a) - pixels(b)).mean() / 255 for a, b in zip(results["half"], results["full"], strict=True)]
        )
    )
