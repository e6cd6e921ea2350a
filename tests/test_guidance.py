"""`text_until` and `guide` on stock pipelines: exact, sparing, and gone afterwards."""

from __future__ import annotations

import copy
import inspect
import math
from itertools import cycle
from typing import Any

import naive
import pytest
import torch
from conftest import KINDS
from crosses import all_pairs

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.models import SAMPLERS
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import generators

N, W = 4, 5.0
PROMPTS = ["a red cat", "two dogs"]
SEEDS = [11, 12]


def generate(pipe: Any, prompts: Any = PROMPTS, seeds: Any = SEEDS, **options: Any) -> torch.Tensor:
    """The pipeline's own call, down to the final latents."""
    if hasattr(pipe, "transformer"):
        options = {"use_resolution_binning": False, "clean_caption": False, **options}
    options = {"num_inference_steps": N, "guidance_scale": W, "output_type": "latent", **options}
    return pipe(prompts, generator=generators(seeds), **options).images


def denoiser_of(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def calls_of(sampler: str, steps: int, num_steps: int = N) -> int:
    """Denoiser calls in the first `steps` steps: Heun makes two in each but the last."""
    return 2 * steps - (steps == num_steps) if sampler == "heun" else steps


class Spy:
    """Counts the rows that really enter the denoiser's first layer."""

    def __init__(self, pipe: Any) -> None:
        denoiser = denoiser_of(pipe)
        layer = denoiser.conv_in if hasattr(denoiser, "conv_in") else denoiser.pos_embed
        self.rows = 0
        self.handle = layer.register_forward_pre_hook(self._see)

    def _see(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.rows += args[0].shape[0]

    def __enter__(self) -> Spy:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


# --- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "sampler", "k"), all_pairs(KINDS, SAMPLERS, [0, 1, N // 2, N - 1, N]))
def test_text_in_the_first_k_steps_is_the_equation(make_pipe, kind, sampler, k):
    pipe = make_pipe(kind, sampler)
    with text_until(pipe, step=k) as evaluations, Spy(pipe) as spy:
        x = generate(pipe)
    expected = naive.sample(pipe, PROMPTS, naive.noise(SEEDS), guided=lambda i: i < k, num_steps=N, w=W)
    assert naive.error(x, expected) < 1e-4
    if k < N:  # the test would see it if the text were in all steps
        assert naive.error(x, generate(pipe)) > 1e-3
    calls, guided_calls = calls_of(sampler, N), calls_of(sampler, k)
    assert evaluations.calls == calls
    assert evaluations.rows == spy.rows == 2 * len(PROMPTS) * guided_calls + len(PROMPTS) * (calls - guided_calls)


@pytest.mark.parametrize(("kind", "sampler"), list(zip(cycle(KINDS), SAMPLERS, strict=False)))
def test_text_in_all_steps_is_the_stock_pipeline_bit_for_bit(make_pipe, kind, sampler):
    pipe = make_pipe(kind, sampler)
    stock = generate(pipe)
    for schedule in (TextSchedule.until(N), TextSchedule.until(fraction=1), TextSchedule.always()):
        with guide(pipe, schedule):
            assert torch.equal(generate(pipe), stock)
    assert torch.equal(generate(pipe), stock)


@pytest.mark.parametrize("kind", ["sd-v", "pixart"])
@pytest.mark.parametrize("keep", ["null", "text"])
def test_schedules_of_every_form(make_pipe, kind, keep):
    schedules = {
        TextSchedule.window(1, 3, keep=keep): {1, 2},
        TextSchedule.starting_at(2, keep=keep): {2, 3},
        TextSchedule.never(keep=keep): set(),
        TextSchedule(windows=((0, 1), (3, None)), keep=keep): {0, 3},
        TextSchedule.until(fraction=0.5, keep=keep): {0, 1},
    }
    pipe = make_pipe(kind, "heun")
    for schedule, steps in schedules.items():
        with guide(pipe, schedule):
            x = generate(pipe)
        options = {"guided": steps.__contains__, "num_steps": N, "w": W, "keep": keep}
        assert naive.error(x, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), **options)) < 1e-4


@pytest.mark.parametrize(("kind", "sampler", "keep"), all_pairs(KINDS, SAMPLERS, ["null", "text", "neither"]))
def test_extrapolation_is_the_formula(make_pipe, kind, sampler, keep):
    pipe, steps = make_pipe(kind, sampler), 7
    schedules = {
        TextSchedule.every(2, keep=keep, order=0): {0, 2, 4, 6},
        TextSchedule.growing(3, 1.5, keep=keep, order=1): {0, 1, 2, 4, 6},
        TextSchedule.at([0, 1, 2, 3, 6], keep=keep, order=2): {0, 1, 2, 3, 6},
        TextSchedule.at([0, 1, 2, 3], keep=keep, order=3): {0, 1, 2, 3},
    }
    for schedule, guided in schedules.items():
        with guide(pipe, schedule) as evaluations, Spy(pipe) as spy:
            x = generate(pipe, num_inference_steps=steps)
        options = {"guided": guided.__contains__, "num_steps": steps, "w": W, "keep": keep, "order": schedule.order}
        options["uncorrected"] = range(steps) if keep == "neither" else ()
        assert naive.error(x, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), **options)) < 1e-4
        others = 0 if keep == "neither" else 1
        calls = [calls_of(sampler, i + 1, steps) - calls_of(sampler, i, steps) for i in range(steps)]
        rows = sum(n * len(PROMPTS) * (2 if i in guided else others) for i, n in enumerate(calls))
        assert evaluations.rows == spy.rows == rows
        assert evaluations.calls == sum(n for i, n in enumerate(calls) if i in guided or others)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_extrapolation_in_half_precision(make_pipe, kind, dtype):
    """Stays as close to float32 as full guidance in half precision does."""
    pipe = make_pipe(kind)
    exact, full = {}, {}
    with guide(pipe, TextSchedule.every(2)):
        exact["ours"] = generate(pipe)
    exact["full"] = generate(pipe)
    half = copy.deepcopy(pipe).to(dtype)
    with guide(half, TextSchedule.every(2)):
        full["ours"] = generate(half)
    assert full["ours"].dtype == dtype
    full["full"] = generate(half)
    assert naive.error(full["ours"].float(), exact["ours"]) < 2 * naive.error(full["full"].float(), exact["full"])


@pytest.mark.parametrize("keep", ["null", "text", "neither"])
def test_extrapolated_guidance_is_rescaled_by_the_extrapolated_text_prediction(make_pipe, keep):
    """diffusers' rescale, written out: eps_hat takes the standard deviation of eps_text."""
    pipe = make_pipe("sd-v")
    phi, seen = 0.7, []

    def rescaled(null, text):
        eps_hat = null + W * (text - null)
        ratio = text.std((1, 2, 3), keepdim=True) / eps_hat.std((1, 2, 3), keepdim=True)
        return phi * eps_hat * ratio + (1 - phi) * eps_hat

    solver = type(pipe.scheduler).from_config(pipe.scheduler.config)
    solver.set_timesteps(N)
    text, null = naive.encode(pipe, PROMPTS), naive.encode(pipe, [""] * 2)
    x = naive.noise(SEEDS)
    with torch.no_grad():
        for i, t in enumerate(solver.timesteps):
            n, c = (naive.predict(pipe, x, t, condition) for condition in (null, text))
            if i == N - 1:
                d = seen[-1][1] - seen[-1][0]
                n, c = {"null": (n, n + d), "text": (c - d, c), "neither": seen[-1]}[keep]
            seen.append((n, c))
            x = solver.step(rescaled(n, c), t, x).prev_sample
    with guide(pipe, TextSchedule.at(range(N - 1), keep=keep, order=0)):
        assert naive.error(generate(pipe, guidance_rescale=phi), x) < 1e-4


@pytest.mark.parametrize(("kind", "sampler", "keep"), all_pairs(KINDS, SAMPLERS, ["null", "text", "neither"]))
def test_a_tolerance_of_0_is_the_stock_pipeline_bit_for_bit(make_pipe, kind, sampler, keep):
    pipe = make_pipe(kind, sampler)
    stock = generate(pipe)
    with guide(pipe, Auto(0, keep=keep)):
        assert torch.equal(generate(pipe), stock)


@pytest.mark.parametrize(
    ("kind", "keep", "sampler"), all_pairs(["sd-epsilon", "pixart"], ["null", "text", "neither"], ["ddim", "heun"])
)
def test_each_image_decides_for_itself(make_pipe, kind, keep, sampler):
    """What the rule says, image by image, is what it does in a batch: rows leave it one by one."""
    pipe, steps = make_pipe(kind, sampler), 12
    prompts, seeds = ["a cat", "a red dog", "three birds"], [1, 2, 3]
    policy = Auto(0.02 if kind == "sd-epsilon" else 0.2, keep=keep)  # random models' predictions are wild
    with guide(pipe, policy) as evaluations, Spy(pipe) as spy:
        together = generate(pipe, prompts, seeds, num_inference_steps=steps)
    alone, rows = [], []
    for prompt, seed in zip(prompts, seeds, strict=True):
        with guide(pipe, policy) as one:
            alone.append(generate(pipe, [prompt], [seed], num_inference_steps=steps))
        rows.append(one.rows)
    assert naive.error(together, torch.cat(alone)) < 1e-4
    assert evaluations.rows == spy.rows == sum(rows)
    calls = calls_of(sampler, steps, steps)
    assert (0 if keep == "neither" else calls) < min(rows) < 2 * calls


def test_a_tolerance_works_by_the_rule(make_pipe):
    """The steps that it guides, from the errors of a naive loop."""
    pipe, steps, tol = make_pipe(), 14, 0.02
    solver = type(pipe.scheduler).from_config(pipe.scheduler.config)
    solver.set_timesteps(steps)
    text, null = naive.encode(pipe, PROMPTS[:1]), naive.encode(pipe, [""])
    x, seen, due, latest, rows = naive.noise(SEEDS[:1]), {}, 0, 0, 0
    with torch.no_grad():
        for i, t in enumerate(solver.timesteps):
            u = math.log(1 + naive.sigma_over_alpha(solver, float(t)))
            last = list(seen)[-2:]
            guess = naive.polynomial(last, [seen[at] for at in last], u) if seen else None
            if i < due:
                eps_hat = guess
            else:
                n, c = (naive.predict(pipe, x, t, condition) for condition in (null, text))
                eps_hat = n + W * (c - n)
                gap = 1
                if len(seen) >= 2:
                    error = float((guess - eps_hat).square().mean().sqrt()) * (list(seen)[-1] - u)
                    since = i - latest
                    gap = max(1, math.floor(min(since * (tol / error) ** (1 / 3), 2 * since + 1, 8)))
                seen[u], latest, rows = eps_hat, i, rows + 2
                due = i + 1 if i >= steps - 2 else min(i + gap, steps - 2)
            x = solver.step(eps_hat, t, x).prev_sample
    assert 2 * 5 < rows < 2 * steps
    with guide(pipe, tol=tol) as evaluations:
        assert naive.error(generate(pipe, PROMPTS[:1], SEEDS[:1], num_inference_steps=steps), x) < 1e-4
    assert evaluations.rows == rows


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_scheduler_that_the_model_came_with(make_pipe, sampler):
    """PNDM, Stable Diffusion 1.5's own, calls the denoiser twice in its first step."""
    from diffusers import PNDMScheduler

    pipe = make_pipe("sd-epsilon", sampler)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    with text_until(pipe, step=1) as evaluations:
        generate(pipe)
    assert (evaluations.calls, evaluations.rows) == (N + 1, 2 * 2 * 2 + 2 * (N - 1))


# --- what goes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "budget"), [("neither", 0.6), ("neither", 0.75), ("null", 0.8)])
@pytest.mark.parametrize(("steps", "more"), [(20, {"skip_prk_steps": True}), (50, {"skip_prk_steps": True}), (40, {})])
def test_a_budget_is_the_most_that_is_spent_with_a_solver_that_warms_up(make_pipe, keep, budget, steps, more):
    from diffusers import PNDMScheduler

    pipe = make_pipe()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, **more)
    with guide(pipe, TextSchedule.within(budget, keep=keep)) as evaluations:
        generate(pipe, num_inference_steps=steps)
    assert budget - 2 / steps < evaluations.rows / evaluations.asked <= budget


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_any_batch_size_and_a_seed_gives_the_same_image_in_each(make_pipe, kind, batch):
    pipe = make_pipe(kind, "dpm-solver")
    prompts = ["a cat", "a red dog", "three birds"]
    with text_until(pipe, step=2):
        together = generate(pipe, prompts[:batch], [1, 2, 3][:batch])
        alone = torch.cat([generate(pipe, prompts[i], [i + 1]) for i in range(batch)])
    assert naive.error(together, alone) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_several_images_per_prompt(make_pipe, kind):
    pipe = make_pipe(kind)
    seeds = [1, 2, 3, 4]
    with text_until(pipe, step=2) as evaluations:
        x = generate(pipe, seeds=seeds, num_images_per_prompt=2)
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    expected = naive.sample(pipe, prompts, naive.noise(seeds), guided=lambda i: i < 2, num_steps=N, w=W)
    assert naive.error(x, expected) < 1e-4
    assert evaluations.rows == 2 * 4 * 2 + 4 * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", ["null", "text"])
def test_negative_prompts(make_pipe, kind, keep):
    pipe = make_pipe(kind)
    negative = "blue" if kind == "pixart" else ["blue", "blue"]
    with text_until(pipe, step=1, keep=keep):
        x = generate(pipe, negative_prompt=negative)
    options = {"guided": lambda i: i < 1, "num_steps": N, "w": W, "keep": keep}
    assert naive.error(x, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), negative="blue", **options)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_precomputed_embeddings(make_pipe, kind):
    pipe = make_pipe(kind)
    (text, text_mask), (null, null_mask) = naive.encode(pipe, PROMPTS), naive.encode(pipe, ["", ""])
    embeddings = {"prompt_embeds": text, "negative_prompt_embeds": null}
    if text_mask is not None:
        embeddings |= {"prompt_attention_mask": text_mask, "negative_prompt_attention_mask": null_mask}
        embeddings["negative_prompt"] = None
    with text_until(pipe, step=2):
        assert naive.error(generate(pipe, None, **embeddings), generate(pipe)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(make_pipe, kind, dtype):
    pipe = copy.deepcopy(make_pipe(kind)).to(dtype)
    stock = generate(pipe)
    with text_until(pipe, step=N):
        assert torch.equal(generate(pipe), stock)
    with text_until(pipe, step=2) as evaluations:
        x = generate(pipe)
    assert x.dtype == dtype
    assert evaluations.rows == 2 * 2 * 2 + 2 * 2


def test_what_a_dropped_branch_gives_is_an_ordinary_tensor(make_pipe):
    """Latents can be written in place and enter autograd."""
    pipe = make_pipe("sd-epsilon")
    with text_until(pipe, step=1):
        latents = generate(pipe)
    assert not latents.is_inference()
    latents += 1
    weight = torch.ones(1, requires_grad=True)
    (latents * weight).sum().backward()
    assert weight.grad is not None

    # A loop that records gradients gets them, also in a step without text.
    x, prompts = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    pipe.scheduler.set_timesteps(N)
    with text_until(pipe, step=0):
        out = pipe.unet(torch.cat([x, x]), pipe.scheduler.timesteps[0], prompts, return_dict=False)[0]
    out.sum().backward()
    assert x.grad.abs().sum() > 0


def test_rescaled_guidance_stays_right(make_pipe):
    """With both halves the same the rescaling factor is 1: the null prediction passes through."""
    pipe = make_pipe("sd-v")
    with text_until(pipe, step=0):
        assert naive.error(generate(pipe, guidance_rescale=0.7), generate(pipe)) < 1e-5


def test_every_batched_argument_is_halved(make_pipe):
    """In lists, tuples and dicts; what is not batched stays."""
    from shapefirst.guidance.rows import Taking, each_tensor

    pair = torch.arange(4.0)[:, None]
    tree = {"a": [pair, (pair, None)], "scale": 0.5, "t": torch.tensor(3), "other": torch.zeros(1, 4)}
    some = each_tensor(tree, Taking([1, 3], 4))
    assert some["a"][0].flatten().tolist() == some["a"][1][0].flatten().tolist() == [1, 3]
    half = each_tensor(tree, Taking([0, 1], 4))
    assert half["a"][0].flatten().tolist() == half["a"][1][0].flatten().tolist() == [0, 1]
    assert (half["a"][1][1], half["scale"], half["t"].ndim, half["other"].shape) == (None, 0.5, 0, (1, 4))

    pipe = make_pipe()
    with text_until(pipe, step=2):  # a batch of timesteps and of residuals, on their way through a real denoiser
        x, text = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.randn(2, 77, 16)
        pipe.scheduler.set_timesteps(N)
        for t in pipe.scheduler.timesteps:
            residuals = torch.zeros(2, 16, 4, 4)
            out = pipe.unet(x, t.repeat(2), text, mid_block_additional_residual=residuals, return_dict=True)
    assert torch.equal(*out.sample.chunk(2))


# --- no guidance, nothing to drop -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "w", "k"), all_pairs(KINDS, [0.0, 1.0], [0, 2]))
def test_without_guidance_nothing_changes(make_pipe, kind, w, k):
    """Not even for two prompts on one seed, whose rows look like the two halves of a guided batch."""
    pipe = make_pipe(kind)
    for seeds in (SEEDS, [5, 5]):
        stock = generate(pipe, seeds=seeds, guidance_scale=w)
        with text_until(pipe, step=k) as evaluations:
            assert torch.equal(generate(pipe, seeds=seeds, guidance_scale=w), stock)
        assert evaluations.rows == 2 * N


@pytest.mark.parametrize("kind", KINDS)
def test_two_images_of_one_seed_with_guidance(make_pipe, kind):
    pipe = make_pipe(kind)
    with text_until(pipe, step=1) as evaluations:
        generate(pipe, seeds=[5, 5])
    assert evaluations.rows == 4 + 2 * (N - 1)


def test_guidance_switched_off_half_way(make_pipe):
    """A callback that ends guidance itself, as diffusers' cutoff callback does, is let be."""
    pipe = make_pipe()

    def cut(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe._guidance_scale = 0.0
            kwargs["prompt_embeds"] = kwargs["prompt_embeds"].chunk(2)[1]
        return kwargs

    options = {"callback_on_step_end": cut, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with text_until(pipe, step=1) as evaluations:
        generate(pipe, **options)
    assert evaluations.rows == 4 + 2 + 2 + 2


# --- blocks ---------------------------------------------------------------------------------------------------------


def trace(pipe: Any) -> tuple[Any, ...]:
    """Everything that a hook could leave behind on the denoiser."""
    denoiser = denoiser_of(pipe)
    return (
        type(denoiser).__mro__,
        sorted(vars(denoiser)),
        denoiser.forward,
        vars(pipe).get("unet"),
        len(denoiser._forward_hooks),
        inspect.signature(denoiser.forward),
    )


def test_the_pipeline_is_left_as_it_was(make_pipe):
    pipe = make_pipe()
    before, stock = trace(pipe), generate(pipe)
    with text_until(pipe, step=1):
        assert trace(pipe) != before
        generate(pipe)
    assert trace(pipe) == before

    with pytest.raises(KeyError, match="mine"), text_until(pipe, step=1):
        raise KeyError("mine")
    assert trace(pipe) == before

    def give_up(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise KeyboardInterrupt
        return kwargs

    with pytest.raises(KeyboardInterrupt), text_until(pipe, step=1):
        generate(pipe, callback_on_step_end=give_up)
    assert trace(pipe) == before
    assert torch.equal(generate(pipe), stock)


def test_other_hooks_stay(make_pipe):
    from diffusers.hooks import HookRegistry, ModelHook

    pipe = make_pipe()
    before, registry = trace(pipe), HookRegistry.check_if_exists_or_initialize(pipe.unet)
    registry.register_hook(ModelHook(), "mine")
    own = trace(pipe)
    with text_until(pipe, step=1) as evaluations:
        generate(pipe)
    assert evaluations.rows == 4 + 2 * 3
    assert trace(pipe) == own
    assert list(registry.hooks) == ["mine"]
    with text_until(pipe, step=1):
        registry.register_hook(ModelHook(), "later")
    assert list(registry.hooks) == ["mine", "later"]
    for name in ("later", "mine"):
        registry.remove_hook(name)
    del pipe.unet._diffusers_hook, pipe.unet.forward
    assert trace(pipe) == before


@pytest.mark.parametrize(("kind", "sampler"), list(zip(cycle(KINDS), SAMPLERS, strict=False)))
def test_after_an_aborted_generation_the_next_one_is_right(make_pipe, kind, sampler):
    pipe = make_pipe(kind, sampler)
    calls = 0

    def abort(_: Any, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("out of patience")

    with text_until(pipe, step=2) as evaluations:
        expected = generate(pipe)
        handle = denoiser_of(pipe).register_forward_pre_hook(abort, with_kwargs=True)
        with pytest.raises(RuntimeError, match="out of patience"):
            generate(pipe)
        handle.remove()
        before = evaluations.rows
        assert torch.equal(generate(pipe), expected)
        assert evaluations.rows - before == 2 * (calls_of(sampler, N) + calls_of(sampler, 2))
        generate(pipe, num_inference_steps=6)  # another length in the same block
        assert evaluations.rows - before == 2 * sum(calls_of(sampler, n, N) for n in (N, 2)) + 2 * sum(
            calls_of(sampler, n, 6) for n in (6, 2)
        )


def test_an_interrupted_generation(make_pipe):
    pipe = make_pipe()

    def stop(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return kwargs

    with text_until(pipe, step=1) as evaluations:
        expected = generate(pipe)
        assert evaluations.rows == 4 + 2 * 3
        generate(pipe, callback_on_step_end=stop)
        assert evaluations.rows == 10 + 4 + 2
        assert torch.equal(generate(pipe), expected)


def test_blocks_nest_and_repeat(make_pipe):
    pipe = make_pipe()
    before, alone = trace(pipe), {}
    for k in (1, 3):
        with text_until(pipe, step=k):
            alone[k] = generate(pipe)
    block = text_until(pipe, step=3)
    for _ in range(2):
        with text_until(pipe, step=1) as outer:
            assert torch.equal(generate(pipe), alone[1])
            with block as inner, block:  # entered twice, it counts once
                assert torch.equal(generate(pipe), alone[3])
            assert torch.equal(generate(pipe), alone[1])
        assert (inner.calls, outer.calls, inner.rows) == (N, 3 * N, 4 * 3 + 2)
        assert trace(pipe) == before


def test_a_denoiser_shared_by_two_pipelines(make_pipe):
    one, other = make_pipe(), make_pipe()
    with text_until(one, step=1):
        with pytest.raises(ShapefirstError, match="another pipeline that shares it"), text_until(other, step=1):
            pass
        assert generate(one).shape == (2, 4, 8, 8)


class Toy(torch.nn.Module):
    """A denoiser that compiles in no time."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor) -> Any:
        return (0.1 * sample + encoder_hidden_states.mean((1, 2))[:, None, None, None],)


def test_a_compiled_denoiser(make_pipe):
    """Hooked after it was compiled, it runs neither stale code nor code compiled anew for every step."""
    pipe, graphs = make_pipe(), []

    def compiler(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def run() -> torch.Tensor:
        x, text = naive.noise([1]), torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(0))
        pipe.scheduler.set_timesteps(N)
        for t in pipe.scheduler.timesteps:
            eps_null, eps_text = pipe.unet(torch.cat([x, x]), t, text)[0].chunk(2)
            x = pipe.scheduler.step(eps_null + W * (eps_text - eps_null), t, x).prev_sample
        return x

    pipe.unet = Toy()
    stock = run()
    with text_until(pipe, step=2):
        expected = run()
    assert naive.error(expected, stock) > 1e-3
    pipe.unet = torch.compile(pipe.unet, backend=compiler)
    try:
        for _ in range(2):
            assert torch.equal(run(), stock)
            with text_until(pipe, step=2) as evaluations:
                assert torch.equal(run(), expected)
            assert evaluations.rows == 2 * 2 + 2
        assert len(graphs) <= 3
    finally:
        torch.compiler.reset()


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_image_to_image_counts_the_steps_that_it_runs(make_pipe, sampler):
    from diffusers import StableDiffusionImg2ImgPipeline

    text_to_image = make_pipe("sd-epsilon", sampler)
    pipe = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16)
    for k in (0, 1, 3):
        with text_until(pipe, step=k) as evaluations:
            generate(pipe, ["a cat"], [1], image=image, num_inference_steps=6, strength=0.5)
        assert evaluations.rows == calls_of(sampler, 3, 3) + calls_of(sampler, k, 3)
    said = "guides the first 4 steps, but this generation has 3"
    with pytest.raises(ShapefirstError, match=said), text_until(pipe, step=4):
        generate(pipe, ["a cat"], [1], image=image, num_inference_steps=6, strength=0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_step_is_found_by_value_too(make_pipe, sampler):
    """A loop of one's own, with timesteps as plain numbers and the batch doubled by hand."""
    pipe = make_pipe("sd-epsilon", sampler)
    text, null = naive.encode(pipe, ["a cat"])[0], naive.encode(pipe, [""])[0]
    results = []
    for as_number in (False, True):
        pipe.scheduler.set_timesteps(N)
        x = naive.noise([3]) * pipe.scheduler.init_noise_sigma
        with text_until(pipe, step=2) as evaluations, torch.no_grad():
            for t in pipe.scheduler.timesteps:
                x_in = torch.cat([pipe.scheduler.scale_model_input(x, t)] * 2)
                eps_null, eps_text = pipe.unet(
                    x_in, t.item() if as_number else t, torch.cat([null, text])
                ).sample.chunk(2)
                x = pipe.scheduler.step(eps_null + W * (eps_text - eps_null), t, x).prev_sample
        assert evaluations.rows == calls_of(sampler, N) + calls_of(sampler, 2)
        results.append(x)
    assert torch.equal(*results)
    expected = naive.sample(pipe, ["a cat"], naive.noise([3]), guided=lambda i: i < 2, num_steps=N, w=W)
    assert naive.error(results[0], expected) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_beyond_the_last_is_refused(make_pipe, kind):
    pipe = make_pipe(kind)
    before = trace(pipe)
    with (
        pytest.raises(ShapefirstError, match="guides the first 60 steps, but this generation has 4"),
        text_until(pipe, 60),
    ):
        generate(pipe)
    assert trace(pipe) == before


# --- pipelines that are refused ---------------------------------------------------------------------------------


def test_a_class_that_betrays_another_layout_is_not_taken_for_the_one_that_it_derives_from():
    import diffusers

    from shapefirst.families import FAMILIES, UNKNOWN, family_of_class

    class Own(diffusers.StableDiffusionPipeline):
        pass

    class Edited(diffusers.StableDiffusionPipeline):
        def __call__(self, editing_prompt: str) -> None:
            return print(editing_prompt)

    assert family_of_class(Own) is FAMILIES["StableDiffusionPipeline"]
    assert family_of_class(Edited) is UNKNOWN
    assert family_of_class(diffusers.DDPMPipeline).way == "whole calls"
    with pytest.raises(UnsupportedPipelineError, match=r"Of DDPMPipeline is not known .* such as budget=0.6"):
        text_until(diffusers.DDPMPipeline(torch.nn.Linear(1, 1), diffusers.DDPMScheduler()), 1)


def test_a_batch_of_another_layout_is_refused_before_anything_is_dropped(make_pipe):
    """Three branches that their pipeline's signature does not betray."""
    from diffusers import StableDiffusionPipeline

    class Three(StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(self, prompt: Any, guidance_scale: float = 5.0) -> None:
            self._guidance_scale = guidance_scale
            self.scheduler.set_timesteps(N)
            for t in self.scheduler.timesteps:
                noise_pred = self.unet(torch.randn(1, 4, 8, 8).repeat(3, 1, 1, 1), t, torch.randn(3, 77, 16)).sample
                noise_pred.chunk(3)

    pipe = Three(**make_pipe().components, requires_safety_checker=False)
    with (
        text_until(pipe, step=0) as evaluations,
        pytest.raises(UnsupportedPipelineError, match="not the latents twice"),
    ):
        pipe("a cat")
    assert evaluations.calls == 0


def test_what_is_no_schedule_is_refused(make_pipe):
    with pytest.raises(
        ShapefirstError, match=r"takes a TextSchedule, an Auto, words .* not 25 .did you mean paper:25, "
    ):
        guide(make_pipe(), 25)
