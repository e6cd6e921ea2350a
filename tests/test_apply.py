"""Policies without `with`: on pipelines, and on denoisers in loops of one's own, which are written here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import diffusers
import naive
import pytest
import torch
from crosses import all_pairs
from test_guidance import PROMPTS, SEEDS, W, generate, trace

import shapefirst
from shapefirst import ShapefirstError
from shapefirst.errors import UnsupportedPipelineError
from shapefirst.guidance.introspection import running

N = 6
B = len(PROMPTS)
WAYS: dict[str, dict[str, Any]] = {
    "whole calls": {},
    "one batch": {"branches": ("null", "text")},
    "two calls": {"calls": ("text", "null")},
}
#: Words -> (the guided steps of 6, the branch that is kept, the order), as the words say.
POLICIES: dict[str, tuple[set[int], str, int | None]] = {
    "paper:3": ({0, 1, 2}, "null", None),
    "text:3": ({0, 1, 2}, "text", None),
    "steps:0-1+4,keep=null,order=1": ({0, 1, 4}, "null", 1),
    "steps:0-1+4": ({0, 1, 4}, "neither", 1),
    "every:2,order=0": ({0, 2, 4}, "neither", 0),
}
CASES = [(way, words) for way in WAYS for words in POLICIES if way != "whole calls" or "neither" in POLICIES[words]]


def denoiser_of(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def rows_in(part: torch.nn.Module) -> list[int]:
    """The rows that enter a part of a denoiser, call by call."""
    rows: list[int] = []
    part.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


@torch.no_grad()
def own_loop(pipe: Any, way: str, prompts: list[str] = PROMPTS, seeds: list[int] = SEEDS) -> torch.Tensor:
    """Latents, guided in every step, with the parts of a pipeline."""
    solver = pipe.scheduler
    solver.set_timesteps(N)
    text, null = naive.encode(pipe, prompts), naive.encode(pipe, [""] * len(prompts))
    x = naive.noise(seeds) * solver.init_noise_sigma
    for t in solver.timesteps:
        x_in = solver.scale_model_input(x, t)
        if way == "two calls":
            eps_text, eps_null = (naive.predict(pipe, x_in, t, branch) for branch in (text, null))
        else:
            eps_null, eps_text = naive.predict(pipe, torch.cat([x_in] * 2), t, naive.both(null, text)).chunk(2)
        x = solver.step(eps_null + W * (eps_text - eps_null), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("case", "kind", "sampler"), all_pairs(CASES, ["sd-epsilon", "pixart"], ["ddim", "heun"]), ids=str
)
def test_a_loop_of_ones_own_is_the_equation(make_pipe, case, kind, sampler):
    way, words = case
    pipe, (guided, keep, order) = make_pipe(kind, sampler), POLICIES[words]
    denoiser = denoiser_of(pipe)
    rows = rows_in(denoiser.conv_in if hasattr(denoiser, "conv_in") else denoiser.pos_embed)
    handle = shapefirst.apply_to_module(denoiser, words, scheduler=pipe.scheduler, **WAYS[way])
    made = own_loop(pipe, way)
    spent = handle.evaluations
    steps = [call // pipe.scheduler.order for call in range(len(pipe.scheduler.timesteps))]
    assert spent.rows == sum(rows) == sum(2 * B if step in guided else B * (keep != "neither") for step in steps)
    assert spent.asked == 2 * B * len(steps)
    options = {"guided": guided.__contains__, "num_steps": N, "w": W, "keep": keep, "order": order}
    assert naive.error(made, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), **options)) < 1e-4
    # A second generation begins anew, also with others in the batch.
    assert torch.equal(own_loop(pipe, way), made)
    assert naive.error(own_loop(pipe, way, PROMPTS[:1], SEEDS[:1]), made[:1]) < 1e-4
    handle.remove()
    assert naive.error(own_loop(pipe, way), made) > 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_full_guidance_is_the_loop_bit_for_bit_and_nothing_is_left_behind(make_pipe, way):
    pipe = make_pipe()
    before, stock = trace(pipe), own_loop(pipe, way)
    first = shapefirst.apply_to_module(pipe.unet, "full", scheduler=pipe.scheduler, **WAYS[way])
    assert torch.equal(own_loop(pipe, way), stock)
    second = shapefirst.apply_to_module(pipe.unet, budget=0.84, scheduler=pipe.scheduler, **WAYS[way])
    assert not torch.equal(own_loop(pipe, way), stock)
    assert second.evaluations.asked == second.evaluations.rows * 6 / 5 == first.evaluations.asked / 2
    second.remove()
    assert torch.equal(own_loop(pipe, way), stock)
    assert second.evaluations.asked == first.evaluations.asked / 3
    first.remove()
    first.remove()
    assert trace(pipe) == before
    assert torch.equal(own_loop(pipe, way), stock)


@pytest.mark.parametrize("way", WAYS)
def test_a_tolerance(make_pipe, way):
    pipe, spent, errors = make_pipe(), [], []
    stock = own_loop(pipe, way)
    for tol in (0.0, 0.001, 1e9):
        handle = shapefirst.apply_to_module(pipe.unet, tol=tol, scheduler=pipe.scheduler, guidance_scale=W, **WAYS[way])
        errors.append(naive.error(own_loop(pipe, way), stock))
        handle.remove()
        spent.append(handle.evaluations.saved)
    assert 0 == errors[0] <= errors[1] < errors[2]
    assert 0 == spent[0] <= spent[1] < spent[2]


def test_a_pipeline_that_has_the_denoiser_follows_as_well(make_pipe):
    pipe = make_pipe()
    with shapefirst.text_until(pipe, step=2):
        expected = generate(pipe)
    handle = shapefirst.apply_to_module(pipe.unet, "paper:2", scheduler=pipe.scheduler, branches=("null", "text"))
    assert torch.equal(generate(pipe), expected)
    with pytest.raises(ShapefirstError, match="through another pipeline"), shapefirst.text_until(pipe, step=2):
        pass
    handle.remove()


def test_a_policy_on_a_pipeline_without_with(make_pipe):
    pipe = make_pipe()
    before, stock = trace(pipe), generate(pipe)
    with shapefirst.text_until(pipe, step=2) as spent:
        expected = generate(pipe)
    handle = shapefirst.apply(pipe, "paper:2")
    assert torch.equal(generate(pipe), expected)
    assert handle.evaluations == spent
    handle.remove()
    handle.remove()
    assert trace(pipe) == before
    assert torch.equal(generate(pipe), stock)
    handle = shapefirst.apply(pipe, budget=0.7)
    unet, pipe.unet = pipe.unet, torch.nn.Identity()
    with pytest.raises(ShapefirstError, match="was replaced while a policy was on it"):
        handle.remove()
    pipe.unet = unet
    assert trace(pipe) == before


# --- denoisers of one's own -------------------------------------------------------------------------------------


class Toy(torch.nn.Module):
    """(rows, tokens, 4) latents and (rows, 1, 4) prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)

    def forward(self, latents: torch.Tensor, timestep: Any, my_prompts: torch.Tensor) -> torch.Tensor:
        t = torch.as_tensor(timestep, dtype=torch.float32).max() / 1000
        return torch.tanh(self.mix(latents) * (1 + t)) + my_prompts * (1 - 0.3 * t)


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().requires_grad_(requires_grad=False)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXT, NULL, NOISE = normal(1, 2, 1, 4), normal(2, 2, 1, 4), normal(3, 2, 8, 4)
FLOW = {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)}


def toy_loop(
    toy: Any, way: str = "one batch", given: Callable[..., Any] = lambda t, rows: t, scheduler: Any = FLOW["scheduler"]
) -> torch.Tensor:
    scheduler.set_timesteps(N)
    x = NOISE
    for t in scheduler.timesteps:
        if way == "two calls":
            text, null = toy(x, given(t, 2), TEXT), toy(x, given(t, 2), my_prompts=NULL)
        else:
            null, text = toy(torch.cat([x, x]), given(t, 4), torch.cat([NULL, TEXT])).chunk(2)
        x = scheduler.step(null + W * (text - null), t, x).prev_sample
    return x


def dropped(toy: Any, k: int) -> torch.Tensor:
    scheduler, x = FLOW["scheduler"], NOISE
    scheduler.set_timesteps(N)
    for i, t in enumerate(scheduler.timesteps):
        null = toy(x, t, NULL)
        x = scheduler.step(null + W * (toy(x, t, TEXT) - null) if i < k else null, t, x).prev_sample
    return x


def test_arguments_of_unknown_names(toy):
    """Which have rows the user says; whole calls, and calls of their own, need not know."""
    expected = dropped(toy, 2)
    rows = rows_in(toy.mix)
    one = {"branches": ("null", "text"), **FLOW}
    handle = shapefirst.apply_to_module(toy, "paper:2", **one)
    with pytest.raises(UnsupportedPipelineError, match="4 entries of my_prompts, of which is not known whether"):
        toy_loop(toy)
    assert rows == []
    handle.remove()
    for way, options in (
        ("one batch", {**one, "rowed": ("my_prompts",)}),
        ("two calls", {**WAYS["two calls"], **FLOW}),
    ):
        handle = shapefirst.apply_to_module(toy, "paper:2", **options)
        assert naive.error(toy_loop(toy, way), expected) < 1e-5
        assert sum(rows) == handle.evaluations.rows == 2 * (N + 2)
        handle.remove()
        rows.clear()
    for options in (FLOW, one):
        handle = shapefirst.apply_to_module(toy, budget=0.84, **options)
        toy_loop(toy)
        assert sum(rows) == handle.evaluations.rows == 4 * 5
        handle.remove()
        rows.clear()


@pytest.mark.parametrize(
    "given",
    [
        lambda t, rows: t.item(),
        lambda t, rows: t.expand(rows),
        lambda t, rows: t.clone(),
        lambda t, rows: t / 1000,
        lambda t, rows: (1 - t / 1000).expand(rows),
        lambda t, rows: torch.cat([torch.zeros(rows, 3), t.repeat(rows, 5)], dim=1),
        lambda t, rows: FLOW["scheduler"].sigmas[FLOW["scheduler"].step_index or 0],
    ],
    ids=["number", "a row", "copy", "share", "reversed", "a token", "sigma"],
)
@pytest.mark.parametrize("way", WAYS)
def test_the_step_is_found_whatever_is_made_of_the_timestep(toy, way, given):
    expected = toy_loop(toy, way, given)
    handle = shapefirst.apply_to_module(toy, "steps:0-1+4", rowed=("my_prompts",), **WAYS[way], **FLOW)
    made = toy_loop(toy, way, given)
    assert handle.evaluations.saved == 0.5
    assert 1e-5 < naive.error(made, expected) < 0.5
    handle.remove()


def test_sigmas_that_are_no_share(toy):
    scheduler = diffusers.EulerDiscreteScheduler()
    given = lambda t, rows: scheduler.sigmas[scheduler.step_index or 0].repeat(rows)  # noqa: E731
    handle = shapefirst.apply_to_module(toy, "steps:0-1+4", scheduler=scheduler)
    toy_loop(toy, given=given, scheduler=scheduler)
    assert handle.evaluations.saved == 0.5
    handle.remove()


class Named(torch.nn.Module):
    """A timestep, latents and prompts that have names of their own."""

    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, z: Any, c: Any, level: Any) -> dict[str, Any]:
        return {"made": self.toy(z, level, c), "level": None}


class Wrapper(torch.nn.Module):
    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.toy(*args, **kwargs)


def test_a_timestep_of_ones_own_name(toy):
    named = Named(toy)
    swapped = lambda z, t, c: named(z, c, t)["made"]  # noqa: E731
    expected = dropped(toy, 2)
    with pytest.raises(ShapefirstError, match=r"None of the arguments of this Named \(z, c, level\).*timestep='level'"):
        shapefirst.apply_to_module(named, "paper:2", **WAYS["one batch"], **FLOW)
    options = {"timestep": "level", "rowed": ("c",), **WAYS["one batch"], **FLOW}
    handle = shapefirst.apply_to_module(named, "paper:2", **options)
    assert naive.error(toy_loop(swapped), expected) < 1e-5
    assert handle.evaluations.rows == 2 * (N + 2)
    handle.remove()


def test_a_wrapper_that_hands_on_whatever_it_is_given(toy):
    expected = dropped(toy, 2)
    wrapper = Wrapper(Wrapper(toy))
    handle = shapefirst.apply_to_module(wrapper, "paper:2", rowed=("my_prompts",), **WAYS["one batch"], **FLOW)
    assert naive.error(toy_loop(wrapper), expected) < 1e-5
    handle.remove()
    handle = shapefirst.apply_to_module(wrapper, "paper:2", **WAYS["two calls"], **FLOW)
    assert naive.error(toy_loop(wrapper, "two calls"), expected) < 1e-5
    handle.remove()


class Sampler:
    """A class of one's own around the loop."""

    def __init__(self, net: Any) -> None:
        self.net, self.scheduler = net, FLOW["scheduler"]

    def __call__(self) -> torch.Tensor:
        return toy_loop(self.net)


def test_a_class_around_the_loop_changes_nothing(toy):
    sampler, options = Sampler(toy), {"rowed": ("my_prompts",), **WAYS["one batch"], **FLOW}
    expected, seen = dropped(toy, 2), []
    toy.mix.register_forward_pre_hook(lambda *_: seen.append(running(toy)))
    handle = shapefirst.apply_to_module(toy, "paper:2", **options)
    assert naive.error(sampler(), expected) < 1e-5
    assert seen[0].pipe is sampler
    handle.remove()


@pytest.mark.parametrize("way", ["one batch", "two calls"])
def test_gradients_go_through_what_is_evaluated(toy, way):
    toy.requires_grad_()

    def gradient(make: Callable[[], torch.Tensor]) -> torch.Tensor:
        toy.zero_grad()
        make().square().sum().backward()
        return toy.mix.weight.grad.clone()

    with torch.no_grad():
        images = dropped(toy, 2)
    expected = gradient(lambda: dropped(toy, 2))
    handle = shapefirst.apply_to_module(toy, "paper:2", rowed=("my_prompts",), **WAYS[way], **FLOW)
    assert naive.error(gradient(lambda: toy_loop(toy, way)), expected) < 1e-5
    with torch.no_grad():
        assert naive.error(toy_loop(toy, way), images) < 1e-5
    with torch.inference_mode():
        assert naive.error(toy_loop(toy, way), images) < 1e-5
    handle.remove()
    handle = shapefirst.apply_to_module(toy, "steps:0-1+4", **FLOW)
    assert gradient(lambda: toy_loop(toy)).isfinite().all()
    handle.remove()


def test_handles_go_in_any_order(toy):
    stock = toy_loop(toy)
    for order in itertools.permutations(range(2)):
        handles = [shapefirst.apply_to_module(toy, words, **FLOW) for words in ("steps:0-1", "every:2")]
        toy_loop(toy)
        for n in order:
            handles[n].remove()
        assert type(toy) is Toy
        assert torch.equal(toy_loop(toy), stock)
    handle = shapefirst.apply_to_module(toy, "steps:0-1", **FLOW)
    with pytest.raises(ShapefirstError, match="is being guided"):
        shapefirst.apply_to_module(toy, "paper:1", calls=("text", "null"), **FLOW)
    handle.remove()
    assert type(toy) is Toy


def test_predictions_may_be_written_to(toy):
    """Those of both branches are one where the text is dropped."""

    def loop() -> torch.Tensor:
        scheduler, x = FLOW["scheduler"], NOISE
        scheduler.set_timesteps(N)
        for t in scheduler.timesteps:
            text = toy(x, t, TEXT)
            text *= W
            null = toy(x, t, NULL)
            x = scheduler.step(text.sub_(null, alpha=W - 1), t, x).prev_sample
        return x

    for words, expected in (("full", loop()), ("paper:2", dropped(toy, 2))):
        handle = shapefirst.apply_to_module(toy, words, calls=("text", "null"), **FLOW)
        assert naive.error(loop(), expected) < 1e-5
        handle.remove()
    handle = shapefirst.apply_to_module(toy, "steps:0-1+4,keep=null", calls=("text", "null"), **FLOW)
    made, expected = loop(), toy_loop(toy, "two calls")
    assert naive.error(made, expected) < 1e-5
    handle.remove()


def test_where_it_is_not_guided_it_says_so_once(toy):
    handle = shapefirst.apply_to_module(toy, "paper:2", rowed=("my_prompts",), **WAYS["one batch"], **FLOW)
    with pytest.warns(UserWarning, match="Your loop runs without classifier-free guidance"):
        toy_loop(toy, "two calls")
    assert handle.evaluations.saved == 0
    handle.remove()


def test_a_timestep_of_another_list(toy):
    handle = shapefirst.apply_to_module(toy, "every:2", **FLOW)
    FLOW["scheduler"].set_timesteps(N)
    with pytest.raises(
        UnsupportedPipelineError, match=r"Your loop gave its denoiser the timestep 123\.5, which is not"
    ):
        toy(NOISE, torch.tensor(123.5), TEXT)
    handle.remove()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Give one of a policy"),
        ({"budget": 2}, "A budget is a share"),
        ({"policy": "paper:2"}, r"say branches=.* or calls="),
        ({"policy": "paper:2", "branches": ("null", "text"), "calls": ("text", "null")}, "and not both"),
        ({"policy": "paper:2", "branches": ("uncond", "cond")}, r"branches= takes .* not \('uncond', 'cond'\)"),
        ({"policy": "paper:2", "calls": ("text",)}, r"calls= takes"),
        ({"policy": "paper:2", "calls": "null text"}, r"calls= of"),
        ({"tol": 0.01, "branches": ("null", "text")}, r"say guidance_scale=7\.5"),
        ({"policy": "tol:0.01,keep=null", "calls": ("text", "null")}, r"say guidance_scale=7\.5"),
        ({"budget": 0.6, "scheduler": None}, "must be a SchedulerMixin, not None"),
        ({"budget": 0.6, "denoiser": abs}, "must be a Module, not <built-in"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_at_once(toy, given, sentence):
    with pytest.raises(ShapefirstError, match=sentence):
        shapefirst.apply_to_module(**{"denoiser": toy, **FLOW, **given})
    assert type(toy) is Toy
