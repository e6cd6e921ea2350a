"""Rivals of ours (`benchmarks/peers`): each is the stock pipeline where it skips nothing, and skips what it says."""

from __future__ import annotations

import sys
from inspect import unwrap
from itertools import combinations
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from shapefirst import guide
from shapefirst.families.noise import noise_to_signal
from shapefirst.sampling.loop import encode, generators

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pareto
import pareto_methods
import pareto_tables
import peers
from peers import settings
from peers.forecasts import chebyshev
from peers.loop import Jump, Now, lagrange

N = 12
PROMPTS = ["a red car", "two dogs"]


def draw(call, steps=N, output_type="np"):
    seeds = generators(range(len(PROMPTS)))
    given = {"num_inference_steps": steps, "guidance_scale": 4.0, "generator": seeds, "output_type": output_type}
    return call(PROMPTS, **given).images


def evaluations(pipe, block, steps=N):
    """Of the denoiser, for each image."""
    rows = []
    with block(pipe) as call:  # which may have to find something out first
        handle = pipe.unet.conv_in.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        images = draw(call, steps)
        handle.remove()
    assert np.isfinite(images).all()
    return sum(rows) / len(PROMPTS)


NOTHING_SKIPPED = {
    "budcache": lambda pipe: peers.budcache(pipe, range(N)),
    "adaptive_diffusion": lambda pipe: peers.adaptive_diffusion(pipe, -1.0),
    "sada": lambda pipe: peers.sada(pipe, most=0),
    "easycache": lambda pipe: peers.easycache(pipe, 0.0),
    "lazycache": lambda pipe: peers.lazycache(pipe, 0.0),
    "spectrum": lambda pipe: peers.spectrum(pipe, warmup=N),
    "fsampler": lambda pipe: peers.fsampler(pipe, first=N),
    "fsampler_adaptive": lambda pipe: peers.fsampler_adaptive(pipe, -1.0),
    "ab_cache": lambda pipe: peers.ab_cache(pipe, every=1),
    "ltc_accel": lambda pipe: peers.ltc_accel(pipe, {}),
    "step_ag": lambda pipe: peers.step_ag(pipe, 1.0),
    "cfg_gating": lambda pipe: peers.cfg_gating(pipe, 6),
    "adaptive_guidance": lambda pipe: peers.adaptive_guidance(pipe, 2.0),
    "guidance_interval": lambda pipe: peers.guidance_interval(pipe, 0.0, 1e6),
    "compress_guidance": lambda pipe: peers.compress_guidance(pipe, 1.0),
    "tortoise_and_hare": lambda pipe: peers.tortoise_and_hare(pipe, range(N), end=1.0),
    "pyramid_attention_broadcast": lambda pipe: peers.pyramid_attention_broadcast(pipe, 1, 1),
}


@pytest.mark.parametrize(("kind", "sampler"), [("sd-epsilon", "dpm-solver"), ("sd-v", "euler")])
def test_skipping_nothing_is_the_stock_pipeline(make_pipe, kind, sampler):
    pipe = make_pipe(kind, sampler)
    stock = draw(pipe, 6)
    for name, block in NOTHING_SKIPPED.items():
        with block(pipe) as call:
            np.testing.assert_allclose(draw(call, 6), stock, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(draw(pipe, 6), stock, "something is left behind")


ALWAYS = 1e9  # a threshold under which everything is

SKIPPED = {
    # steps 0, 1 and 4 of both branches
    "budcache": (lambda pipe: peers.budcache(pipe, (0, 1, 4)), 2 * 3),
    # the first four, and step 9 after five in a row: there is no bound of four before
    "adaptive_diffusion": (lambda pipe: peers.adaptive_diffusion(pipe, ALWAYS), 2 * 5),
    # the first four, and 5 and 9, which are next to multiples of four
    "sada": (lambda pipe: peers.sada(pipe, interpolated=0.0), 2 * 6),
    # five for the warm-up, then the second and the third of the next two and three
    "spectrum": (lambda pipe: peers.spectrum(pipe, growth=1.0), 2 * 7),
    # all but 4 and 7: two calls, one skipped, and three at the end
    "fsampler": (lambda pipe: peers.fsampler(pipe), 2 * 10),
    # 0, 1, 2, 6 of each fourth, and three at the end
    "fsampler_adaptive": (lambda pipe: peers.fsampler_adaptive(pipe, ALWAYS), 2 * 7),
    "ab_cache": (lambda pipe: peers.ab_cache(pipe, every=3), 2 * 7),
    "ltc_accel": (lambda pipe: peers.ltc_accel(pipe, {5: 1.0, 7: 1.0}), 2 * 10),
    "step_ag": (lambda pipe: peers.step_ag(pipe, 0.5), N + 6),
    "cfg_gating": (lambda pipe: peers.cfg_gating(pipe, 4), N + 4),
    "adaptive_guidance": (lambda pipe: peers.adaptive_guidance(pipe, -1.0), N + 1),
    "compress_guidance": (lambda pipe: peers.compress_guidance(pipe, 0.5), N + 6),
    # the macro steps before 0.76 N
    "tortoise_and_hare": (lambda pipe: peers.tortoise_and_hare(pipe, (0, 1, 2, 4, 6, 9)), N + 5),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_skipped(make_pipe, name):
    block, expected = SKIPPED[name]
    assert evaluations(make_pipe("sd-epsilon", "dpm-solver"), block) == expected


def test_each_runs_where_a_step_has_two_calls(make_pipe):
    pipe = make_pipe("sd-epsilon", "heun")
    for block, _ in SKIPPED.values():
        assert evaluations(pipe, block, 5) <= 2 * 9
    assert all(peers.fit_tortoise_and_hare(pipe, PROMPTS, steps=3, guidance_scale=4.0))


def test_what_is_skipped_between_two_timesteps(make_pipe):
    pipe = make_pipe("sd-epsilon", "dpm-solver")
    pipe.scheduler.set_timesteps(N)
    within = sum(999 * 0.05 < t <= 999 * 0.85 for t in pipe.scheduler.timesteps)
    assert 5 < within < N
    assert evaluations(pipe, lambda pipe: peers.easycache(pipe, ALWAYS)) == 2 * (N - within + 2)
    assert evaluations(pipe, lambda pipe: peers.lazycache(pipe, ALWAYS)) == 2 * (N - within + 1)
    noise = [noise_to_signal(pipe.scheduler, float(t)) for t in pipe.scheduler.timesteps]
    low, high = noise[8], noise[2]
    assert evaluations(pipe, lambda pipe: peers.guidance_interval(pipe, low, high)) == N + 6


def fake(step, x, out, *, noise=1.0, next_noise=0.5, latents=None):
    """A step at which both branches give ``out()``, with x = (x0 + noise eps) / sqrt(1 + noise^2)."""
    alpha = (1 + noise**2) ** -0.5
    held = x / alpha if latents is None else latents
    at = {
        "t": 500.0,
        "alpha": alpha,
        "sigma": noise * alpha,
        "next_noise": next_noise,
        "beta": 0.01,
        "shift": 1.0,
        "scale": 1.0,
    }
    run = {"run": lambda text, null: (out(),) * 2, "solve": lambda out: out, "predicts": "eps"}
    return Now(step=step, num_steps=N, x=x, latents=held, **at, **run)


def rule(method, *args, **options):
    """A method's rule alone."""
    return unwrap(method)(*args, **options)


def test_a_change_is_guessed_from_the_inputs():
    """EasyCache adds rate |x - x'| / |y'| step by step, and evaluates where the sum passes the threshold."""
    ran = []
    output = rule(peers.easycache, 0.34, start=0.0, end=1.0)
    for step in range(8):
        x = torch.full((1, 1, 1, 1), float(step))
        y = output(fake(step, x, lambda x=x: (ran.append(int(x)), 2 * x + 4)[1]))
        if step == 2:
            assert float(y) == 2 + (6 - 1), "the input and the last difference"
    # The rate is 2 from step 1 on. Step 2: 2 / 6 = 0.33; step 3: 0.33 + 4 / 6; step 4: 2 / 10; step 5: 0.2 + 4 / 10.
    assert ran == [0, 1, 3, 5, 7]


def test_polynomials_are_foretold():
    values = torch.randn(4, 4)

    def cubic(t, order=3):
        return sum(values[k] * t**k for k in range(order + 1))

    places = [0.3, 1.0, 1.7, 4.0]
    foretold = sum(c * cubic(t) for c, t in zip(lagrange(places, 5.0), places, strict=True))
    torch.testing.assert_close(foretold, cubic(5.0), rtol=1e-4, atol=1e-3)
    assert lagrange([-2, -1], 0) == [-1, 2]
    assert lagrange([-3, -2, -1], 0) == [1, -3, 3], "the numbers of FSampler's h3 and of AB-Cache"

    x = torch.zeros(4)
    output = rule(peers.ab_cache, 3, every=7, warmup=5)
    for step in range(6):
        y = output(fake(step, x, lambda step=step: cubic(step, 2)))
    torch.testing.assert_close(y, cubic(5.0, 2), rtol=1e-4, atol=1e-3)

    for order in (2, 3, 4):
        output = rule(peers.fsampler, order, first=0, last=1)
        for step, noise in enumerate([9.0, 5.0, 4.0, 2.0, 1.5, 1.0, 0.8, 0.7, 0.5]):
            now = fake(step, x, lambda noise=noise, order=order: -cubic(noise, order - 1) / noise, noise=noise)
            y = output(now)
            torch.testing.assert_close(now.x0(y) * now.alpha, cubic(noise, order - 1) * now.alpha, rtol=1e-3, atol=1e-3)


def test_chebyshev_regression():
    steps, num_steps = [0, 1, 2, 3, 4, 6, 9], 20
    tau = 2 * np.array([*steps, 13]) / num_steps - 1
    quartic = 3 * tau**4 - tau**3 + 2 * tau - 0.5
    exact = chebyshev(steps, 13, num_steps, degree=4, ridge=0.0)
    assert np.dot(exact, quartic[:-1]) == pytest.approx(quartic[-1])
    design = np.stack([np.ones_like(tau), tau, 2 * tau**2 - 1, 4 * tau**3 - 3 * tau], axis=1)
    damped = design[-1] @ np.linalg.solve(design[:-1].T @ design[:-1] + 0.1 * np.eye(4), design[:-1].T @ quartic[:-1])
    assert np.dot(chebyshev(steps, 13, num_steps, degree=3, ridge=0.1), quartic[:-1]) == pytest.approx(damped)


def test_latents_are_moved_past_the_solver():
    output = rule(peers.ltc_accel, {1: 0.5})
    x = torch.tensor([2.0])
    output(fake(0, x, lambda: x, latents=torch.tensor([1.0])))
    jump = output(fake(1, x, lambda: x, latents=torch.tensor([3.0])))
    assert isinstance(jump, Jump)
    assert float(jump.latents) == 3 + 0.5 * 2


@torch.no_grad()
def two_latents(pipe, macro, boost, end):
    """Tortoise and Hare as its paper has it: DDIM of eps_text, and jumps of the guidance from each macro step."""
    known, scheduler = encode(pipe, PROMPTS), pipe.scheduler
    scheduler.set_timesteps(N)
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]

    def ddim(x, eps, i, j):
        x0 = (x - (1 - abar[i]) ** 0.5 * eps) / abar[i] ** 0.5
        return abar[j] ** 0.5 * x0 + (1 - abar[j]) ** 0.5 * eps

    x = torch.cat([torch.randn(1, 4, 8, 8, generator=seed) for seed in generators(range(len(PROMPTS)))])
    hare = {0: torch.zeros_like(x)}
    for i, t in enumerate(scheduler.timesteps):
        text, null = (pipe.unet(x + hare[i], t, branch, return_dict=False)[0] for branch in (known.text, known.null))
        if i in macro:
            apart = 3.0 * (text - null) * (i < end)
            for j in range(i + 1, min([k for k in macro if k > i], default=N) + 1):
                hare[j] = ddim(hare[i], apart, i, j)
                apart = apart * boost
        x = ddim(x, text, i, i + 1)
    return x + hare[N]


def test_the_hare_jumps(make_pipe):
    pipe, macro = make_pipe("sd-epsilon", "ddim"), (0, 1, 3, 6, 9)
    with peers.tortoise_and_hare(pipe, macro, 0.75, 1.2) as call:
        torch.testing.assert_close(
            draw(call, output_type="latent"), two_latents(pipe, macro, 1.2, 9), rtol=0, atol=1e-4
        )


def test_macro_steps(make_pipe):
    assert peers.macro_steps([1.0, 2.9, 9.9, 0.1, 1.0, 1.0], 1.0) == [0, 1, 3, 4, 5]
    assert peers.macro_steps([1.0, 2.9, 9.9, 0.1, 1.0, 1.0], 2.0) == [0, 2]
    ratios = peers.fit_tortoise_and_hare(make_pipe("sd-v", "euler"), PROMPTS, steps=5, guidance_scale=4.0)
    assert len(ratios) == 5
    assert min(ratios) > 0


def test_the_search_finds_the_best_steps(make_pipe):
    pipe, given = make_pipe("sd-epsilon", "ddim"), {"steps": 6, "guidance_scale": 4.0}
    full = draw(pipe, 6, "latent")

    def loss(steps):
        with peers.budcache(pipe, steps) as call:
            return float((draw(call, 6, "latent") - full).square().mean())

    best = min(({0, *others} for others in combinations(range(1, 6), 2)), key=loss)
    assert peers.search_budcache(pipe, PROMPTS, budget=3, iterations=10, seed=0, **given) == best


def test_numbers_that_come_closest_to_the_solver(make_pipe):
    pipe, given = make_pipe("sd-epsilon", "euler"), {"steps": N, "guidance_scale": 4.0, "seed": 0}
    gains = peers.fit_ltc_accel(pipe, PROMPTS, **given)
    assert list(gains) == [5, 7, 9, 11]

    def error(gains):
        with peers.ltc_accel(pipe, gains) as call:
            return float((draw(call, output_type="latent") - full).square().mean())

    full = draw(pipe, output_type="latent")
    assert error({11: gains[11]}) < error({11: 0.0})


PACKAGES = {"DeepCache", "T-GATE", "ToMe"}


@pytest.mark.parametrize("family", sorted(set(settings.RIVALS) - PACKAGES))
def test_each_has_its_authors_settings_and_a_ladder(make_pipe, monkeypatch, tmp_path, family):
    monkeypatch.setattr(settings, "FOUND", tmp_path)
    monkeypatch.setattr(settings.fitting, "search_budcache", lambda pipe, prompts, **given: range(given["budget"]))
    ladder = settings.RIVALS[family]
    assert len({words for words, _ in ladder}) == len(ladder)
    assert len(ladder) >= 3 or family == "LinearAG"
    pipe = make_pipe("sd-epsilon", "dpm-solver")
    assert evaluations(pipe, ladder[0][1](8), 8) <= 16
    found = list(tmp_path.iterdir())
    assert evaluations(pipe, ladder[0][1](8), 8) <= 16, "with what was found before"
    assert list(tmp_path.iterdir()) == found


def test_stock_samplers_run(make_pipe):
    config = make_pipe().scheduler.config
    for name, (class_name, options) in [*settings.STOCK.items()][::3]:  # each takes 10 ms to be made
        scheduler = getattr(diffusers, class_name).from_config(config, **options)
        assert {key: scheduler.config[key] for key in options} == options, name
        scheduler.set_timesteps(3)
        x = torch.zeros(1, 1, 1, 1) + scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * scheduler.scale_model_input(x, t), t, x, return_dict=False)[0]
        assert x.isfinite().all(), name


def test_steps_that_are_aligned(make_pipe):
    pipe = make_pipe("sd-epsilon", "dpm-solver")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.012)  # Stable Diffusion's
    assert settings.ays_timesteps(pipe, 10)[:2] == [999, 850]
    assert evaluations(pipe, settings.ays(8), 8) == 2 * 8
    for steps in (8, 20, 50):
        timesteps = settings.ays_timesteps(pipe, steps)
        assert len(timesteps) == steps
        assert timesteps == sorted(set(timesteps), reverse=True)


def test_rivals_that_are_beaten_by_far_are_no_finalists(tmp_path):
    """Distances by hand: all pixels of all images by as much, so that mean and geometric mean are that."""

    def drawn(family, evaluations, far, words=""):
        method = pareto_methods.Method(family, words, "DDIM, trailing", 10, pareto_methods.stock)
        images = np.full((4, 64, 64, 3), 100 + far, np.uint8)
        np.savez(tmp_path / f"{method.name}.npz", images=images, evaluations=evaluations)
        return method

    every = [
        drawn("reference", 20.0, 0),
        drawn("ours, far", 15.0, 100),
        drawn("fewer steps", 15.0, 10),
        drawn("close for more", 17.0, 12),  # not 1.5 times further than fewer steps
        drawn("far for more", 17.0, 16),
        drawn("far for less", 10.0, 90),
        drawn("saves nothing", 20.0, 1),
        drawn("two", 17.0, 12, "close"),
        drawn("two", 16.0, 80, "far, between two that go on"),
        drawn("two", 9.0, 85, "less"),
    ]
    found = pareto.finalists(every, "dpm-20", tmp_path, 4)
    few = ["reference", "ours, far", "fewer steps", "close for more", "far for less"]
    assert [one.family for one in found] == [*few, "two", "two", "two"]


def test_what_a_method_costs_between_two_of_its_rows_is_on_the_line_in_the_logarithm():
    def row(family, time_saved, far, count=4):
        method = pareto_methods.Method(family, "", "DDIM, trailing", 10, pareto_methods.stock)
        return pareto_tables.Row(method, 20.0, [far] * count, *[None] * 4, 1.0, [time_saved] if time_saved else [])

    rows = [
        row("A", 0.2, 1e-4),
        row("A", 0.6, 1e-2),
        row("A", 0.4, 1.0),  # beaten by the one that saves more
        row("B", 0.25, 0.5, count=2),
        row("untimed", None, 1e-3),
    ]
    table = pareto_tables.at_equal_savings(rows, "time", lambda row: row.time_saved)
    assert table[-2:] == [
        "| A | 0.0002 / 0.0002 | 0.0010 / 0.0010 | 0.0032 / 0.0032 |",  # 10^-3.75, 10^-3, 10^-2.5
        "| B (n = 2) | 0.5000 / 0.5000 | — | — |",
    ]


def as_flow(pipe, shift=3.0):
    from peers.flow import as_flow

    return as_flow(pipe, "FlowMatchEulerDiscreteScheduler", {"shift": shift})


@torch.no_grad()
@pytest.mark.parametrize(("high", "low"), [(900, 700), (400, 180)])
def test_a_step_along_a_flow_is_the_networks_own(make_pipe, high, low):
    """DDIM's step between two timesteps, in the flow's coordinates."""
    pipe = make_pipe("sd-epsilon", "ddim")
    unet = as_flow(pipe).unet
    known, x = encode(pipe, PROMPTS).text, torch.randn(2, 4, 8, 8, generator=torch.manual_seed(0))
    eps = pipe.unet(x, high, known, return_dict=False)[0]
    (a, s), (a_after, s_after) = (
        (abar.sqrt(), (1 - abar).sqrt()) for abar in pipe.scheduler.alphas_cumprod[[high, low]].double()
    )
    expected = (a_after * (x - s * eps) / a + s_after * eps) / (a_after + s_after)
    here, there = s / (a + s), s_after / (a_after + s_after)
    velocity = unet(x / (a + s).float(), here * 1000, known).sample
    np.testing.assert_allclose(x / (a + s) + (there - here) * velocity, expected, atol=1e-5)
    rows = unet(x / (a + s).float(), (here * 1000).expand(2), known, return_dict=False)[0]
    np.testing.assert_allclose(rows, velocity, atol=1e-6)


def test_skipping_nothing_along_a_flow_is_the_stock_pipeline(make_pipe):
    pipe = as_flow(make_pipe("sd-epsilon", "ddim"))
    stock = draw(pipe, 6)
    for name, block in NOTHING_SKIPPED.items():
        if name == "guidance_interval":
            continue  # where there is no signal sigma / alpha is in no interval
        with block(pipe) as call:
            np.testing.assert_allclose(draw(call, 6), stock, atol=2e-5, err_msg=name)
    for name, (block, _) in SKIPPED.items():
        with block(pipe) as call:
            assert np.isfinite(draw(call)).all(), name
    with guide(pipe, budget=0.5) as evaluations:
        assert np.isfinite(draw(pipe)).all()
    assert evaluations.rows == len(PROMPTS) * N


def test_a_flows_terms_are_one_and_the_same():
    x, x0 = torch.randn(2, 1, 1, 4, 4, generator=torch.manual_seed(1)).unbind()
    now = Now(3, N, 700.0, 0.3, 0.7, 0.6, 0.0, 3.0, x, x, 4.0, "flow", None, None)
    out = now.output(x0)
    np.testing.assert_allclose(now.x0(out), x0, atol=1e-6)
    np.testing.assert_allclose(0.3 * x0 + 0.7 * now.eps(out), x, atol=1e-6)
    assert now.noise == 0.7
    assert now.is_past(0.4)  # (3 0.6) / (1 + 2 0.6) = 0.82
    assert not now.is_past(0.6)  # 0.67
