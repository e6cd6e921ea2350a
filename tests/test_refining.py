"""All weights of a fitted solver moved together: what a move does to the latents, and what the search makes of it."""

from __future__ import annotations

import statistics
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fitted import W, recorded
from test_guidance import PROMPTS
from test_tuning import N, found_with, nothing

from shapefirst.errors import ShapefirstError
from shapefirst.images.jobs import Sampling
from shapefirst.tuning import refining, runner, search
from shapefirst.tuning.candidates import Costs, choose
from shapefirst.tuning.fitting import added, fitted_solver, inner_products, nearest, taken
from shapefirst.tuning.kept import UnfinishedSearch
from shapefirst.tuning.refining import _Run, _sizes, refined_solver, refining_cost
from shapefirst.tuning.search import Tuner
from shapefirst.tuning.times import best_times


@torch.no_grad()
def fitted_run(pipe, steps: int):
    """A run on the fit's own images, with the fitted solver's weights, and what it has at each step."""
    runs = recorded(pipe, 12)
    times = best_times(runs, steps)
    solver, _ = fitted_solver(pipe, runs, times, by_signal=False, batch_size=2)
    weights = [(own, list(row)) for own, row in zip(solver.config.latents, solver.config.weights, strict=True)]
    run = _Run(pipe, runs, times, weights, lambda evaluations: None)
    return run, list(run.states(runs.latents[0])), solver


@torch.no_grad()
@pytest.mark.parametrize(("kind", "sampler"), [("sd-epsilon", "ddim"), ("sd-v", "dpm-solver"), ("pixart", "ddim")])
def test_a_move_of_the_weights_does_what_the_changes_say(make_pipe, kind, sampler):
    """Against the run with other weights: each feature of each step by itself, and all at once."""
    run, states, _ = fitted_run(make_pipe(kind, sampler), 4)
    sizes = _sizes([run.features(states)])
    changes, end = run.changes(states, sizes), states[-1][0]

    def end_with(moves: list[list[float]]) -> torch.Tensor:
        moved = []
        for (own, row), n, move, of_step in zip(run.weights, run.times, moves, sizes, strict=True):
            more, row_more = added(run.recorded, [m / size for m, size in zip(move, of_step, strict=True)], n)
            moved.append((own + more, [w + v for w, v in zip(row, row_more, strict=True)]))
        other = _Run(run.pipe, run.recorded, run.times, moved, run.tick)
        return list(other.states(run.recorded.latents[0]))[-1][0]

    by, places = 2e-3, [(n, k) for n, of_step in enumerate(sizes) for k in range(len(of_step))]
    nothing_moves = [[0.0] * len(of_step) for of_step in sizes]
    assert len(changes) == len(places) == 2 + 3 + 4 + 4
    for (n, k), change in zip(places, changes, strict=True):
        moves = [list(of_step) for of_step in nothing_moves]
        moves[n][k] = by
        torch.testing.assert_close(end_with(moves) - end, by * change, atol=4e-4, rtol=0.05)
    everything = end_with([[by] * len(of_step) for of_step in sizes]) - end
    assert (everything - by * changes.sum(0)).square().mean() < 0.02 * everything.square().mean()


@torch.no_grad()
def test_weights_that_were_shifted_come_back_to_the_trajectory(make_pipe):
    """A solver of all steps whose weights are a little off: one move takes most of what is missing."""
    pipe = make_pipe("sd-epsilon", "ddim")
    runs = recorded(pipe, 6)
    own, _ = fitted_solver(pipe, runs, range(6), by_signal=False, batch_size=2)
    dice = torch.Generator().manual_seed(0)
    off = [
        (one * (1 + 0.01 * float(torch.randn((), generator=dice))), [w * 1.01 for w in row])
        for one, row in zip(own.config.latents, own.config.weights, strict=True)
    ]
    solver = runs.solver(range(6), off)
    run = _Run(pipe, runs, range(6), off, lambda evaluations: None)
    before = list(run.states(runs.latents[0]))[-1][0]
    refined, last = refined_solver(pipe, runs, solver, batch_size=1)
    goal = runs.latents[-1]
    assert (last - goal).square().mean().sqrt() < 0.3 * (before - goal).square().mean().sqrt()
    assert refined.config.timesteps == solver.config.timesteps
    x, past = runs.latents[0], []
    for n, weights in enumerate(zip(refined.config.latents, refined.config.weights, strict=True)):
        past = refining.seen(pipe, runs, x, past, n, 2)
        x = taken(x, past, weights)
    torch.testing.assert_close(x, last, atol=1e-4, rtol=0)


def test_it_costs_what_is_said(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    run, _, solver = fitted_run(pipe, 5)
    rows, told = [], []
    pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    refined_solver(pipe, run.recorded, solver, batch_size=1, tick=told.append)
    assert sum(rows) == sum(told) == 2 * refining_cost(5)
    # by hand: the run and the new one, and of 2, 3, 4, 4 and 4 features the 4, 3, 2, 1 and 0 steps after them
    assert refining_cost(5) == 2 * (5 + 5 + 2 * 4 + 3 * 3 + 4 * 2 + 4 * 1)


@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0, 0.1))
@settings(max_examples=25, deadline=None)
def test_drawn_evenly_the_nearest_of_one_image_is_ridge_regression(seed, count, ridge):
    dice = torch.Generator().manual_seed(seed)
    columns = torch.randn(count, 1, 32, generator=dice, dtype=torch.float64)
    target = torch.randn(1, 32, generator=dice, dtype=torch.float64)
    found = nearest(*inner_products(columns, target), ridge=ridge, floor=1.0, evenly=True)
    mean = columns.square().sum() / count
    stacked = torch.cat([columns[:, 0].T, (ridge * mean) ** 0.5 * torch.eye(count, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(stacked, torch.cat([target[0], torch.zeros(count, dtype=torch.float64)])).solution
    assert found == pytest.approx(wanted.tolist(), abs=1e-8)


def test_trajectories_are_split_and_joined_again(make_pipe):
    runs = recorded(make_pipe("sdxl", "ddim"), 3)
    runs = type(runs).joined([runs, *runs.split(1)[:1]])
    parts = runs.split(2)
    assert [part.latents.shape[1] for part in parts] == [len(part.prompts.text) for part in parts] == [2, 1]
    again = type(runs).joined(parts)
    assert torch.equal(again.latents, runs.latents)
    assert torch.equal(again.predictions, runs.predictions)
    assert again.prompts.equals(runs.prompts)


# --- in the search ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tuner(make_pipe, monkeypatch):
    monkeypatch.setattr(search, "FEWEST_IMAGES", len(PROMPTS))
    tuner = Tuner(make_pipe(), Sampling(W, N), PROMPTS, batch_size=1)
    for batch in range(tuner.batches):
        tuner.record(batch, [], nothing)
    return tuner


def test_few_images_or_many_steps_are_left_as_they_are(make_pipe):
    tuner = Tuner(make_pipe(), Sampling(W, 50), ["a cat"] * refining.FEWEST_IMAGES)
    assert tuner.can_refine(5)
    assert tuner.can_refine(refining.MOST_STEPS)
    assert not tuner.can_refine(refining.MOST_STEPS + 1)
    assert not Tuner(make_pipe(), Sampling(W, 50), ["a cat"] * (refining.FEWEST_IMAGES - 1)).can_refine(5)


def test_what_does_not_come_closer_is_not_taken(tuner):
    fit, distances = tuner.fit(5, nothing)
    refined, nearer = tuner.refine(fit, distances)
    assert statistics.fmean(nearer) < statistics.fmean(distances)
    assert tuner.run(refined, nothing) == pytest.approx(nearer, abs=1e-3)
    assert tuner.refine(fit, [0.0] * len(distances)) == (fit, [0.0] * len(distances))


@pytest.mark.parametrize("chosen_by", [{"evaluations": 12}, {"max_l1": 0.9}, {"save_time": 0.1}])
def test_the_solver_that_would_be_chosen_is_refined_once_and_found_again(tuner, tmp_path, monkeypatch, chosen_by):
    """Ticks are what `search_cost` says, also where a search goes on."""
    monkeypatch.setattr(search.Tuner, "costs", lambda *_: Costs(1.0, 0.5, 0.1, 0.0))
    tuner.evaluations = chosen_by.get("evaluations")
    choice, made = partial(choose, **chosen_by), []
    refine = Tuner.refine
    monkeypatch.setattr(Tuner, "refine", lambda *given: made.append(1) or refine(*given))
    for _ in range(2):
        told = []
        kept = UnfinishedSearch(tmp_path / "policy.json", ["same"])
        found = runner.try_policies(tuner, kept, choice, told.append)
        fits = [one for one in found if one.candidate.kind == "fitted"]
        best = choice(fits)
        assert kept.fitted(best.candidate.steps, len(PROMPTS), refined=True) == (best.candidate, list(best.l1))
        assert kept.fitted(best.candidate.steps, len(PROMPTS))[1] != list(best.l1)
        assert len(made) == 1
    rest = runner.PROBE * tuner.batch_size  # its ticks are those of the probes, which do not run here
    assert sum(told) == pytest.approx(runner.search_cost(tuner) - rest)


def test_where_no_solver_would_be_chosen_none_is_refined(tuner, tmp_path, monkeypatch):
    monkeypatch.setattr(Tuner, "refine", lambda *_: pytest.fail("refined"))
    told = []

    def none(found):
        raise ShapefirstError("There is none.")

    found = [found_with(0.5, 0.1)]
    kept = UnfinishedSearch(tmp_path / "policy.json", ["same"])
    assert runner._with_one_refined(tuner, kept, none, told.append, list(found)) == found
    assert sum(told) == len(PROMPTS) * runner._refined(tuner)
