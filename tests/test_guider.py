"""A policy as the guider of Modular Diffusers: what it gives, and which branches are evaluated for it."""

from __future__ import annotations

import itertools
from typing import Any

import diffusers
import modular
import naive
import pytest
import torch
from conftest import BETAS
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines import ComponentSpec
from modular import PIPELINES, STEPS, Modular, Naive, W

import shapefirst
from shapefirst import Guider, ShapefirstError, TextSchedule
from shapefirst.guidance.timeline import steps_ahead

#: Words -> (the guided steps of 6, the branch that is kept, the order), as the words say.
POLICIES: dict[str, tuple[set[int], str, int | None]] = {
    "paper:3": ({0, 1, 2}, "null", None),
    "text:3": ({0, 1, 2}, "text", None),
    "paper:0": (set(), "null", None),
    "steps:2-3,keep=null,order=none": ({2, 3}, "null", None),
    "steps:0-1+4,keep=null,order=1": ({0, 1, 4}, "null", 1),
    "steps:0-1+4,keep=text,order=1": ({0, 1, 4}, "text", 1),
    "steps:0-2+4,keep=neither,order=2": ({0, 1, 2, 4}, "neither", 2),
    "every:2,order=0": ({0, 2, 4}, "neither", 0),
    "budget:0.84": ({0, 1, 2, 3, 5}, "neither", 1),
}


@pytest.fixture(params=PIPELINES)
def tiny(request: pytest.FixtureRequest, make_pipe: Any) -> Modular:
    return PIPELINES[request.param](make_pipe)


#: Every pipeline under three of the policies, and every policy on two of the pipelines.
SOME = [(name, words) for i, name in enumerate(PIPELINES) for j, words in enumerate(POLICIES) if i % 3 == j % 3]


@pytest.fixture
def small(make_pipe: Any) -> Modular:
    return modular.stable_diffusion_3(make_pipe)


def calls(guided: set[int], keep: str, steps: int = STEPS) -> int:
    return sum(2 if step in guided else keep != "neither" for step in range(steps))


def reference(tiny: Modular, guided: Any, keep: str = "null", order: int | None = None, **more: Any) -> torch.Tensor:
    return tiny(Naive(lambda step: step in guided, keep, order, tiny.level), **more)


def test_full_guidance_is_that_of_diffusers_bit_for_bit(tiny):
    for options in ({}, {"guidance_rescale": 0.7, "use_original_formulation": True}):
        stock = tiny(ClassifierFreeGuidance(guidance_scale=W, **options))
        assert torch.equal(tiny(Guider("full", guidance_scale=W, **options)), stock)
        assert len(tiny.calls) == 2 * STEPS
    assert naive.error(reference(tiny, {0, 1, 2}), stock) > 1e-3  # the text is heard in the other steps, too


@pytest.mark.parametrize(("tiny", "words"), SOME, indirect=["tiny"])
def test_it_gives_what_the_equations_say_and_evaluates_no_more_than_the_policy_asks_for(tiny, words):
    guided, keep, order = POLICIES[words]
    if words.startswith("budget") and getattr(tiny.pipe.scheduler.config, "shift", 1) == 3:
        guided = {0, 1, 3, 4, 5}  # along a flow whose times are shifted
    guider = Guider(words, guidance_scale=W)
    images, ran = tiny(guider), len(tiny.calls)
    assert naive.error(images, reference(tiny, guided, keep, order)) < 1e-5
    assert ran == calls(guided, keep) == guider.evaluations.calls
    assert (guider.evaluations.rows, guider.evaluations.asked) == (2 * ran, 2 * 2 * STEPS)
    assert guider.evaluations.asked_calls == 2 * STEPS


def evaluated(tiny: Modular, guider: Guider, **more: Any) -> list[list[str]]:
    """What each step of a generation evaluates."""
    steps: list[list[str]] = []
    call = type(guider).__call__

    class Listening(type(guider)):
        def __call__(self, data: list[Any]) -> Any:
            steps.append([getattr(batch, self._identifier_key) for batch in data])
            return call(self, data)

    guider.__class__ = Listening
    tiny(guider, **more)
    return steps


def test_a_step_evaluates_the_branches_that_the_policy_wants(small):
    both = ["pred_cond", "pred_uncond"]
    for words, others in (("paper:2", ["pred_uncond"]), ("text:2", ["pred_cond"]), ("steps:0-1", [])):
        assert evaluated(small, Guider(words, guidance_scale=W)) == [both, both, *[others] * 4]


@pytest.mark.parametrize("words", ["paper:3", "steps:0-1+4,keep=text,order=1"])
def test_rescaled_guidance_rescales_what_was_filled_in(small, words):
    guided, keep, order = POLICIES[words]
    expected = small(Naive(lambda step: step in guided, keep, order, guidance_rescale=0.7))
    assert naive.error(small(Guider(words, guidance_scale=W, guidance_rescale=0.7)), expected) < 1e-5


def test_the_original_formulation_is_the_same_with_a_scale_less_by_one(small):
    for policy in ({"policy": "every:2"}, {"tol": 0.01}):
        native = small(Guider(**policy, guidance_scale=W))
        ran = list(small.calls)
        assert naive.error(small(Guider(**policy, guidance_scale=W - 1, use_original_formulation=True)), native) < 1e-5
        assert small.calls == ran


def test_a_tolerance_decides_for_the_whole_batch(small):
    stock = small(ClassifierFreeGuidance(guidance_scale=W), num_inference_steps=12)
    spent, errors = [], []
    for tol in (0.0, 0.05, 0.2, 1e9):
        guider = Guider(tol=tol, guidance_scale=W)
        steps = evaluated(small, guider, num_inference_steps=12)
        guided = {step for step, branches in enumerate(steps) if branches}
        images = small(guider, num_inference_steps=12)
        assert len(small.calls) == 2 * len(guided)
        assert naive.error(images, reference(small, guided, "neither", 1, num_inference_steps=12)) < 1e-5
        spent.append(len(guided))
        errors.append(naive.error(images, stock))
    assert 12 == spent[0] > spent[1] > spent[2] > spent[3]
    assert 0 == errors[0] < errors[1] < errors[2] < errors[3]


SOLVERS = {
    "Heun": (diffusers.HeunDiscreteScheduler, lambda call: call // 2, 2 * STEPS - 1),
    "PNDM": (diffusers.PNDMScheduler, lambda call: max(0, call - 1), STEPS + 1),
    "DPM-Solver++": (diffusers.DPMSolverMultistepScheduler, lambda call: call, STEPS),
    "Euler": (diffusers.EulerDiscreteScheduler, lambda call: call, STEPS),
}
SOLVER_OPTIONS = {"PNDM": {"skip_prk_steps": True}}


@pytest.mark.parametrize("words", ["paper:3", "steps:0-1+4,keep=null,order=1", "every:2,order=0"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_are_those_of_the_solver(make_pipe, solver, words):
    scheduler, step_of, length = SOLVERS[solver]
    xl = modular.stable_diffusion_xl(make_pipe, scheduler(**BETAS, **SOLVER_OPTIONS.get(solver, {})))
    guided, keep, order = POLICIES[words]
    images, ran = xl(Guider(words, guidance_scale=W)), len(xl.calls)
    assert ran == sum(2 if step_of(call) in guided else keep != "neither" for call in range(length))
    expected = xl(Naive(lambda step: step in guided, keep, order, xl.level, step_of))
    assert naive.error(images, expected) < 2e-5


def test_unipc_corrects_no_steps_from_shortly_before_the_first_that_is_skipped(make_pipe):
    """As under `guide`; diffusers' own list says after which steps the next one is not corrected."""
    policy, guided = "steps:0-6+8+11", {*range(7), 8, 11}
    found, exact, always = (
        modular.stable_diffusion_xl(make_pipe, diffusers.UniPCMultistepScheduler(**BETAS, disable_corrector=disabled))
        for disabled in ([], [step - 1 for step in range(3, 12)], [])
    )
    y = found(Guider(policy, guidance_scale=W), num_inference_steps=12)
    expected, other = (
        xl(Naive(guided.__contains__, "neither", 1, xl.level), num_inference_steps=12) for xl in (exact, always)
    )
    assert naive.error(y, expected) < 1e-4
    assert naive.error(y, other) > 3e-4


@pytest.mark.parametrize("solver", ["UniPCMultistep", "DEISMultistep", "DDIM", "EulerDiscrete"])
def test_a_budgets_steps_are_those_that_the_solver_asks_for(make_pipe, solver):
    scheduler = getattr(diffusers, f"{solver}Scheduler")(**BETAS)
    xl = modular.stable_diffusion_xl(make_pipe, scheduler)
    y = xl(Guider(budget=0.6, guidance_scale=W), num_inference_steps=15)
    budget = TextSchedule.within(0.6)
    steps = sorted(budget.in_run(scheduler, *steps_ahead(scheduler, 15)).guided_steps(15))
    assert steps != sorted(budget.guided_steps(15))
    named = f"steps:{'+'.join(map(str, steps))}"
    assert torch.equal(y, xl(Guider(named, guidance_scale=W), num_inference_steps=15))


def test_a_guider_says_that_a_budget_is_too_small(make_pipe):
    xl = modular.stable_diffusion_xl(make_pipe, diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True))
    said = "With DPMSolverMultistepScheduler with use_karras_sigmas a budget of 0.5 over 20 steps .*steps=10 instead"
    with pytest.warns(UserWarning, match=said):
        xl(Guider(budget=0.5, guidance_scale=W), num_inference_steps=20)


def test_full_guidance_guides_all_calls_of_a_solver_with_two_a_step(make_pipe):
    xl = modular.stable_diffusion_xl(make_pipe, diffusers.HeunDiscreteScheduler(**BETAS))
    images = xl(Guider("full", guidance_scale=W))
    assert len(xl.calls) == 2 * (2 * STEPS - 1)
    assert naive.error(images, xl(Naive(lambda step: True))) < 1e-5
    xl(ClassifierFreeGuidance(guidance_scale=W))
    assert len(xl.calls) == 2 * STEPS + STEPS - 1  # diffusers' own takes calls for steps


def test_steps_are_those_that_run(make_pipe):
    xl, part = modular.stable_diffusion_xl(make_pipe), {"num_inference_steps": 12, "denoising_end": 0.5}
    images = xl(Guider("paper:0.5", guidance_scale=W), **part)
    assert len(xl.calls) == 5 + 3
    assert naive.error(images, reference(xl, {0, 1, 2}, **part)) < 1e-5


def test_generations_start_afresh(small):
    guider = Guider("steps:0-1+4,keep=neither,order=1", guidance_scale=W)
    first = small(guider)
    assert torch.equal(small(guider), first)
    for images, steps in ((3, STEPS), (1, STEPS), (2, 9)):
        other = small(guider, images=images, num_inference_steps=steps)
        ran = len(small.calls)
        expected = reference(small, {0, 1, 4}, "neither", 1, images=images, num_inference_steps=steps)
        assert naive.error(other, expected) < 1e-5
        assert ran == 6
    embeddings = {"prompt_embeds": modular.normal(9, 2, 5, 16, scale=2)}
    other = small(guider, **embeddings)
    assert naive.error(other, reference(small, {0, 1, 4}, "neither", 1, **embeddings)) < 1e-5
    assert torch.equal(small(guider), first)


def test_an_aborted_generation_leaves_nothing_behind(small):
    guider = Guider("steps:0-1+4,keep=null,order=1", guidance_scale=W)
    first = small(guider)
    (network,) = small.denoisers
    for calls_before in (2, 4, 5, 7):
        count = itertools.count()

        def stop(*_: Any, count: Any = count, at: int = calls_before) -> None:
            if next(count) == at:
                raise KeyboardInterrupt

        handle = network.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            small(guider)
        handle.remove()
        assert guider.num_conditions == 2
        assert torch.equal(small(guider), first)


class Changing(Guider):
    """Something else changes before the given step."""

    change: Any = None
    at = 3

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        if step == self.at:
            self.change(self)
        super().set_state(step, num_inference_steps, timestep)


def test_a_scale_that_changes_half_way_begins_anew(small):
    guider = Changing("steps:0-1,keep=neither,order=1", guidance_scale=W)
    guider.change = lambda self: setattr(self, "guidance_scale", 2.0)
    small(guider)
    assert len(small.calls) == 2 * (2 + 2)  # two guided steps, and two more to extrapolate from


def test_conditions_that_change_half_way_begin_anew(small):
    guider, prepare = Guider("steps:0-1,keep=neither,order=1", guidance_scale=W), Guider.prepare_inputs

    def change(data: dict[str, Any]) -> Any:
        if guider._step >= 3:
            data = {**data, "encoder_hidden_states": tuple(2 * x for x in data["encoder_hidden_states"])}
        return prepare(guider, data)

    guider.prepare_inputs = change
    small(guider)
    assert len(small.calls) == 2 * (2 + 2)  # doubled in three steps, each time anew


@pytest.mark.parametrize("off", [{"enabled": False}, {"guidance_scale": 1.0}])
def test_without_guidance_whole_calls_are_skipped_or_nothing_changes(small, off):
    stock = small(ClassifierFreeGuidance(**off))
    assert torch.equal(small(Guider("paper:3", **off)), stock)
    assert len(small.calls) == STEPS
    guider = Guider("steps:0-1+4", **off)
    small(guider)
    assert len(small.calls) == 3
    assert guider.evaluations.saved == 0.5


def test_two_denoisers_have_a_guider_each(make_pipe):
    wan = modular.wan_22(make_pipe)
    stock = wan(ClassifierFreeGuidance(guidance_scale=W), ClassifierFreeGuidance(guidance_scale=3.0))
    assert wan.calls == [0, 0, 0, 0, *[1] * 8]
    assert torch.equal(wan(Guider("full", guidance_scale=W), Guider("full", guidance_scale=3.0)), stock)

    images = wan(Guider("paper:4", guidance_scale=W), Guider("paper:4", guidance_scale=3.0))
    assert wan.calls == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    turns = (Naive(lambda step: step < 4, guidance_scale=w) for w in (W, 3.0))
    assert naive.error(images, wan(*turns)) < 1e-5

    # The second one has seen nothing at step 2, and guides two steps before it goes by its policy.
    images = wan(*(Guider("steps:0-1+5", guidance_scale=w) for w in (W, 3.0)))
    assert wan.calls == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    turns = (Naive(lambda step: step in {0, 1, 2, 3, 5}, "neither", 1, guidance_scale=w) for w in (W, 3.0))
    assert naive.error(images, wan(*turns)) < 1e-5


def test_the_chunks_of_a_video_are_generations(make_pipe):
    video, (guided, keep, order) = modular.helios(make_pipe), POLICIES["steps:0-1+4,keep=null,order=1"]
    images = video(Guider("steps:0-1+4,keep=null,order=1", guidance_scale=W), images=1)
    assert len(video.calls) == 2 * calls(guided, keep)
    assert naive.error(images, reference(video, guided, keep, order, images=1)) < 1e-5


def test_one_guider_for_two_denoisers_extrapolates_nothing(make_pipe):
    wan = modular.wan_22(make_pipe)
    guider = Guider("paper:3", guidance_scale=W)
    assert naive.error(wan(guider, guider), wan(*[Naive(lambda step: step < 3)] * 2)) < 1e-5
    guider = Guider(budget=0.9, guidance_scale=W)
    with pytest.raises(ShapefirstError, match="give each a Guider of its own"):
        wan(guider, guider)
    assert wan.calls == []


def test_in_a_loop_of_ones_own_timesteps_are_noise_levels():
    guider, seen = Guider("every:2"), []
    for step, t in enumerate(torch.linspace(1000, 100, STEPS)):
        guider.set_state(step, STEPS, t)
        batches = guider.prepare_inputs({"x": (torch.ones(2, 3), torch.zeros(2, 3))})
        seen.append(len(batches))
        for batch in batches:
            batch.noise_pred = batch.x * t
        out = guider(batches)
        if step > 2:  # linear in t, and so exact
            assert torch.allclose(out.pred, 7.5 * t * torch.ones(2, 3))
    assert seen == [2, 0, 2, 0, 2, 0]


def test_controlnets_in_guess_mode_hear_which_branch_runs():
    for words, expected in (("full", [True, False]), ("paper:0", [False]), ("text:0", [True])):
        guider = Guider(words)
        guider.set_state(0, STEPS, torch.tensor(999.0))
        assert not guider.is_conditional
        told = []
        for _ in guider.prepare_inputs({"x": (torch.ones(2), torch.zeros(2))}):
            guider.prepare_models(torch.nn.Identity())
            told.append(guider.is_conditional)
        assert told == expected


@pytest.mark.parametrize("given", [{"policy": "every:2,keep=text"}, {"budget": 0.6}, {"tol": 0.006}])
def test_it_is_saved_and_loaded(tmp_path, given):
    guider = Guider(**given, guidance_scale=3.0, guidance_rescale=0.5, use_original_formulation=True, enabled=False)
    guider.save_pretrained(tmp_path)
    spec = ComponentSpec.from_component("guider", guider)
    for other in (Guider.from_pretrained(tmp_path), guider.new(), spec.create()):
        assert type(other) is Guider
        assert other.policy == guider.policy
        assert (other.guidance_scale, other.guidance_rescale, other._enabled) == (3.0, 0.5, False)
    assert guider.new(guidance_scale=5.0).guidance_scale == 5.0
    assert "State:" in repr(guider)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Give one of a policy"),
        ({"policy": "full", "budget": 0.5}, "Give one of a policy"),
        ({"policy": "papper:3"}, "There is no policy 'papper:3'"),
        ({"policy": TextSchedule.until(3)}, 'say "paper:25" or .* not a TextSchedule'),
        ({"budget": 1.5}, "A budget is a share"),
        ({"tol": "low"}, "tol must be a number"),
        ({"policy": "nowhere.json"}, "There is no policy file"),
    ],
)
def test_what_is_no_policy_is_refused_at_once(given, sentence):
    with pytest.raises(ShapefirstError, match=sentence):
        Guider(**given)


def test_a_tuned_policy_belongs_to_its_model(tmp_path):
    from shapefirst.policies.file import PolicyFile, write_policy

    tuned = PolicyFile("pocket", "0" * 12, "DDIMScheduler", "0" * 12, 4.0, 6, (0, 1, 4), "neither", 1)
    write_policy(tuned, tmp_path / "policy.json")
    with pytest.raises(ShapefirstError, match="was tuned on one model"):
        Guider(str(tmp_path / "policy.json"))


def test_a_policy_that_does_not_fit_is_refused_before_anything_runs(small):
    with pytest.raises(ShapefirstError, match="the first 7 steps, but this generation has 6"):
        small(Guider("paper:7"))
    with pytest.raises(ShapefirstError, match="too few to extrapolate from"):
        small(Guider(budget=0.3))
    assert small.calls == []


def test_a_loop_of_ones_own_says_how_many_calls_it_makes():
    with pytest.raises(ShapefirstError, match="A generation of 6 calls of the denoiser has no call 6"):
        Guider("full").set_state(6, STEPS, torch.tensor(1.0))


def test_it_is_told_the_step_first():
    with pytest.raises(ShapefirstError, match=r"call set_state\(\)"):
        Guider("full").prepare_inputs({})


def test_the_package_has_it():
    assert shapefirst.Guider is Guider


def test_with_a_sampler_that_adds_noise_predictions_are_held_and_not_extrapolated(make_pipe):
    tiny = modular.stable_diffusion_xl(make_pipe, diffusers.EulerAncestralDiscreteScheduler(**BETAS))
    images = tiny(Guider("steps:0-1+4,keep=neither,order=1", guidance_scale=W))
    assert naive.error(images, reference(tiny, {0, 1, 4}, "neither", 0)) < 1e-5
    assert naive.error(images, reference(tiny, {0, 1, 4}, "neither", 1)) > 1e-3
