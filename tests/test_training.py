"""The training loop resumes as if it had not been interrupted; the stages end in a folder that diffusers reads."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import holding, one_sentence, shapefirst
from safetensors.torch import save_file
from torch import nn

from shapefirst.errors import ShapefirstError
from shapefirst.files import LOCK
from shapefirst.models.catalogue import POCKET
from shapefirst.training import loop
from shapefirst.training import stages as training
from shapefirst.training.ending import exit_code
from shapefirst.training.loop import Recipe, TrainingRun, fit, learning_rate
from shapefirst.training.stage import run_stage
from shapefirst.training.text import build_tokenizer


def problem() -> tuple[nn.Module, loop.LossFunction]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)

    def loss(_: int, g: torch.Generator) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 3, generator=g)
        return {"loss": (model(x) - x[:, :2]).square().mean()}

    return model, loss


def run_in(folder) -> TrainingRun:
    folder.mkdir(exist_ok=True)
    return TrainingRun(folder, 0, torch.device("cpu"))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    recipe = Recipe(steps=12, batch=8, learning_rate=1e-2, ema=0.9)
    model, loss = problem()
    straight = fit("toy", model, loss, recipe, run_in(tmp_path / "straight"))

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # after every step
    model, loss = problem()

    def broken(step: int, g: torch.Generator) -> dict[str, torch.Tensor]:
        if step == 7:
            raise KeyboardInterrupt
        return loss(step, g)

    with pytest.raises(KeyboardInterrupt):
        fit("toy", model, broken, recipe, run_in(tmp_path / "resumed"))
    model, loss = problem()
    resumed = fit("toy", model, loss, recipe, run_in(tmp_path / "resumed"))
    for name, tensor in straight.items():
        assert torch.allclose(resumed[name], tensor, atol=1e-7), name


def test_the_average_follows_its_recurrence(tmp_path):
    recipe = Recipe(steps=5, batch=8, learning_rate=1e-1, ema=0.5)
    model, loss = problem()
    seen = []

    def watched(step: int, g: torch.Generator) -> dict[str, torch.Tensor]:
        seen.append(model.weight.detach().clone())
        return loss(step, g)

    result = fit("toy", model, watched, recipe, run_in(tmp_path))
    expected, weights = seen[0], [*seen[1:], model.weight.detach()]
    for i, w in enumerate(weights):
        decay = min(0.5, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * w
    assert torch.allclose(result["weight"], expected, atol=1e-6)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    recipe = Recipe(steps=100, batch=1, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(recipe, i) for i in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_stages_make_a_pipeline_that_diffusers_reads(tmp_path, monkeypatch):
    """Every stage but the card, two steps each, in this process; then a second run finds everything done."""
    for stage in training.CURRICULA["pocket"].stages[:-1]:
        run_stage(tmp_path, "pocket", "smoke", 0, stage)
    weights = tmp_path / "weights"
    assert not list(weights.rglob("*.bin")) + list(weights.rglob("*.ckpt"))

    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel

    pipe = StableDiffusionPipeline.from_pretrained(weights, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red cat", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    clip = CLIPModel.from_pretrained(weights / "clip")
    tokens = pipe.tokenizer(["a red cat"], padding="max_length", return_tensors="pt").input_ids
    ours = pipe.text_encoder(tokens).last_hidden_state
    assert torch.allclose(ours, clip.text_model(tokens).last_hidden_state, atol=1e-5)

    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("denoiser/*")}
    assert before
    run_stage(tmp_path, "pocket", "smoke", 0, "denoiser")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("denoiser/*")} == before
    rows = [json.loads(line) for line in (tmp_path / "denoiser.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == training.PRESETS["smoke"].denoiser.steps


def test_the_tokenizer_is_the_same_in_every_process():
    """The trainer's hash tables are seeded anew in each process, and ties between pairs of letters fall by them: the
    digest is that of another process. Of a trainer that learns otherwise, models are others: it is told here."""
    model = json.loads(build_tokenizer().backend_tokenizer.to_str())["model"]
    assert "butterfly</w>" in model["vocab"]
    learnt = json.dumps([model["vocab"], model["merges"]], sort_keys=True).encode()
    assert hashlib.sha256(learnt).hexdigest().startswith("563c432f49563343fcb6af5d")


def test_an_unknown_model_preset_or_stage_is_named(tmp_path):
    with pytest.raises(ShapefirstError, match=r"'sdxl'.*pocket-dit"):
        training.train_model(tmp_path, model="sdxl")
    with pytest.raises(ShapefirstError, match=r"'huge'.*cpu"):
        training.train_model(tmp_path, preset="huge")
    for model, stage in {"pocket": "upscale", "pocket-dit": "teacher", "pocket-equal-snr": "card"}.items():
        with pytest.raises(ShapefirstError, match=rf"{model} has no stage '{stage}'.*render"):
            training.train_model(tmp_path, model=model, stages=[stage])
    assert list(tmp_path.iterdir()) == []


def test_a_stage_without_what_it_reads_is_refused_before_anything_is_written(tmp_path):
    for stage, lacking in {"export": "'text' and 'autoencoder' and 'denoiser'", "teacher": "'render'"}.items():
        with pytest.raises(ShapefirstError, match=f"'{stage}' needs what {lacking}"):
            training.train_model(tmp_path / "run", preset="smoke", stages=[stage])
    for seed in (-1, 2**63):
        with pytest.raises(ShapefirstError, match=f"seed .* not {seed}"):
            training.train_model(tmp_path / "run", preset="smoke", seed=seed)
    assert list(tmp_path.iterdir()) == []


def test_what_the_stages_read_is_made_by_earlier_stages_or_taken_over():
    for model, curriculum in training.CURRICULA.items():
        borrowed = {target for _, target in curriculum.borrowed}
        there = {stage for stage, made in training.MAKES.items() if made.split("/")[0] in borrowed}
        encoders = {stage for stage in ("text", "language") if stage in {*curriculum.stages, *there}}
        assert len(encoders) == 1, model
        for stage in curriculum.stages:
            needs = set(training.NEEDS.get(stage, ())) - ({"text", "language"} - encoders)
            assert needs & {*training.MAKES} <= there | ({"coarse"} - {*curriculum.stages}), (model, stage)
            there.add(stage)


def test_a_kept_text_encoder_needs_no_teacher(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(training, "exit_code", lambda command, environment: started.append(command[-1]) or 0)
    training.train_model(tmp_path / "new", preset="smoke")
    assert started == list(training.CURRICULA["pocket"].stages)
    started.clear()
    training.train_model(tmp_path / "further", preset="smoke", start_from=POCKET)
    assert "teacher" not in started
    assert {"render", "encode", "denoiser", "export", "card"} <= {*started}


def test_weights_that_are_not_whole_are_not_adopted(tmp_path):
    weights = tmp_path / "weights"
    for part in ("clip", "vae", "unet"):
        (weights / part).mkdir(parents=True)
        (weights / part / "config.json").write_text("{}")
        save_file({"x": torch.zeros(100)}, weights / part / "model.safetensors")
    broken = weights / "vae" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(ShapefirstError, match=r"vae/model\.safetensors is corrupt or truncated"):
        training.train_model(tmp_path / "out", start_from=weights)
    broken.unlink()
    with pytest.raises(ShapefirstError, match="vae has no"):
        training.train_model(tmp_path / "out", start_from=weights)
    assert not (tmp_path / "out").exists()


def test_finished_weights_can_be_trained_further(tmp_path):
    from diffusers import UNet2DConditionModel

    from shapefirst.training import denoiser
    from shapefirst.training.questions import Contents

    weights, out = tmp_path / "weights", tmp_path / "out"
    for part in ("clip", "vae", "judge"):
        (weights / part).mkdir(parents=True)
        (weights / part / "config.json").write_text("{}")
        save_file({"x": torch.zeros(1)}, weights / part / "model.safetensors")
    parts = [(weights / part, part, target) for part, target in training.CURRICULA["pocket"].kept]
    with pytest.raises(ShapefirstError, match="no unet"):
        training.adopt(parts, out)
    torch.manual_seed(1)
    known = denoiser.build_unet(192)
    known.save_pretrained(weights / "unet")
    training.adopt(parts, out)
    assert (out / "clip" / "config.json").exists()

    # A learning rate of zero leaves the start as it was.
    captions = denoiser.Captions(torch.randn(2, 77, 192).half(), None, torch.tensor([1, 1, 1, 1]))
    contents = Contents(torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, 16, 16, dtype=torch.uint8))
    inputs = denoiser.build_unet, torch.randn(4, 4, 16, 16), captions, contents
    recipe = Recipe(steps=1, batch=2, learning_rate=0.0)
    again = denoiser.train_denoiser(*inputs, recipe, run_in(out), start_from=out / training.START)
    assert isinstance(again, UNet2DConditionModel)
    for name, tensor in known.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_log_of_a_run_that_was_killed_has_each_step_once(tmp_path):
    recipe = Recipe(steps=40, batch=8, learning_rate=1e-2)
    fit("toy", *problem(), recipe, run_in(tmp_path))
    log = tmp_path / "toy.jsonl"
    (tmp_path / "toy.checkpoint.safetensors").unlink()  # killed before its first checkpoint
    log.write_text(log.read_text() + '{"step": 41, "seco')
    fit("toy", *problem(), recipe, run_in(tmp_path))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [20, 40]


@pytest.mark.parametrize("lock", [LOCK, training.STAGE_LOCK])
def test_a_folder_that_another_run_trains_in_is_left_alone_also_where_a_killed_one_left_its_stage(tmp_path, lock):
    with holding(tmp_path / lock) as first:
        said = one_sentence(shapefirst("train-pocket", "--preset", "smoke", "--out", tmp_path))
        assert f"is in use by process {first.pid}" in said
        assert first.poll() is None
        assert [path.name for path in tmp_path.iterdir()] == [lock]


def test_an_interrupted_command_ends_its_stage_and_what_that_has_started(tmp_path):
    sleeps = f"import subprocess; subprocess.Popen(['sleep', '60']); open({str(tmp_path / 'begun')!r}, 'w')"
    stage = [sys.executable, "-c", f"{sleeps}; import time; time.sleep(60)"]
    began = time.monotonic()

    def interrupt(*_):
        if not (tmp_path / "begun").exists():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            exit_code(stage, os.environ)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 30


HELD = """
import os, subprocess, sys, time
from shapefirst.training.ending import end_with_the_command, exit_code
if sys.argv[1] == "command":
    exit_code([sys.executable, __file__, "launcher"], os.environ)
elif sys.argv[1] == "launcher":  # as torch's, which begins each worker in a session of its own
    sys.exit(subprocess.Popen([sys.executable, __file__, "worker"], start_new_session=True).wait())
end_with_the_command()
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


def test_a_killed_command_ends_its_stage_and_what_that_has_started(tmp_path):
    (tmp_path / "it.py").write_text(HELD)
    words = [sys.executable, tmp_path / "it.py", "command"]
    command = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert command.stdout.readline().strip().isdigit()
    command.kill()
    began = time.monotonic()
    assert command.stdout.read() == b""  # once nobody is left who could write
    assert time.monotonic() - began < 10


def test_heads_learn_as_much_faster_as_they_are_told_to(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 1), "heads": torch.nn.Linear(3, 1)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(_: int, g: torch.Generator) -> dict[str, torch.Tensor]:
        x = torch.ones(4, 3)
        return {"loss": (model["body"](x) + model["heads"](x)).mean()}

    recipe = Recipe(steps=1, batch=4, learning_rate=1e-3, weight_decay=0.0)
    after = fit("toy", model, loss, recipe, run_in(tmp_path), faster={"heads": 5.0})
    moved = {name: (after[name] - before[name]).abs().mean().item() for name in before}
    assert moved["heads.weight"] == pytest.approx(5 * moved["body.weight"], rel=1e-3)
