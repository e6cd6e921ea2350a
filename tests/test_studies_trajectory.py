"""The studies of trajectories and cost: planted spectra, naive counts, and forks that are the runs they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import naive
import numpy as np
import pytest
import torch
from conftest import KINDS
from PIL import Image

from shapefirst.findings.finding import DoesNotApply, Finding
from shapefirst.guidance.blocks import text_until
from shapefirst.images.jobs import Job, Sampling, generate
from shapefirst.measure import distances, l1
from shapefirst.measure.frechet import frechet_distance
from shapefirst.measure.intervals import bootstrap, settled
from shapefirst.measure.spectrum import radial_bands, split
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import decode, denoise, encode, generators
from shapefirst.studies import dropping, f2_frequencies, f6_text_dropped, f7_savings, x2_policies
from shapefirst.studies.bands import add_noise, correlations, two_bands, without_mean
from shapefirst.studies.subject import Fork, Subject

pytestmark = pytest.mark.usefixtures("few_will_do")

N, W = 4, 5.0
PROMPTS = [
    Prompt.of(("red", "cat"), "colour"),
    Prompt.of(("blue", "dog"), "colour"),
    Prompt.of(("glass", "hat"), "texture"),
]


class Brightness:
    """Stands for an alignment, an image-CLIP similarity and a feature extractor."""

    title, unit = "brightness", "grey level"

    def score(self, images: Sequence[Image.Image], others: Sequence[object]) -> np.ndarray:
        assert len(images) == len(others)
        return np.array([np.asarray(image).mean() for image in images])


def features(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.resize((2, 2)), float).flatten() for image in images]) / 255


@pytest.fixture
def make_subject(make_pipe, monkeypatch, request):
    """make_subject(kind, sampler, ...): a tiny pipeline under study, scored by brightness, with charts of U-Nets."""
    monkeypatch.setattr(dropping, "similarity_of", lambda subject: Brightness())
    monkeypatch.setattr(dropping, "features_of", lambda subject: ("means of quarters", features))

    def make(kind: str = "sd-epsilon", sampler: str = "ddim", **options) -> Subject:
        if kind == "pixart":
            request.getfixturevalue("sketched")
        options = {"steps": N, "guidance_scale": W, "batch_size": 2, "seed": 11, **options}
        return Subject("tiny", make_pipe(kind, sampler), {"brightness": Brightness()}, sampler=sampler, **options)

    return make


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(found: Finding) -> None:
    """What a report relies on, whatever the study."""
    assert len({len(values) for values in found.table.values()}) == 1
    assert all(row and len(row) == len(s.columns) for s in found.summaries for row in s.rows)
    assert all(chart.svg.startswith("<svg") and "n = " in chart.caption for chart in found.charts)
    assert all("nan" not in chart.alt for chart in found.charts)


# --- F2: bands ------------------------------------------------------------------------------------------------------

ABAR = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)


def test_white_latents_have_no_early_low_band():
    found = add_noise(white(12, 4, 16, 16), ABAR, two_bands(16, 16), range(12))
    low, high = (settled(found.measured[..., b], 1.0) for b in (0, 1))
    assert bootstrap(high - low).low < 1  # of 21 steps
    assert np.allclose(found.energy / found.count, 1, atol=0.6)
    assert found.noised.mean((0, 1)) / found.count == pytest.approx(1, abs=0.1)
    assert found.decades.mean() < 0.1


def test_low_latents_outlast_the_noise_and_the_closed_form_says_when():
    x_0 = split(white(6, 4, 16, 16), 2)[0] * 5 + white(6, 4, 16, 16, seed=1) * 0.3
    found = add_noise(x_0, ABAR, two_bands(16, 16), range(6))
    low, high = (settled(found.measured[..., b], 1.0) for b in (0, 1))
    assert (high - low > 5).all()
    # SNR 1 at abar / (1 - abar) = n / E
    for b, steps in enumerate((low, high)):
        crossing = 1 / (1 + found.energy[:, b] / found.count[b])
        assert np.abs(steps - np.searchsorted(ABAR.numpy(), crossing)).max() <= 1
    assert found.decades.max() < 0.1
    assert np.abs(found.noised / found.expected - 1).mean() < 0.15


def test_a_band_without_signal_is_left_out_of_the_comparison():
    # One cosine: the high band holds nothing at all, and its SNR is 0 by measure and by closed form.
    wave = torch.cos(2 * math.pi * torch.arange(16) / 16).expand(1, 1, 16, 16)
    found = add_noise(wave, ABAR, two_bands(16, 16), [0])
    assert found.energy[0, 0] == pytest.approx(128, rel=1e-5)
    assert found.energy[0, 1] == pytest.approx(0, abs=1e-6)
    assert settled(found.measured[..., 1], 1.0) == [21]
    assert np.isfinite(found.decades).all()


def test_noise_is_of_the_seed_and_not_of_the_batch():
    x_0 = white(3, 4, 8, 8)
    many, one = add_noise(x_0, ABAR, two_bands(8, 8), [5, 6, 7]), add_noise(x_0[1:2], ABAR, two_bands(8, 8), [6])
    assert np.allclose(many.measured[1:2], one.measured)
    assert not np.allclose(many.measured[0], many.measured[1])


def test_correlations_are_those_of_the_filtered_pictures():
    x, y = white(2, 4, 16, 16), white(2, 4, 16, 16, seed=1)
    y = y + x
    found = correlations(x, y, without_mean(two_bands(16, 16)))
    for b, (p, q) in enumerate(zip(split(x, 2), split(y, 2), strict=True), start=1):
        p, q = (z - z.mean((-2, -1), keepdim=True) for z in (p, q))
        for i in range(2):
            assert found[i, b] == pytest.approx(float(np.corrcoef(p[i].flatten(), q[i].flatten())[0, 1]), abs=1e-4)
    assert correlations(x, -3 * x, radial_bands(16, 16)) == pytest.approx(-torch.ones(2, 12).double())


def test_settled():
    values = np.array([[0.2, 0.95, 0.5, 0.9, 0.99], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0.1], [np.nan, 1, 1, 1, 1]])
    assert settled(values, 0.9).tolist() == [3, 0, 5, 1]


@pytest.mark.parametrize(("kind", "sampler"), [("sd-epsilon", "ddim"), ("pixart", "dpm-solver")])
def test_f2_runs_on_any_model(make_subject, kind, sampler):
    subject = make_subject(kind, sampler)
    found = f2_frequencies.STUDY.run(subject, PROMPTS)
    whole(found)
    assert subject.meter.done == subject.meter.expected == found.evaluations * len(PROMPTS) == 2 * N * len(PROMPTS)
    assert len(found.table["prompt"]) == 2 * len(PROMPTS) * N * 2
    assert [claim.found.n for claim in found.claims] == [len(PROMPTS)] * 3
    # Two rows of frequencies for each prompt
    assert found.pictures[0].image.height > 6 * 112


@pytest.mark.usefixtures("sketched")
def test_f2_measures_the_run_itself(make_subject):
    """Correlation and energies of step 2 of the second prompt, from the sampling loop by itself."""
    subject = make_subject(sampler="euler")
    table = f2_frequencies.STUDY.run(subject, PROMPTS).table
    steps = list(
        denoise(subject.pipe, PROMPTS[1].text, num_inference_steps=N, guidance_scale=W, generator=generators([12]))
    )
    low, final = split(steps[2].x0, 1)[0], split(steps[-1].x_next, 1)[0]
    low, final = (z - z.mean((-2, -1), keepdim=True) for z in (low, final))
    at = [
        i
        for i, row in enumerate(zip(table["seed"], table["space"], table["step"], table["band"], strict=True))
        if row == (12, "latents", 2, "low")
    ]
    assert len(at) == 1
    assert table["correlation_x0"][at[0]] == pytest.approx(
        float(np.corrcoef(low.flatten(), final.flatten())[0, 1]), abs=1e-3
    )
    assert table["energy_clean"][at[0]] == pytest.approx(float(split(steps[-1].x_next, 1)[0].square().sum()), rel=1e-3)


# --- F6 and F7: forks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "keep"), list(zip(KINDS, ["null", "text", "null"], strict=True)))
def test_a_fork_is_the_run_with_less_text(make_subject, kind, keep):
    """Leaving the trunk at k with null or text kept gives what ``text_until`` gives by itself."""
    from shapefirst.policies.schedule import TextSchedule

    subject = make_subject(kind)
    texts, seeds = [p.text for p in PROMPTS], [11, 12, 13]
    way = {keep: lambda k: Fork(schedule=TextSchedule.until(k, keep=keep))}
    trunk, forked = subject.fork(subject.encode(PROMPTS), seeds, range(N), way)
    for k in range(N):
        with text_until(subject.pipe, step=k, keep=keep):
            options = {"use_resolution_binning": False, "clean_caption": False} if kind == "pixart" else {}
            images = subject.pipe(
                texts, num_inference_steps=N, guidance_scale=W, generator=generators(seeds), output_type="np", **options
            ).images
        apart = np.abs(np.stack([np.asarray(i) for i in forked[keep, k]]) / 255 - images)
        assert apart.max() < 1e-4 + 0.5 / 255 + 1e-6  # the fork's images are rounded to 8 bits
    *_, last = denoise(
        subject.pipe, encode(subject.pipe, texts), num_inference_steps=N, guidance_scale=W, generator=generators(seeds)
    )
    assert [
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1
        for a, b in zip(trunk, decode(subject.pipe, last.x_next), strict=True)
    ] == [True] * 3


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("module", [f6_text_dropped, x2_policies])
def test_heun_is_counted_by_its_calls(make_subject, module):
    subject = make_subject(sampler="heun", steps=10)
    found = module.STUDY.run(subject, PROMPTS[:2])
    assert subject.meter.done == subject.meter.expected == found.evaluations * 2
    if module is f6_text_dropped:  # the trunk of 19 calls, and each branch from its step k on
        assert found.evaluations == 2 * 19 + 2 * sum(2 * (10 - k) - 1 for k in range(10))


def test_f6(make_subject):
    subject = make_subject(steps=10)
    found = f6_text_dropped.STUDY.run(subject, PROMPTS)
    whole(found)
    # Naively: every run of k guided steps takes N + k, and the trunk 2N.
    apart = 2 * sum(10 + k for k in range(10)) + 20
    assert found.evaluations_apart == apart == 310
    assert found.evaluations == 20 + 2 * sum(10 - k for k in range(10)) == 130
    assert found.evaluations <= apart / 2
    assert subject.meter.done == subject.meter.expected == 130 * len(PROMPTS)

    table = {name: np.array(values, dtype=object) for name, values in found.table.items()}
    at_end = table["text_steps"] == 10
    assert at_end.sum() == 2 * len(PROMPTS)
    assert set(table["l1"][at_end]) == {0.0}
    assert set(table["psnr"][at_end]) == {None}
    assert (table["l1"][~at_end] > 0).all()
    late = [table["l1"][(table["text_steps"] == k) & (table["keep"] == "null")].mean() for k in (5, 0)]
    assert found.claims[0].found.estimate == pytest.approx(late[0] / late[1])
    push = table["push_to_come"][(table["seed"] == 11) & (table["keep"] == "null")][
        np.argsort(table["text_steps"][(table["seed"] == 11) & (table["keep"] == "null")])
    ]
    assert push[0] == 1
    assert push[-1] == 0
    assert (np.diff(push.astype(float)) < 0).all()


def test_f6_whole_run_is_the_trunk_bit_for_bit(make_subject):
    subject = make_subject()
    embeddings = subject.encode(PROMPTS)
    trunk, _ = subject.fork(embeddings, [11, 12, 13], [0], {"null": lambda k: Fork()})
    alone = subject.sample(embeddings, [11, 12, 13])
    assert [a.tobytes() for a in trunk] == [b.tobytes() for b in alone]
    # Leaving it without any change is the trunk, too.
    _, same = subject.fork(embeddings, [11, 12, 13], range(N), {"same": lambda k: Fork()})
    assert all(a.tobytes() == b.tobytes() for k in range(N) for a, b in zip(same["same", k], alone, strict=True))


@pytest.mark.usefixtures("sketched")
def test_f6_norms_are_those_of_the_two_branches(make_subject):
    subject = make_subject()
    table = f6_text_dropped.STUDY.run(subject, PROMPTS).table
    solver = subject.pipe.scheduler
    text, null = (naive.encode(subject.pipe, [words]) for words in (PROMPTS[0].text, ""))
    solver.set_timesteps(N)
    x, t = naive.noise([11]), solver.timesteps[0]
    with torch.no_grad():
        eps_null, eps_text = naive.predict(subject.pipe, x, t, null), naive.predict(subject.pipe, x, t, text)
    at = [i for i, row in enumerate(zip(table["seed"], table["text_steps"], strict=True)) if row == (11, 0)]
    for i in at:
        assert table["norm_null"][i] == pytest.approx(float(eps_null.norm()), rel=1e-4)
        assert table["norm_difference"][i] == pytest.approx(float((eps_text - eps_null).norm()), rel=1e-3)


def test_nothing_is_to_be_dropped_without_guidance(make_subject):
    for study in (f6_text_dropped.STUDY, f7_savings.STUDY):
        with pytest.raises(DoesNotApply, match="scale above 1"):
            study.run(make_subject(guidance_scale=1.0), PROMPTS)


@pytest.mark.parametrize(("kind", "sampler"), [("sd-epsilon", "ddim"), ("pixart", "unipc")])
def test_f7(make_subject, kind, sampler):
    subject = make_subject(kind, sampler)
    scheduler = subject.pipe.scheduler
    found = f7_savings.STUDY.run(subject, PROMPTS)
    whole(found)
    assert subject.pipe.scheduler is scheduler
    assert subject.meter.done == subject.meter.expected

    samplers = ["ddim", "dpm-solver"] if sampler == "ddim" else ["unipc", "ddim", "dpm-solver"]
    rows = found.summaries[0].rows
    assert [row[:3] for row in rows] == [
        (name, f"{k} of 4", saved)
        for name in samplers
        for k, saved in ((0, "50.0%"), (1, "37.5%"), (2, "25.0%"), (3, "12.5%"), (4, "0.0%"))
    ]
    assert [row[3] == "not timed" for row in rows] == [k in (0, 1, 3) for _ in samplers for k in range(5)]
    for row in rows:
        if row[1] == "4 of 4":
            assert row[4:6] == ("0.000", "identical")
            assert row[8] == "+0"
    assert found.claims[0].found.n == f7_savings.QUICK_ROUNDS
    assert found.evaluations == len(samplers) * (8 + 4 + 3 + 2 + 1) + 8

    table = found.table
    seconds = [
        s
        for s, k, n in zip(table["saved_seconds"], table["text_steps"], table["sampler"], strict=True)
        if k == 2 and n == sampler
    ]
    assert found.claims[0].found.estimate == pytest.approx(seconds[0])

    embeddings = subject.encode(PROMPTS)
    reference = features(subject.sample(embeddings, [14, 15, 16]))
    less = features(subject.sample(embeddings, [11, 12, 13], schedule=TextSchedule.until(2)))
    at = next(i for i, row in enumerate(zip(table["sampler"], table["text_steps"], strict=True)) if row == (sampler, 2))
    assert table["frechet"][at] == pytest.approx(frechet_distance(less, reference), rel=1e-2, abs=1e-6)


@pytest.mark.usefixtures("sketched")
def test_f7_says_nothing_by_a_distance_that_cannot_tell_images_without_text_apart(make_subject, monkeypatch):
    blind = np.random.default_rng(0).normal(size=(99, 4))
    monkeypatch.setattr(dropping, "features_of", lambda subject: ("noise", lambda images: blind[: len(images)]))
    monkeypatch.setattr(f7_savings, "frechet_ratio", lambda x: 1.0)
    _, close, control = f7_savings.STUDY.run(make_subject(), PROMPTS).claims
    assert control.verdict == "does not replicate"
    assert close.verdict == "inconclusive"
    assert close.hypothesis.startswith("The distance does not even tell")


def measured(found: Finding, way: str, evaluations: int) -> list[float]:
    """Its L1, prompt by prompt."""
    rows = zip(found.table["way"], found.table["evaluations"], found.table["l1"], strict=True)
    return [distance for name, spent, distance in rows if (name, spent) == (way, evaluations)]


def test_x2(make_subject):
    """Every way's images are those of the pipeline's own call, and cost what the table says."""
    subject = make_subject("sd-v", "dpm-solver", steps=20)
    found = x2_policies.STUDY.run(subject, PROMPTS)
    whole(found)
    ways = x2_policies.ways(20)
    assert subject.meter.done == subject.meter.expected == found.evaluations * len(PROMPTS)
    saved = [1 - way.evaluations / 40 for way in ways]
    assert all(s == pytest.approx(way.saving, abs=0.03) for s, way in zip(saved, ways, strict=True))
    assert {way.family for way in ways} == {"text dropped", "fewer steps", *x2_policies.FAMILIES[2:]}

    jobs = [Job(prompt.text, 11 + i) for i, prompt in enumerate(PROMPTS)]
    full = generate(subject.pipe, jobs, {"": TextSchedule.always()}, Sampling(W, 20))[""]
    for way in ways:
        made = generate(subject.pipe, jobs, {"": way.schedule}, Sampling(W, way.steps))[""]
        assert made[0].evaluations == way.evaluations
        expected = [l1(mine.image, theirs.image) for mine, theirs in zip(made, full, strict=True)]
        assert measured(found, way.family, way.evaluations) == pytest.approx(expected, abs=1e-3)
    ours, paper = (np.mean(measured(found, family, 24)) for family in (x2_policies.BOTH, x2_policies.PAPER))
    assert found.claims[0].found.estimate == pytest.approx(ours / paper)
    with pytest.raises(DoesNotApply, match="4 steps are too few to compare"):
        x2_policies.STUDY.run(make_subject(), PROMPTS)


# --- distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(6, 20), (30, 5), (8, 8)])
def test_the_frechet_distance_for_resampling_is_the_frechet_distance(n, d):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n, d)) * rng.uniform(0.5, 2, size=d)
    b = b + 0.3
    assert distances.frechet_of_few(a, b) == pytest.approx(frechet_distance(a, b), rel=1e-5)
    assert distances.frechet_of_few(a, a) == pytest.approx(0, abs=1e-9)
    assert f7_savings.frechet_ratio(np.stack([a, a, b], axis=1)) == pytest.approx(1)


def test_distances_to_images():
    black, grey = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), (51, 51, 51))
    found = distances.distances_of([black, grey], [black, black], Brightness())
    assert found.l1 == pytest.approx([0, 0.2])
    assert found.row(0) == {"l1": 0.0, "psnr": None, "ssim": pytest.approx(1), "similarity": 0.0}
    assert found.row(1)["psnr"] == pytest.approx(-20 * math.log10(0.2))
    assert distances.mean_psnr(found.psnr) == pytest.approx(-10 * math.log10(0.2**2 / 2))
    assert distances.mean_psnr(found.psnr[:1]) == math.inf


def test_shares_of_a_run():
    assert dropping.steps_at(f6_text_dropped.SHARES, 50) == list(range(0, 51, 5))
    assert dropping.steps_at(f6_text_dropped.SHARES, 4) == [0, 1, 2, 3, 4]
    assert f6_text_dropped.evaluations_of_forks(list(range(0, 51, 5)), 50) == (650, 1550)
