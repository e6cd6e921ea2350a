"""One core carries policies out: the hook, the loop of our own, several together and the tuner's replay agree."""

from __future__ import annotations

import copy
import warnings

import diffusers
import naive
import pytest
import torch
from crosses import all_pairs
from hypothesis import given
from hypothesis import strategies as st
from test_guidance import PROMPTS, SEEDS, Spy, W, generate
from test_pipelines import stable_diffusion_3

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.follow import Call, Follower, guided_prediction
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import parse_policy
from shapefirst.sampling.loop import denoise, encode, generators
from shapefirst.sampling.together import denoise_together
from shapefirst.tuning.candidates import Candidate, candidates
from shapefirst.tuning.search import _errors

N = 6


def options(steps: int = N) -> dict:
    return {"num_inference_steps": steps, "guidance_scale": W, "generator": generators(SEEDS)}


# --- every adapter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "kind", "words"),
    all_pairs(
        [torch.float32, torch.float16, torch.bfloat16],
        ["sd-epsilon", "sd-v", "pixart"],
        ["every:2", "every:3,keep=null", "every:3,keep=text", "paper:3"],
    ),
)
def test_every_adapter_does_what_the_equations_say(make_pipe, kind, dtype, words):
    """To the rounding of the number format, in which full guidance drifts as far from float32."""
    pipe, policy = make_pipe(kind), parse_policy(words)
    of = {"num_steps": N, "w": W, "keep": policy.keep, "order": policy.order}
    exact, fully = (
        naive.sample(pipe, PROMPTS, naive.noise(SEEDS), guided=steps.__contains__, **of)
        for steps in (policy.guided_steps(N), range(N))
    )
    half = copy.deepcopy(pipe).to(dtype)
    drift = naive.error(generate(half, num_inference_steps=N).float(), fully)
    with guide(half, policy):
        hooked = generate(half, num_inference_steps=N)
    *_, looped = denoise(half, PROMPTS, schedule=policy, **options())
    others = [TextSchedule.until(1), policy, TextSchedule.every(2, order=2)]
    together = denoise_together(half, encode(half, PROMPTS), others, **options())[1].latents
    rounding = torch.finfo(dtype).eps
    for found in (hooked, looped.x_next, together):
        assert found.dtype == dtype
        assert naive.error(found.float(), exact) < max(1e-4, 2 * drift + rounding)
        assert naive.error(found.float(), hooked.float()) < max(1e-5, rounding)


@pytest.mark.parametrize(
    ("sampler", "keep"), [("ddim", "null"), ("heun", "text"), ("heun", "neither"), ("dpm-solver", "neither")]
)
def test_a_tolerance_in_the_loop_of_our_own(make_pipe, sampler, keep):
    pipe, steps = make_pipe("sd-epsilon", sampler), 12
    policies = [Auto(0.02, keep=keep), TextSchedule.always(), Auto(0.1, keep=keep), Auto(0.0, keep=keep)]
    expected, rows = [], []
    for policy in policies:
        with guide(pipe, policy) as evaluations:
            expected.append(generate(pipe, num_inference_steps=steps))
        rows.append(evaluations.rows / len(PROMPTS))
    assert rows[0] < rows[1] == rows[3]
    for policy, x, count in zip(policies, expected, rows, strict=True):
        with Spy(pipe) as spy:
            done = list(denoise(pipe, PROMPTS, schedule=policy, **options(steps)))
        assert naive.error(done[-1].x_next, x) < 1e-4
        assert sum(step.evaluations for step in done) == count == spy.rows / len(PROMPTS)
    told: list[float] = []
    with Spy(pipe) as spy:
        found = denoise_together(pipe, encode(pipe, PROMPTS), policies, **options(steps), on_step=told.append)
    assert all(naive.error(end.latents, y) < 1e-4 for end, y in zip(found, expected, strict=True))
    assert [sum(end.evaluations) / len(PROMPTS) for end in found] == rows
    assert sum(told) == spy.rows / len(PROMPTS) < sum(rows)


def test_a_step_of_some_images_alone_shows_no_prediction_that_was_not_made(make_pipe):
    pipe, prompts = make_pipe(), ["a cat", "a red dog", "three birds"]
    of = {"num_inference_steps": 12, "guidance_scale": W, "generator": generators([1, 2, 3])}
    steps = list(denoise(pipe, prompts, schedule=Auto(0.02), **of))
    parted = [step for step in steps if 0 < step.evaluations < 2]
    assert parted
    assert all(step.eps_null is None and step.eps_text is None for step in parted)


@pytest.mark.parametrize(("sampler", "last"), [("dpm-solver", 2), ("dpm-solver-karras", 1), ("deis", 3), ("ddim", 0)])
def test_a_budgets_steps_lie_as_the_solver_asks_however_it_is_run(make_pipe, sampler, last):
    pipe, steps, budget = make_pipe("sd-epsilon", sampler), 20, TextSchedule.within(0.6)
    looped = list(denoise(pipe, PROMPTS, schedule=budget, **options(steps)))
    guided = [step.index for step in looped if step.evaluations == 2]
    assert len(guided) == 12
    calls, levels = steps_ahead(pipe.scheduler, steps)
    assert calls == (1,) * steps
    assert set(guided) == budget.in_run(pipe.scheduler, calls, levels).guided_steps(steps)
    if last:
        assert (guided[-last:], 20 - last - 1 in guided) == (list(range(20 - last, 20)), False)
    else:  # by the noise at each
        assert set(guided) != budget.guided_steps(steps)
    found = TextSchedule.at(guided)
    for policy in (budget, found):
        with guide(pipe, policy):
            assert naive.error(generate(pipe, num_inference_steps=steps), looped[-1].x_next) < 1e-4
    together = denoise_together(pipe, encode(pipe, PROMPTS), [budget, TextSchedule.until(5)], **options(steps))
    assert naive.error(together[0].latents, looped[-1].x_next) < 1e-4


# --- the tuner's replay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sampler", "keep"),
    [
        *all_pairs(["sd-epsilon", "sd-v"], ["ddim", "heun"], ["null", "text", "neither"]),
        ("pixart", "ddim", "null"),
        ("flow", "", "text"),
    ],
)
def test_what_is_replayed_is_what_runs(make_pipe, kind, sampler, keep):
    """Until its first step that is not guided a run is the recorded one, so there the replay must be exact."""
    pipe = stable_diffusion_3(make_pipe) if kind == "flow" else make_pipe(kind, sampler)
    pipe.set_progress_bar_config(disable=True)
    embeddings = encode(pipe, PROMPTS)
    recorded = list(denoise(pipe, embeddings, **options()))
    for policy in (TextSchedule.at([0, 1, 2, 5], keep=keep), TextSchedule.at([0, 1, 2], keep=keep, order=2)):
        ran = list(denoise(pipe, embeddings, schedule=policy, **options()))
        expected = ran[3].calls[0].guided - recorded[3].calls[0].guided
        errors = list(_errors(recorded, policy, W))
        assert [sum(each) > 0 for each in errors] == [step not in policy.guided_steps(N) for step in range(N)]
        assert errors[3][0] == pytest.approx(float(expected.flatten(1).square().mean(1).sqrt().mean()), rel=1e-4)
        assert [len(each) for each in errors] == ([2] * (N - 1) + [1] if sampler == "heun" else [1] * N)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_what_candidates_cost_is_what_they_evaluate(make_pipe, sampler):
    pipe, steps = make_pipe("sd-epsilon", sampler), 16
    order = pipe.scheduler.order
    for candidate in candidates(steps, order)[::17]:
        with guide(pipe, candidate.schedule) as evaluations:
            generate(pipe, PROMPTS[:1], SEEDS[:1], num_inference_steps=candidate.steps)
        assert candidate.evaluations == evaluations.rows
        guided, others = candidate.calls
        assert 2 * guided + 2 * others == evaluations.asked
    assert Candidate(steps, TextSchedule.always(), "", 2).evaluations == 2 * (2 * steps - 1)


# --- forks of a run -------------------------------------------------------------------------------------------------

SOLVERS = [("PNDMScheduler", {}), ("PNDMScheduler", {"skip_prk_steps": True}), ("HeunDiscreteScheduler", {})]
SOLVERS += [("DPMSolverMultistepScheduler", {}), ("UniPCMultistepScheduler", {}), ("LMSDiscreteScheduler", {})]


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        *((*solver, words) for solver in SOLVERS for words in ("steps:0-3+6,order=3", "tol:0.02,keep=null")),
        *((*SOLVERS[2], words) for words in ("full", "every:2,keep=text", "tol:0.02")),  # of two calls a step
    ],
)
def test_a_fork_goes_on_as_the_run_does(make_pipe, name, more, words):
    pipe, policy = make_pipe(), parse_policy(words)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **more)
    run = list(denoise(pipe, PROMPTS, schedule=policy, **options(9)))
    for k in (2, 5):
        fork = list(denoise(pipe, PROMPTS, schedule=policy, start=run[k], guidance_scale=W, num_inference_steps=9))
        assert [step.evaluations for step in fork] == [step.evaluations for step in run[k:]]
        assert naive.error(fork[-1].x_next, run[-1].x_next) < 1e-5
    end, *_ = denoise_together(pipe, encode(pipe, PROMPTS), [policy, TextSchedule.until(1)], **options(9))
    assert naive.error(end.latents, run[-1].x_next) < 1e-5


def unipc(pipe):
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.parametrize(
    ("words", "uncorrected"),
    [
        ("steps:0-6+8+11", range(3, 12)),  # four steps before step 7
        ("steps:0-2+4+6+8+10+11", range(12)),
        ("every:2", range(12)),
        ("full", ()),
        ("steps:0-11,keep=neither", ()),
        ("steps:0-6+8+11,keep=text", ()),
        ("paper:5", ()),
    ],
)
@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_unipc_corrects_no_steps_from_shortly_before_the_first_that_is_skipped(make_pipe, kind, words, uncorrected):
    pipe, policy = unipc(make_pipe(kind)), parse_policy(words)
    guided = policy.guided_steps(12).__contains__
    of = {"num_steps": 12, "w": W, "keep": policy.keep, "order": policy.order, "guided": guided}
    exact, always = (
        naive.sample(pipe, PROMPTS, naive.noise(SEEDS), **of, uncorrected=steps) for steps in (uncorrected, ())
    )
    stock = generate(pipe, num_inference_steps=12)
    with guide(pipe, policy):
        hooked = generate(pipe, num_inference_steps=12)
    assert torch.equal(generate(pipe, num_inference_steps=12), stock)
    *_, looped = denoise(pipe, PROMPTS, schedule=policy, **options(12))
    for found in (hooked, looped.x_next):
        assert naive.error(found, exact) < 1e-4
        assert not uncorrected or naive.error(found, always) > 3e-4


def test_together_part_where_one_is_corrected_and_the_other_is_not(make_pipe):
    """Up to step 7 all of them evaluate the same; only the corrector tells them apart."""
    pipe = unipc(make_pipe())
    policies = [parse_policy(words) for words in ("steps:0-7+9+11", "steps:0-8+10+11", "full", "tol:0.01")]
    alone = [list(denoise(pipe, PROMPTS, schedule=policy, **options(12)))[-1].x_next for policy in policies]
    together = denoise_together(pipe, encode(pipe, PROMPTS), policies, **options(12))
    for end, x in zip(together, alone, strict=True):
        assert naive.error(end.latents, x) < 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "budget", "steps", "warns"),
    [
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 0.5, 20, True),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, 0.44, 20, True),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}, 0.5, 20, False),
        ("DEISMultistepScheduler", {"timestep_spacing": "leading"}, 0.5, 20, False),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 0.5, 20, True),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 0.6, 20, False),
        ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, 0.5, 20, False),
        ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, 0.44, 20, True),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 0.5, 50, True),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 0.5, 20, False),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, 0.5, 20, False),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, 0.2, 50, False),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, 0.2, 25, True),
    ],
)
def test_where_fewer_steps_were_nearer_a_small_budget_says_so(make_pipe, kind, options, budget, steps, warns):
    """As `benchmarks/few_steps.py` found it."""
    pipe = make_pipe()
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)
    fewer = int(steps * budget)
    said = rf"With {kind}.* a budget of {budget:g} over {steps} steps .*: give num_inference_steps={fewer} instead"
    with pytest.warns(UserWarning, match=said) if warns else warnings.catch_warnings():
        if not warns:
            warnings.simplefilter("error", UserWarning)
        with guide(pipe, budget=budget):
            pipe("a cat", num_inference_steps=steps, output_type="latent")


def test_of_an_image_to_image_run_the_steps_that_are_asked_for_are_fewer(make_pipe):
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**make_pipe().components, requires_safety_checker=False)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    said = r"a budget of 0.5 over 10 steps .*: give num_inference_steps=10 instead"
    with pytest.warns(UserWarning, match=said), guide(pipe, budget=0.5):
        pipe("a cat", image=torch.zeros(1, 3, 64, 64), strength=0.5, num_inference_steps=20, output_type="latent")


def test_a_tolerance_that_lets_no_step_pass_says_so(make_pipe):
    pipe = make_pipe()
    call = {"prompt": "a cat", "num_inference_steps": 12, "output_type": "latent"}
    said = r"A tolerance of 1e-12 let no step pass, so nothing was saved.*budget=0\.75"
    with pytest.warns(UserWarning, match=said), guide(pipe, tol=1e-12):
        pipe(**call)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for policy in ({"tol": 1e6}, {"tol": 0}, {"budget": 1}):
            with guide(pipe, **policy):
                pipe(**call)
        with pytest.raises(ZeroDivisionError), guide(pipe, tol=1e-12):
            pipe(**call, callback_on_step_end=lambda *_: 1 / 0)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_tolerance_with_heun_measures_a_step_and_not_its_correction(make_pipe, order):
    """Of a step's two calls the first stands where the step before had its second: the two tell nothing of a gap."""
    pipe = make_pipe("sd-v", "heun")
    steps = list(denoise(pipe, PROMPTS, schedule=Auto(1e9, order=order), **options(12)))
    assert [step.evaluations for step in steps[: order + 2]] == [4.0] * (order + 2)
    assert steps[order + 2].evaluations == 0.0


def test_a_block_that_begins_within_a_run_is_refused(make_pipe):
    pipe = make_pipe()
    steps = denoise(pipe, PROMPTS, **options())
    next(steps)
    with guide(pipe, "paper:2"), pytest.raises(ShapefirstError, match="outside of guide"):
        next(steps)


# --- the core by itself ---------------------------------------------------------------------------------------------

policies = st.one_of(
    st.builds(TextSchedule.until, st.integers(0, 8), keep=st.sampled_from(["null", "text"])),
    st.builds(
        TextSchedule.every,
        st.integers(1, 4),
        keep=st.sampled_from(["null", "text", "neither"]),
        order=st.integers(0, 3),
    ),
    st.builds(
        Auto,
        st.sampled_from([0, 0.01, 1.0]),
        keep=st.sampled_from(["null", "text", "neither"]),
        order=st.integers(0, 3),
    ),
)


def play(follower: Follower, calls: list[Call], outputs: torch.Tensor) -> list[torch.Tensor]:
    made = []
    for call, (null, text) in zip(calls, outputs, strict=True):
        wanted = follower.wanted(call)
        out = {"null": null, "text": text}
        seen = {branch: out[branch][list(images)] for branch, images in wanted.items() if images}
        whole = follower.complete(call, seen)
        assert set(whole) == {"null", "text"}
        for branch, images in wanted.items():
            assert torch.equal(whole[branch][list(images)], out[branch][list(images)])  # what ran is never changed
        made.append(guided_prediction(whole, call.guidance_scale))
    return made


@given(policies, st.integers(1, 3), st.integers(0, 2**31))
def test_images_do_not_depend_on_one_another_and_forks_not_on_their_origin(policy, images, seed):
    steps = 8
    outputs = torch.randn(steps, 2, images, 3, generator=torch.Generator().manual_seed(seed))
    calls = [Call(step, steps, True, 1 - step / steps, 4.0) for step in range(steps)]
    made = play(Follower(policy, images), calls, outputs)
    for image in range(images):
        alone = play(Follower(policy, 1), calls, outputs[:, :, image : image + 1])
        assert all(torch.allclose(x[image : image + 1], y, atol=1e-4) for x, y in zip(made, alone, strict=True))
    origin = Follower(policy, images)
    play(origin, calls[:4], outputs[:4])
    fork = origin.fork()
    assert fork.key(calls[4]) == origin.key(calls[4])
    play(origin, calls[4:], -outputs[4:])
    again = play(fork, calls[4:], outputs[4:])
    assert all(torch.equal(x, y) for x, y in zip(again, made[4:], strict=True))


def test_followers_of_equal_keys_do_the_same():
    call = Call(3, 8, True, 0.5, 4.0)
    keys = [Follower(policy, 2).key(call) for policy in (TextSchedule.until(4), TextSchedule.always(), Auto(0.1))]
    assert len(set(keys)) == 1
    dropped = [TextSchedule.until(2), TextSchedule.until(3), TextSchedule.until(2, keep="text")]
    assert len({Follower(policy, 2).key(call) for policy in dropped}) == 2
