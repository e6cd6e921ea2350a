"""C1 to C3 and X3 to X6: on pocket in few steps, against identities and against what is written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_studies_trajectory import whole

from shapefirst.findings.finding import DoesNotApply
from shapefirst.measure.scores import alignments_for
from shapefirst.models import load
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Pair, Prompt
from shapefirst.sampling.loop import Embeddings, denoise, encode, generators
from shapefirst.studies import (
    c1_equal_snr,
    c2_padding,
    c3_sos_masked,
    x3_windows,
    x4_lock_in,
    x5_negative,
    x6_difference,
)
from shapefirst.studies.subject import Meter, Subject
from shapefirst.training.noise import coloured, filter_like

pytestmark = pytest.mark.usefixtures("few_will_do", "sketched")

N, W = 5, 4.0
PROMPTS = [
    Prompt.of(("red", "mushroom"), "colour"),
    Prompt.of(("blue", "rabbit"), "colour"),
    Prompt.of(("glass", "hat"), "texture"),
    Prompt.of(("wooden", "house"), "texture"),
]
PAIRS = [Pair(PROMPTS[i], PROMPTS[(i + 1) % len(PROMPTS)]) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def pocket():
    pipe = load("pocket", sampler="ddim")
    pipe.set_progress_bar_config(disable=True)
    return Subject("pocket", pipe, alignments_for("pocket"), seed=3, steps=N, guidance_scale=W)


def column(finding, name, **where):
    rows = zip(*(finding.table[key] for key in where), strict=True)
    kept = [i for i, row in enumerate(rows) if row == tuple(where.values())]
    return np.array([finding.table[name][i] for i in kept])


def test_a_model_is_no_cause_of_a_difference_to_itself(pocket):
    """C1 and C2 with the model as its own control."""
    beside = replace(pocket, control=pocket)
    found = c1_equal_snr.STUDY.run(beside, PROMPTS[:2])
    whole(found)
    *_, shape, text, as_good = (claim.found.estimate for claim in found.claims)
    assert (shape, text, as_good) == (0, 0, 0)
    assert np.array_equal(column(found, "lead", model="model"), column(found, "lead", model="control"))
    found = c2_padding.STUDY.run(beside, PAIRS[:2])
    whole(found)
    assert found.claims[0].found.estimate == 0
    ratios = [claim.found.estimate for claim in found.claims[1:]]
    assert ratios[0] == ratios[1]
    for study, items in ((c1_equal_snr, PROMPTS), (c2_padding, PAIRS)):
        with pytest.raises(DoesNotApply, match="--control"):
            study.STUDY.run(pocket, items)


def test_a_model_of_other_noise_starts_from_it(pocket):
    h = filter_like(torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(-1))
    subject = replace(pocket, colour=h)
    first, *_ = subject.steps_of(encode(pocket.pipe, ["a red mushroom"]), [7])
    white = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(first.x_t[0], coloured(white[None], h)[0])


def test_a_masked_token_is_one_that_attention_does_not_see(pocket):
    """Leaving a token out is a mask of minus infinity on its column."""
    found = c3_sos_masked.STUDY.run(pocket, PROMPTS)
    whole(found)
    assert (column(found, "l1", condition="untouched") == 0).all()
    assert (column(found, "l1", condition="[SOS] masked") > 0).all()
    embeddings = encode(pocket.pipe, ["a red mushroom"])
    short = c3_sos_masked._only(embeddings, range(1, 77))
    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    mask = torch.ones(1, 77, dtype=torch.bool)
    mask[:, 0] = False
    with torch.no_grad():
        masked = pocket.pipe.unet(x, t, embeddings.text, encoder_attention_mask=mask).sample
        left_out = pocket.pipe.unet(x, t, short.text).sample
    torch.testing.assert_close(masked, left_out, atol=1e-4, rtol=1e-4)


def test_windows_are_guided_where_they_say(pocket):
    prompts = PROMPTS[:2]
    found = x3_windows.STUDY.run(pocket, prompts)
    whole(found)
    primary = pocket.alignments[pocket.primary]
    embeddings, seeds = pocket.encode(prompts), pocket.seeds(len(prompts))
    full = primary.score(pocket.sample(embeddings, seeds), prompts)
    assert np.allclose(column(found, "alignment", start=0, stop=N, weight="constant"), full, atol=1e-3)
    none = primary.score(replace(pocket, guidance_scale=1.0).sample(embeddings, seeds), prompts)
    assert np.allclose(column(found, "alignment", start=0, stop=0, weight="constant"), none, atol=1e-3)
    schedule = TextSchedule.window(1, 3, keep="text")
    alone = primary.score(pocket.sample(embeddings, seeds, schedule=schedule), prompts)
    assert np.allclose(column(found, "alignment", start=1, stop=3, weight="constant"), alone, atol=1e-3)


def test_what_windows_have_in_common_is_computed_once(pocket):
    subject = replace(pocket, meter=Meter())
    found = x3_windows.STUDY.run(subject, PROMPTS[:2])
    assert subject.meter.done == subject.meter.expected == found.evaluations * 2
    assert found.evaluations < found.evaluations_apart


def test_windows_say_at_once_what_they_need(pocket, monkeypatch):
    monkeypatch.setattr(x3_windows, "PAINTING", ("no_such_package",))
    with pytest.raises(DoesNotApply, match=r"painted by packages that are missing: pip install"):
        x3_windows.STUDY.run(pocket, PROMPTS)
    with pytest.raises(DoesNotApply, match="which only pocket's world has"):
        x3_windows.STUDY.run(replace(pocket, name="sd15"), PROMPTS)


def test_weights_by_step_are_those_of_each_step(pocket):
    """The same weight in all steps is that weight; another in one step changes that step and those behind it."""
    options = {"num_inference_steps": N, "generator": generators([1])}
    stock = list(denoise(pocket.pipe, "a red mushroom", guidance_scale=W, **options))
    options["generator"] = generators([1])
    same = list(denoise(pocket.pipe, "a red mushroom", guidance_scale=[W] * N, **options))
    assert torch.equal(stock[-1].x_next, same[-1].x_next)
    options["generator"] = generators([1])
    other = list(denoise(pocket.pipe, "a red mushroom", guidance_scale=[W, W, 2.0, W, W], **options))
    assert torch.equal(stock[2].x_t, other[2].x_t)
    step = other[2]
    torch.testing.assert_close(step.eps, step.eps_null + 2.0 * (step.eps_text - step.eps_null))


def test_from_the_first_step_on_the_other_prompt_is_drawn(pocket):
    found = x4_lock_in.STUDY.run(pocket, PROMPTS)
    whole(found)
    exchange = next(one for one in x4_lock_in._exchanges(PROMPTS) if one.aspect == x4_lock_in.COLOUR)
    assert [one.text for one in exchange.b] == ["a blue mushroom", "a red rabbit"]
    name, wins, images = x4_lock_in._follow(pocket, exchange, [0, 2])
    own = pocket.sample(pocket.encode(exchange.b), pocket.seeds(2))
    for forked, image in zip(images[0], own, strict=True):
        assert np.abs(np.asarray(forked, int) - np.asarray(image, int)).max() <= 1
    assert (name, wins.shape) == ("judge-attribute", (2, 2))
    with pytest.raises(DoesNotApply, match="exchange"):
        x4_lock_in.STUDY.run(pocket, [Prompt("something"), Prompt("nothing")])


def test_an_aspect_is_compared_with_the_noun_of_the_same_prompt():
    red, blue, plain = Prompt("a red car", (("red", "car"),)), Prompt("a blue cup", (("blue", "cup"),)), Prompt("a bed")
    exchanges = [
        x4_lock_in._Exchange(x4_lock_in.NOUN, [red, blue], [], [red, blue]),
        x4_lock_in._Exchange(x4_lock_in.COLOUR, [blue, red], [], [blue, red]),
        x4_lock_in._Exchange(x4_lock_in.TEXTURE, [plain], [], [plain]),
        x4_lock_in._Exchange(x4_lock_in.PLACE, [Prompt("a blue cup above a red car")], [], [blue]),
    ]
    times = {"noun": np.array([0.2, 0.5]), "colour": np.array([0.6, 0.9]), "texture": np.array([1.0])}
    later = x4_lock_in._later_than_noun(times | {"place": np.array([0.1])}, exchanges)
    assert {aspect: values.round(9).tolist() for aspect, values in later.items()} == {
        "colour": [0.1, 0.7],
        "place": [-0.4],
    }


def test_how_late_a_change_may_come_is_the_area_below_its_curve():
    grid, steps = [1, 2, 3, 4, 6, 8], 10
    wins = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], float)
    assert np.allclose(x4_lock_in._areas(wins, grid, steps), [0.5, 0.9, 0.0, 0.15])
    wins = np.array([[0.9, 0.8, 0.7, 0.6, 0.4, 0.2]])
    assert np.allclose(x4_lock_in._areas(wins, grid, steps), 0.5 - 0.1 * 0.1 / 2), "a line, flat before the first step"


def test_a_negative_prompt_in_all_steps_is_the_pipeline_s_own(pocket):
    found = x5_negative.STUDY.run(pocket, PAIRS)
    whole(found)
    assert (column(found, "l1", negative="no negative") == 0).all()
    asked = [f"{pair.source.text} and {pair.target.text}" for pair in PAIRS]
    own = encode(pocket.pipe, asked, [pair.target.text for pair in PAIRS])
    images = pocket.sample(own, pocket.seeds(len(PAIRS)))
    plain = pocket.sample(encode(pocket.pipe, asked), pocket.seeds(len(PAIRS)))
    moved = [
        np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() / 255 for a, b in zip(images, plain, strict=True)
    ]
    assert np.allclose(column(found, "l1", negative="all steps"), moved, atol=1e-3)


def test_the_bands_of_the_difference_are_all_of_it(pocket):
    found = x6_difference.STUDY.run(pocket, PROMPTS)
    whole(found)
    embeddings: Embeddings = pocket.encode(PROMPTS[:1])
    for step in pocket.steps_of(embeddings, pocket.seeds(1)):
        energy = column(found, "energy", prompt=PROMPTS[0].text, step=step.index).sum()
        expected = float((step.eps_text - step.eps_null).double().square().sum())
        assert energy == pytest.approx(expected, rel=1e-3)
