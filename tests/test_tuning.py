"""`shapefirst tune`: what it tries, how it scores and chooses, what it writes; and it goes on where it was stopped."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import asdict
from hashlib import sha256
from itertools import count
from types import SimpleNamespace

import diffusers
import naive
import numpy as np
import pytest
import torch
from commands import holding, one_sentence, shapefirst
from cuts import killed
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from test_guidance import PROMPTS

from shapefirst.cli import tune as commands_tune
from shapefirst.errors import ShapefirstError
from shapefirst.images.jobs import Sampling
from shapefirst.measure import l1
from shapefirst.models import load
from shapefirst.policies.file import read_policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import describe
from shapefirst.sampling.loop import decode, denoise, generators
from shapefirst.tuning import goals, runner, search
from shapefirst.tuning.candidates import Candidate, Costs, Found, candidates, choose, near_miss, shortlist
from shapefirst.tuning.kept import UnfinishedSearch
from shapefirst.tuning.search import SEED, BatchRecord, Tuner
from shapefirst.tuning.times import MOST_TRIES

N, W = 12, 3.0


@pytest.fixture
def tuner(make_pipe):
    return Tuner(make_pipe(), Sampling(W, N), PROMPTS, batch_size=1)


def nothing() -> None:
    pass


def recorded(tuner: Tuner, among: list[Candidate]) -> dict[str, float]:
    for batch in range(tuner.batches):
        tuner.record(batch, among, nothing)
    return tuner.scores()


def test_steps_of_equal_timesteps_are_scored_as_one_place(make_pipe):
    """Karras' spacing rounds the last ones to the same."""
    pipe = make_pipe("sd-epsilon", "dpm-solver")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.scheduler.set_timesteps(30)
    assert len(set(pipe.scheduler.timesteps.tolist())) < 30
    among = [Candidate(30, TextSchedule.at(range(29), order=order), "") for order in (0, 1, 2)]
    scores = recorded(Tuner(pipe, Sampling(W, 30), PROMPTS[:1], batch_size=1), among)
    assert all(0 < score < 0.01 for score in scores.values())


def test_the_candidates_are_distinct_and_of_all_kinds():
    found = candidates(50)
    assert len({c.name for c in found}) == len(found) > 100
    assert {c.schedule.keep for c in found} == {"null", "text", "neither"}
    assert {c.schedule.order for c in found} == {None, 0, 1, 2}
    assert {c.steps for c in found} == {50, 38, 25}
    for candidate in found:
        assert 0 < candidate.evaluations < 100
        if candidate.kind.startswith(("no branch", "one branch")):
            assert 1 - candidate.evaluations / 100 == pytest.approx(float(candidate.kind.split()[-1]), abs=0.011)
    runs = shortlist(found, {})
    assert len({c.kind for c in runs}) == len(runs) == len({c.kind for c in found})


def test_the_score_is_the_error_that_the_formula_says(tuner):
    """A naive loop along the fully guided trajectory."""
    schedule = TextSchedule.at([0, 1, 2, 5, 8, 11])
    candidate = Candidate(N, schedule, "mine")
    scores = recorded(tuner, [candidate])
    expected = []
    for i, prompt in enumerate(PROMPTS):
        steps = list(
            denoise(tuner.pipe, [prompt], num_inference_steps=N, guidance_scale=W, generator=generators([SEED + i]))
        )
        u = [np.log(1 + naive.sigma_over_alpha(tuner.pipe.scheduler, step.t)) for step in steps] + [0.0]
        total = 0.0
        for step in steps:
            known = [j for j in (0, 1, 2, 5, 8, 11) if j < step.index][-2:]
            if step.index not in (0, 1, 2, 5, 8, 11):
                guess = naive.polynomial([u[j] for j in known], [steps[j].eps for j in known], u[step.index])
                error = float((guess - step.eps).square().mean().sqrt())
                total += (u[step.index] - u[step.index + 1]) * error
        expected.append(total)
    assert scores[candidate.name] == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(N, TextSchedule.at([0, 1, 2, 5, 11]), "a"),
        Candidate(N, TextSchedule.at([0, 1, 2, 3, 8], keep="text"), "b"),
        Candidate(N, TextSchedule.until(4), "c"),
        Candidate(8, TextSchedule.always(), "d"),
    ],
)
def test_going_on_from_the_recording_is_the_whole_run(tuner, candidate):
    recorded(tuner, [candidate])
    found = tuner.run(candidate, nothing)
    again = Tuner(tuner.pipe, tuner.sampling, PROMPTS, tuner.batch_size)  # as after an interruption
    for batch in range(tuner.batches):
        again.restore(batch, tuner._recordings[batch])
    assert again.run(candidate, nothing) == pytest.approx(found, abs=2e-4)
    for i, prompt in enumerate(PROMPTS):
        options = {"guidance_scale": W, "generator": None}
        images = []
        for schedule, steps in ((candidate.schedule, candidate.steps), (TextSchedule.always(), N)):
            options["generator"] = generators([SEED + i])
            (*_, last) = denoise(tuner.pipe, [prompt], schedule=schedule, num_inference_steps=steps, **options)
            images.append(decode(tuner.pipe, last.x_next)[0])
        assert found[i] == pytest.approx(l1(*images), abs=2e-4)


def test_costs_put_a_time_together():
    costs = Costs(guided=2.0, one=1.5, none=0.25, rest=4.0)
    assert costs.seconds(Candidate(10, TextSchedule.until(4), "")) == 4 + 4 * 2 + 6 * 1.5
    assert costs.seconds(Candidate(10, TextSchedule.every(2), "")) == 4 + 5 * 2 + 5 * 0.25
    assert costs.saved(Candidate(5, TextSchedule.always(), ""), 10) == 1 - 14 / 24


def test_costs_are_measured(tuner):
    """By a clock that runs: of so short calls what a single step takes may be lost in the noise."""
    assert tuner.costs(nothing).seconds(Candidate(search.PROBE_STEPS, TextSchedule.always(), "")) > 0


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        (Costs(guided=2.0, one=1.5, none=0.25, rest=4.0), Costs(guided=2.0, one=1.5, none=0.25, rest=4.0)),
        (Costs(guided=2.0, one=-0.5, none=-0.25, rest=4.0), Costs(guided=2.0, one=0.0, none=0.0, rest=4.0)),
        (Costs(guided=2.0, one=1.5, none=0.5, rest=-7.0), Costs(guided=2.0, one=1.5 - 0.7, none=0.0, rest=0.0)),
    ],
    ids=["as they are", "steps below nothing", "a rest below nothing"],
)
def test_costs_are_those_of_the_clock_after_a_warm_up_and_never_below_nothing(tuner, monkeypatch, took, expected):
    now, calls = [0.0], []

    def call(policy, steps):
        guided = policy.text_steps(steps)
        others = took.none if policy.keep == "neither" else took.one
        turn = len(calls) // 4
        noise = 1000 if turn == 0 else turn - (search.PROBE_ROUNDS + 1) / 2
        now[0] += took.rest + guided * took.guided + (steps - guided) * others + noise
        calls.append(steps)

    monkeypatch.setattr(search, "PROBE_STEPS", 12)
    monkeypatch.setattr(search, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(tuner, "_call", call)
    assert asdict(tuner.costs(nothing)) == pytest.approx(asdict(expected))


def found_with(saved: float, distance: float) -> Found:
    candidate = Candidate(N, TextSchedule.until(1), str(saved))
    return Found(candidate, saved, tuple(distance * x for x in (0.9, 1.0, 1.1)))


def test_the_choice():
    several = [found_with(0.2, 0.001), found_with(0.4, 0.002), found_with(0.45, 0.01), found_with(0.6, 0.02)]
    assert choose(several, save_time=0.4) is several[1]
    assert choose(several, save_time=0.41) is several[2]
    assert choose(several, max_l1=0.03) is several[3]
    assert choose(several, max_l1=0.004) is several[1]
    with pytest.raises(ShapefirstError, match=r"No policy saves 70% of the time: the fastest saves 60% .* 0.0200"):
        choose(several, save_time=0.7)
    with pytest.raises(ShapefirstError, match=r"No policy keeps the L1 below 0.0005: the closest has 0.0010"):
        choose(several, max_l1=0.0005)


def test_what_just_misses_the_time_to_save_is_told_where_it_is_far_closer(capsys):
    """Whether it misses it is a matter of seconds, which are those of a busy machine."""
    near, chosen = found_with(0.391, 0.0008), found_with(0.45, 0.0058)
    several = [found_with(0.34, 0.0001), near, found_with(0.38, 0.002), chosen, found_with(0.6, 0.0081)]
    assert choose(several, save_time=0.4) is chosen
    assert near_miss(several, chosen, 0.4) is near
    assert near_miss(several[2:], chosen, 0.4) is several[2]
    assert near_miss(several[2:], found_with(0.4, 0.0039), 0.4) is None
    assert near_miss(several, several[0], 0.34) is near_miss(several[:1], chosen, 0.4) is None
    commands_tune._print_front([near, chosen], chosen, 0.4, ends=False)
    said = capsys.readouterr()
    assert "12 steps: saves 39.1% of the time, not 40.0%, at an L1 of 0.0008, not 0.0058; " in said.err
    assert f"; --evaluations {N + 1} takes it, however busy the machine." in said.err
    assert "beaten" not in said.out


def test_what_is_beaten_is_explained(capsys):
    several = [found_with(0.2, 0.002), chosen := found_with(0.4, 0.001)]
    commands_tune._print_front(several, chosen, None, ends=False)
    said = capsys.readouterr()
    assert said.err == ""
    assert "\tbeaten\nt" in said.out
    assert said.out.endswith("\nbeaten: another one is closer and saves more time.\n→ #nnnnnnnnnnn\n")


@pytest.fixture
def folder(make_pipe, tmp_path):
    make_pipe().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def command(folder, out, *more):
    return ("tune", "--model", folder, "--steps", N, "--guidance-scale", 3, "--out", out, "--save-time", 0.05, *more)


def test_tune_writes_a_policy_that_generate_takes(folder, tmp_path):
    out = tmp_path / "policy.json"
    result = shapefirst(*command(folder, out))
    assert result.exit_code == 0, result.output
    assert "On 16 other prompts: L1" in result.output
    policy = read_policy(out)
    assert policy.model == str(folder)
    assert policy.steps <= N
    assert policy.measured["prompts"] == 16
    assert 0 < policy.measured["L1"]["estimate"] < 1
    assert [file.name for file in tmp_path.iterdir() if "policy" in file.name] == ["policy.json"]

    images = tmp_path / "images"
    made = shapefirst("generate", "a cat", "--model", folder, "--policy", out, "--out", images, "--guidance-scale", 3)
    assert made.exit_code == 0, made.output
    assert describe(policy.schedule, policy.steps) in made.output
    assert "Measured on 16 prompts: L1" in made.output
    assert "Note" not in made.stderr
    again = shapefirst("generate", "a cat", "--model", folder, "--policy", out, "--out", tmp_path / "again")
    assert "Note" not in again.stderr
    same, there = (np.asarray(Image.open(next(p.glob("*.png")))) for p in (images, tmp_path / "again"))
    np.testing.assert_array_equal(same, there)
    scale = ("--guidance-scale", 7.5)
    stronger = shapefirst("generate", "a cat", "--model", folder, "--policy", out, "--out", images, *scale)
    assert "tuned at guidance scale 3, not 7.5" in stronger.stderr
    for words, message in (
        (("--steps", N + 1), "takes the place of 12 steps"),
        (("--sampler", "euler"), "tuned with the sampler"),
    ):
        refused = shapefirst("generate", "a cat", "--model", folder, "--policy", out, "--out", tmp_path / "no", *words)
        assert message in one_sentence(refused)
    assert not (tmp_path / "no").exists()


def test_a_search_with_a_lora_and_offloading(folder, tmp_path, monkeypatch):
    """Layer by layer, with the card played by the CPU; the policy is for the model with the LoRA on it."""
    import accelerate

    offload, cpu = accelerate.cpu_offload, torch.device("cpu")
    monkeypatch.setattr(accelerate, "cpu_offload", lambda model, _, **options: offload(model, cpu, **options))
    monkeypatch.setattr("shapefirst.models.offloading.check_offload", lambda device: None)
    for name, few in {"SAVINGS": (0.4,), "FEWER": (0.5,), "PAPERS": (0.4,)}.items():
        monkeypatch.setattr(f"shapefirst.tuning.candidates.{name}", few)
    monkeypatch.setattr(goals, "SHARES", {"keep": (0.5,)})
    monkeypatch.setattr(search, "PROBE_ROUNDS", 1)
    unet = load(folder, device="cpu").unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path, layers, weight_name="style.safetensors")
    out, lora = tmp_path / "policy.json", ("--lora", f"{tmp_path / 'style.safetensors'}=0.5")
    more = ("--calibration-prompts", 4, "--batch-size", 4, "--offload", "sequential", "--device", "cpu", *lora)
    result = shapefirst(*command(folder, out, *more))
    assert result.exit_code == 0, result.output
    assert f"--sampler ddim --lora {lora[1]} --offload sequential --policy" in result.stdout
    policy = read_policy(out)
    assert (policy.lora, policy.measured["device"]) == ("style.safetensors=0.5", "cpu")
    made = ("generate", "a cat", "--model", folder, "--policy", out, "--out", tmp_path / "images", "--device", "cpu")
    for words in (lora, (*lora, "--offload", "sequential")):
        assert shapefirst(*made, *words).exit_code == 0
    assert "with the LoRA 'style.safetensors=0.5': run" in one_sentence(shapefirst(*made))


def test_a_policy_that_is_being_looked_for_is_left_alone(folder, tmp_path):
    out, lock = tmp_path / "policy.json", tmp_path / ".policy.json.lock"
    with holding(lock) as first:
        said = one_sentence(shapefirst(*command(folder, out)))
        assert f"{str(out)!r} is in use by process {first.pid} on " in said
        assert sorted(path.name for path in tmp_path.iterdir()) == [lock.name, "tiny"]
    assert lock.exists()  # of the killed one
    assert "nothing to tune" in one_sentence(shapefirst(*command(folder, out, "--guidance-scale", 1)))
    assert "only one" in one_sentence(shapefirst(*command(folder, out, "--max-l1", 0.1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


@pytest.mark.parametrize("stage", ["record", "run"])
def test_an_interrupted_search_goes_on(folder, tmp_path, monkeypatch, stage):
    for name, few in {"SAVINGS": (0.25, 0.4), "FEWER": (0.5,), "PAPERS": (0.4,)}.items():
        monkeypatch.setattr(f"shapefirst.tuning.candidates.{name}", few)
    monkeypatch.setattr(search, "PROBE_ROUNDS", 1)
    out = tmp_path / "policy.json"
    done = {"record": [], "run": []}
    real = {name: getattr(Tuner, name) for name in done}

    def counted(name, stop_after):
        def act(self, what, *rest):
            if len(done[name]) == stop_after:
                raise KeyboardInterrupt
            done[name].append(what if name == "record" else what.name)
            return real[name](self, what, *rest)

        monkeypatch.setattr(Tuner, name, act)

    for name in done:
        counted(name, {"record": 1, "run": 1}[name] if name == stage else None)
    assert shapefirst(*command(folder, out)).exit_code == 130
    assert not out.exists()
    before = {name: list(values) for name, values in done.items()}
    for name in done:
        done[name].clear()
        counted(name, None)
    monkeypatch.setattr(runner, "__version__", "99.0")  # a new one has come in between
    result = shapefirst(*command(folder, out))
    assert result.exit_code == 0, result.output
    assert f"{len(before['run'])} policies already tried" in result.output
    for name in done:
        assert not set(before[name]) & set(done[name])
    assert done["run"]
    assert sorted(before["record"] + done["record"]) == [0, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["policy.json", "tiny"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--save-time", 1.5), "above 0 and up to 0.7, where the search ends, not 1.5"),
        (("--save-time", 0), "above 0"),
        (("--max-l1", 0.1), "only one"),
        (("--steps", 5), "--steps must be at least 10"),
        (("--guidance-scale", 1), "nothing to tune"),
        (("--batch-size", 0), "--batch-size must be at least 1"),
        (("--calibration-prompts", 3), "--calibration-prompts must be at least 4"),
        (("--steps", 2000), "from 1 to 1000"),
    ],
)
def test_bad_input_is_refused(folder, tmp_path, words, message):
    out = tmp_path / "policy.json"
    assert message in one_sentence(shapefirst(*command(folder, out, *words)))
    assert not out.exists()


def test_prompts_of_a_file(folder, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"a cat {i}" for i in range(31)))
    refused = shapefirst(*command(folder, tmp_path / "policy.json", "--prompts", file))
    assert "There are 31 different prompts" in one_sentence(refused)
    file.write_text("\n".join(f"a cat {i}" for i in range(50)))
    chosen_by, checked_on = commands_tune._halves(str(file), None)
    assert (len(chosen_by), len(checked_on)) == (25, 25)
    assert not set(chosen_by) & set(checked_on)
    file.write_text("\n".join(f"a cat {i}" for i in range(500)))
    assert [len(half) for half in commands_tune._halves(str(file), None)] == [64, 64]
    assert [len(half) for half in commands_tune._halves(str(file), 100)] == [100, 100]
    few = shapefirst(*command(folder, tmp_path / "policy.json", "--prompts", file, "--calibration-prompts", 300))
    assert "There are 500 different prompts" in one_sentence(few)


def test_a_slow_model_takes_fewer_prompts_and_says_beforehand_what_it_takes(folder, tmp_path):
    out = tmp_path / "policy.json"
    result = shapefirst(*command(folder, out, "--calibration-prompts", 4))
    assert result.exit_code == 0, result.output
    told = re.search(
        r"About ([\d,]+) evaluations of the denoiser, as many as ([\d,]+) pictures .* 4 prompts", result.stderr
    )
    assert told is not None
    cost = runner.search_cost(Tuner(load(folder), Sampling(W, N), [""] * 4, batch_size=8))
    cost += (4 + 1) * (2 * N + 2 * N)  # to check, with a warm-up: full guidance, and the choice at most
    assert int(told[1].replace(",", "")) == pytest.approx(cost, abs=1)
    assert int(told[2].replace(",", "")) == pytest.approx(cost / (2 * N), abs=1)
    assert "On 4 other prompts" in result.stdout


def test_a_spoilt_remainder_is_written_anew(tmp_path):
    out = tmp_path / "policy.json"
    rest = tmp_path / ".policy.json.tuning" / "state.json"
    mine = UnfinishedSearch(out, ["mine"])._digest
    fit = {"timesteps": [3], "sigmas": [1.0], "clean": [[1.0, 1.0]], "latents": [1.0], "weights": [[1.0]]}
    whole = {"digest": mine, "costs": None, "runs": {"fitted 1": [0.5]}, "solvers": {"fitted 1": json.dumps(fit)}}

    def state(**entries):
        content = {**whole, **entries, "seal": ""}
        seal = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return json.dumps({**content, "seal": seal})

    rest.parent.mkdir()
    rest.write_text(state())
    assert UnfinishedSearch(out, ["mine"]).fitted(1, 1) is not None
    shutil.rmtree(rest.parent)
    for text in (
        "",
        "[]",
        json.dumps({"digest": 3}),
        json.dumps(whole),
        state().replace("0.5", "0.25"),
        state().replace("[[1.0]]", "[[2.0]]"),
        state(digest="other"),
        state(costs={"guided": "much"}),
        state(costs=dict.fromkeys(("guided", "one", "none", "rest"), 0.0)),
        state(runs=[1]),
        state(runs={"a": "b"}),
        state(runs={"a": [-5.0]}),
        state(solvers={"fitted 1": json.dumps({**fit, "weights": [["a"]]})}),
        state(solvers={"fitted 1": "[" * 100_000}),
        state(solvers={"fitted 2": json.dumps(fit)}),
        "[" * 100_000,
    ):
        rest.parent.mkdir()
        rest.write_text(text)
        kept = UnfinishedSearch(out, ["mine"])
        assert kept.runs == {}
        assert kept.recording(0) is None
        assert not rest.parent.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"references": np.zeros((2, 4, 4))},
        {"names": np.array(["a"])},
        {"names": np.array([1, 2])},
        {"scores": np.array(["a", "b"])},
        {"scores": np.array([0.5, np.nan])},
        {"scores": np.array([[0.5, 0.5]])},
    ],
)
def test_a_recording_of_other_arrays_is_made_again(tmp_path, odd):
    kept = UnfinishedSearch(tmp_path / "policy.json", ["mine"])
    kept.keep_recording(0, BatchRecord(np.zeros((2, 4, 4, 3), np.uint8), {"a": 0.5, "b": 0.25}))
    (file,) = (tmp_path / ".policy.json.tuning").glob("recording-0.npz")
    with np.load(file) as whole:
        np.savez(file, **(dict(whole) | odd))
    assert kept.recording(0) is None


def test_a_recording_of_other_images_or_candidates_is_made_again(tuner):
    among = candidates(N)
    found = tuner.record(0, among, nothing)
    assert tuner.fits(0, found, among)
    assert not tuner.fits(0, BatchRecord(found.references[:0], found.scores), among)
    assert not tuner.fits(0, BatchRecord(found.references, {"a": 0.5}), among)


def test_a_search_that_is_killed_at_any_file_operation_goes_on_or_begins_anew(tmp_path):
    def search(out):
        kept = UnfinishedSearch(out, ["mine"])
        if kept.recording(0) is None:
            kept.keep_recording(0, BatchRecord(np.zeros((1, 2, 2, 3), np.uint8), {"a": 0.5}))
        if kept.costs is None:
            kept.keep_costs(Costs(2.0, 1.0, 0.0, 1.0))
        for name in "ab":
            if name not in kept.runs:
                kept.keep_run(name, [0.5])
        return kept

    for at in count():
        out = tmp_path / str(at) / "policy.json"
        if not killed(at, lambda out=out: search(out)):
            break
        again = UnfinishedSearch(out, ["mine"])
        assert set(again.runs) <= {"a", "b"}
        done = search(out)
        assert (done.costs, done.runs) == (Costs(2.0, 1.0, 0.0, 1.0), {"a": [0.5], "b": [0.5]})
        assert done.recording(0).scores == {"a": 0.5}
        done.forget()
        assert list(out.parent.iterdir()) == []
    assert at > 10


def test_a_remainder_of_another_format_is_not_gone_on_with(tmp_path, monkeypatch):
    UnfinishedSearch(tmp_path / "policy.json", ["mine"]).keep_run("a", [0.5])
    assert UnfinishedSearch(tmp_path / "policy.json", ["mine"]).runs == {"a": [0.5]}
    monkeypatch.setattr("shapefirst.tuning.kept.FORMAT", 99)
    assert not UnfinishedSearch(tmp_path / "policy.json", ["mine"]).goes_on


def test_a_recording_is_taken_up_whole_or_made_again(tmp_path):
    kept = UnfinishedSearch(tmp_path / "policy.json", ["mine"])
    recorded = BatchRecord(
        np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8), {"a": 0.5, "b": 0.25}
    )
    kept.keep_recording(0, recorded)
    (file,) = (tmp_path / ".policy.json.tuning").glob("recording-0.npz")
    whole, dice, taken = file.read_bytes(), random.Random(0), 0
    for _ in range(200):
        content = bytearray(whole)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content[: dice.choice((None, None, dice.randrange(len(content))))])
        found = kept.recording(0)
        if found is not None:
            taken += 1
            assert np.array_equal(found.references, recorded.references)
            assert found.scores == recorded.scores
    assert 0 < taken < 100


# --- goals ------------------------------------------------------------------------------------------------------------


def test_the_best_picture_is_looked_for_among_all_solvers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(goals, "CONVERGED_STEPS", 24)
    out = tmp_path / "best.json"
    asked = ("--goal", "best", "--evaluations", 14, "--steps", 12, "--guidance-scale", 3)
    result = shapefirst("tune", "--model", folder, *asked, "--out", out)
    assert result.exit_code == 0, result.output
    assert "a solver fitted to the model" in result.output
    assert "DPMSolverMultistep, Karras' spacing" in result.output
    policy = read_policy(out)
    assert policy.goal == "best"
    assert policy.solver is not None
    assert policy.measured["evaluations"] == 2 * policy.steps == 14
    made = shapefirst(
        *("generate", "a cat", "--model", folder, "--policy", out, "--guidance-scale", 3, "--sampler", "euler"),
        *("--out", tmp_path / "images"),
    )
    assert made.exit_code == 0, made.output
    assert "--sampler euler is left aside" in made.stderr
    (picture,) = (tmp_path / "images").glob("*.png")
    assert picture.name.endswith("best-of7.png")
    text = Image.open(picture).text
    assert (text["sampler"], text["num_inference_steps"]) == ("FittedScheduler", "7")
    for said in (7, 12):  # its own, and those that it takes the place of
        again = shapefirst(
            *("generate", "a cat", "--model", folder, "--policy", out, "--steps", said, "--out", tmp_path / "images")
        )
        assert again.exit_code == 0, again.output
    assert list((tmp_path / "images").glob("*.png")) == [picture]
    other = shapefirst("generate", "a cat", "--model", folder, "--policy", out, "--steps", 20, "--out", tmp_path / "no")
    assert "takes the place of 12 steps, with 7 of its own, and not of 20: leave --steps out" in one_sentence(other)
    assert "run `shapefirst tune --goal best --steps 20`" in one_sentence(other)


def test_a_fitted_solver_is_found_again_by_a_search_that_goes_on(tuner, tmp_path):
    recorded(tuner, [])
    found, distances = tuner.fit(5, nothing)
    kept = UnfinishedSearch(tmp_path / "policy.json", ["same"])
    kept.keep_fitted(5, found, distances)
    again = UnfinishedSearch(tmp_path / "policy.json", ["same"])
    assert again.fitted(5, len(distances)) == (found, distances)
    assert again.fitted(6, len(distances)) is None
    assert again.fitted(5, len(distances) + 1) is None


@pytest.mark.parametrize("goal", ["keep", "best"])
def test_the_nearest_of_all_times_is_taken_by_the_weighting_of_the_goal(make_pipe, monkeypatch, goal):
    """And ticks are as many as `search_cost` counts."""
    monkeypatch.setattr(goals, "CONVERGED_STEPS", 20)
    tuner = Tuner(make_pipe(), Sampling(W, N), PROMPTS, batch_size=1, goal=goal)
    recorded(tuner, [])
    fitted, made, ticks = search.fitted_solver, [], []

    def noting(pipe, runs, times, *, by_signal, **how):
        assert by_signal is (goal == "best")
        scheduler, x = fitted(pipe, runs, times, by_signal=by_signal, **how)
        made.append(scheduler.config.weights)
        return scheduler, x

    monkeypatch.setattr(search, "fitted_solver", noting)
    found, distances = tuner.fit(6, lambda: ticks.append(1))
    assert found.schedule.solver.entries["weights"] in made
    assert len(ticks) == 6 * MOST_TRIES
    assert tuner.run(found, nothing) == pytest.approx(distances, abs=1e-3)


def test_no_solver_is_fitted_where_noise_is_added_or_a_step_has_two_calls(make_pipe):
    assert Tuner(make_pipe(), Sampling(W, N), PROMPTS).can_fit
    assert not Tuner(make_pipe("sd-epsilon", "heun"), Sampling(W, N), PROMPTS).can_fit
    pipe = make_pipe()
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    assert not Tuner(pipe, Sampling(W, N), PROMPTS).can_fit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--goal", "fast"), "--goal is keep or best"),
        (("--evaluations", 1), "2 evaluations or"),
        (("--goal", "best", "--evaluations", 1), "with 10 evaluations or more and fewer than the 400 of"),
        (("--goal", "best", "--evaluations", 9), "with 10 evaluations or more and fewer than the 400 of"),
        (("--goal", "best", "--evaluations", 400), "with 10 evaluations or more and fewer than the 400 of"),
    ],
)
def test_odd_goals_are_refused(folder, tmp_path, words, message):
    said = shapefirst("tune", "--model", folder, "--guidance-scale", 3, "--out", tmp_path / "policy.json", *words)
    assert message in one_sentence(said)


def test_solvers_are_fitted_for_the_evaluations_that_were_asked_for():
    """A number that no share of the run's steps gives, and the same whatever the run: the best picture has none."""
    assert goals.steps_to_fit("keep", 50, 24) == goals.steps_to_fit("best", 50, 25) == [12]
    assert goals.steps_to_fit("best", 10, 30) == [15]
    assert goals.steps_to_fit("keep", 10, 30) == goals.steps_to_fit("keep", 50, 8) == []
    for goal, shares in goals.SHARES.items():
        assert goals.steps_to_fit(goal, 50, None) == [round(50 * share) for share in shares]


def test_the_choice_by_evaluations():
    few, many = (Found(Candidate(n, TextSchedule.always(), ""), 0.0, (1 / n,) * 3) for n in (5, 8))
    assert choose([few, many], evaluations=16) is many
    assert choose([few, many], evaluations=12) is few
    with pytest.raises(ShapefirstError, match="the fewest are 10, so give 10 or more"):
        choose([few, many], evaluations=8)


@pytest.mark.parametrize(("sampler", "fewest"), [("ddim", 10), ("heun", 18)])
def test_evaluations_out_of_reach_are_refused_before_anything_runs(folder, tmp_path, monkeypatch, sampler, fewest):
    monkeypatch.setattr(runner, "try_policies", lambda *_: pytest.fail("searched"))
    words = ("tune", "--model", folder, "--sampler", sampler, "--steps", N, "--guidance-scale", 3)
    said = one_sentence(shapefirst(*words, "--evaluations", fewest - 1, "--out", tmp_path / "policy.json"))
    assert f"No policy takes {fewest - 1} evaluations: the fewest are {fewest}, so give {fewest} or more." in said
    assert "About" not in said
