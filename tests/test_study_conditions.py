"""A6 on tiny pipelines: a picture in some steps is what the pipelines' own switches and their parts make of it."""

from __future__ import annotations

import contextlib
import copy
import inspect

import diffusers
import numpy as np
import pytest
import scorers
import torch
from commands import one_sentence, shapefirst
from PIL import Image
from safetensors.torch import save_file
from test_studies_trajectory import PROMPTS, Brightness, whole

from shapefirst.errors import ModelError, ShapefirstError, UnsupportedPipelineError
from shapefirst.findings.finding import DoesNotApply
from shapefirst.findings.storage import load_stored
from shapefirst.models import load
from shapefirst.models.adapters import add_ip_adapter
from shapefirst.sampling.loop import generators
from shapefirst.studies import a6_other_conditions as a6
from shapefirst.studies import dropping
from shapefirst.studies.image_conditions import condition_of, images_of
from shapefirst.studies.subject import Subject

pytestmark = pytest.mark.usefixtures("few_will_do")

N, W = 6, 5.0
SEEDS = [11, 12, 13]
TEXTS = [prompt.text for prompt in PROMPTS]
PICTURES = [image.convert("RGB") for image in scorers.pictures(3)]
CONTROLLED = "StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline"
EDITING = "StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"
ADAPTED = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
ALL = (*CONTROLLED, *EDITING, *ADAPTED)


def plain(make_pipe, name):
    """The tiny pipeline that the class is built on."""
    return make_pipe("sdxl" if "XL" in name else "sd-epsilon", deep=name in CONTROLLED)


def over(name, pipe, **more):
    """A pipeline of another class over the parts of one."""
    parts = {**pipe.components, "requires_safety_checker": False, **more}
    known = inspect.signature(getattr(diffusers, name)).parameters
    made = getattr(diffusers, name)(**{part: value for part, value in parts.items() if part in known})
    made.set_progress_bar_config(disable=True)
    return made


def control_net(pipe):
    torch.manual_seed(1)
    net = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4)).eval()
    with torch.no_grad():  # it begins with zeros, that do nothing
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return net


def widened(unet):
    """The U-Net with four more channels of input, which it heeds."""
    made = diffusers.UNet2DConditionModel.from_config(
        {**unet.config, "in_channels": 8, "_use_default_values": []}
    ).eval()
    weights = unet.state_dict()
    torch.manual_seed(3)
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], 0.3 * torch.randn(8, 4, 3, 3)], dim=1)
    made.load_state_dict(weights)
    return made


def adapter(folder, unet):
    """An IP-Adapter of the first kind for this U-Net, and the encoder beside it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, projection_dim=8, image_size=16, patch_size=8))
    encoder.save_pretrained(folder / "image_encoder")
    wide = unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(4 * wide, 8),
        "image_proj.proj.bias": torch.randn(4 * wide),
        "image_proj.norm.weight": torch.ones(wide),
        "image_proj.norm.bias": torch.zeros(wide),
    }
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            side = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            weights |= {f"ip_adapter.{number}.to_{part}_ip.weight": torch.randn(side, wide) for part in "kv"}
    save_file(weights, folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


def conditioned(make_pipe, name, folder):
    """A tiny pipeline of this class, with the condition that it is here for."""
    pipe = plain(make_pipe, name)
    if name in CONTROLLED:
        return over(name, pipe, controlnet=control_net(pipe))
    if name in EDITING:
        return over(name, pipe, unet=widened(pipe.unet))
    adapted = over(name, pipe, unet=copy.deepcopy(pipe.unet))
    add_ip_adapter(adapted, adapter(folder, pipe.unet))
    return adapted


@pytest.fixture(params=ALL)
def pipe(request, make_pipe, tmp_path):
    return conditioned(make_pipe, request.param, tmp_path)


@pytest.fixture
def make_subject(monkeypatch):
    monkeypatch.setattr(dropping, "similarity_of", lambda subject: Brightness())

    def make(pipe, **options):
        options = {"steps": N, "guidance_scale": W, "batch_size": 2, "seed": SEEDS[0], "pictures": PICTURES, **options}
        return Subject("tiny", pipe, {"brightness": Brightness()}, **options)

    return make


def call(pipe, pictures=PICTURES, texts=TEXTS, seeds=SEEDS, steps=None, **options):
    """The stock call, (B, C, H, W), where all images may have pictures of their own, else one for each; within the
    study's block where ``steps`` are given."""
    condition = condition_of(pipe)
    if not condition.together and len(texts) > 1:
        singles = zip(pictures, texts, seeds, strict=True)
        return torch.cat([call(pipe, *([part] for part in one), steps=steps, **options) for one in singles])
    given = {"image": pictures} if torch.is_tensor(pictures) else condition.given(pictures)
    with contextlib.nullcontext() if steps is None else condition.shown_in(steps, N):
        return sampled(pipe, texts, seeds, **given, **options)


def sampled(pipe, texts, seeds, **options):
    options = {"num_inference_steps": N, "guidance_scale": W, "output_type": "latent", **options}
    return pipe(prompt=list(texts), generator=generators(seeds), **options).images


def error(x, y):
    return float((x - y).abs().max() / y.abs().max())


# --- what is in which step ------------------------------------------------------------------------------------------


def state(pipe):
    """What could be left behind on a pipeline."""
    scales = [list(one.scale) for one in pipe.unet.attn_processors.values() if hasattr(one, "scale")]
    return scales, len(pipe.unet._forward_pre_hooks), len(pipe.unet._forward_hooks), sorted(vars(pipe.unet))


def test_in_all_steps_it_is_the_stock_call_bit_for_bit_and_nothing_is_left_behind(pipe):
    before, stock = state(pipe), call(pipe)
    assert torch.equal(call(pipe, steps=range(N)), stock)
    other = call(pipe, steps=range(4))
    assert error(other, stock) > 1e-3
    assert torch.equal(call(pipe), stock)
    assert state(pipe) == before


@pytest.mark.parametrize("name", ALL)
def test_in_no_step_it_is_the_call_without_a_picture(make_pipe, tmp_path, name):
    pipe = conditioned(make_pipe, name, tmp_path)
    if name in EDITING:  # whose input has no place to leave out: an empty one, in latents
        expected = call(pipe, pictures=torch.zeros(3, 4, 8, 8))
    else:
        expected = sampled(plain(make_pipe, name), TEXTS, SEEDS)
    assert error(call(pipe, steps=()), expected) < 1e-4 < error(call(pipe), expected)


@pytest.mark.parametrize(("name", "sampler"), list(zip(CONTROLLED, ["heun", "ddim"], strict=True)))
def test_a_control_net_is_taken_away_as_the_pipeline_itself_does_it(make_pipe, tmp_path, name, sampler):
    pipe = conditioned(make_pipe, name, tmp_path)
    pipe.scheduler = make_pipe("sdxl" if "XL" in name else "sd-epsilon", sampler).scheduler
    calls = 2 * N - 1 if sampler == "heun" else N
    used = []
    spy = pipe.controlnet.register_forward_pre_hook(
        lambda _, args, kwargs: used.append(kwargs["conditioning_scale"]), with_kwargs=True
    )
    for k in (1, 4):
        k_calls = k * pipe.scheduler.order
        used.clear()
        first = call(pipe, control_guidance_end=k_calls / calls)
        assert used == [1.0] * k_calls + [0.0] * (calls - k_calls)
        last = call(pipe, control_guidance_start=k_calls / calls)
        assert error(call(pipe, steps=range(k)), first) < 1e-5
        assert error(call(pipe, steps=range(k, N)), last) < 1e-5
        assert error(first, last) > 1e-3
    spy.remove()


@pytest.mark.parametrize("name", ADAPTED)
def test_an_ip_adapter_is_taken_away_as_a_callback_would_do_it(make_pipe, tmp_path, name):
    pipe = conditioned(make_pipe, name, tmp_path)
    pipe.set_ip_adapter_scale(0.7)

    def scaled(before, after):
        def on_step_end(pipe, step, timestep, tensors):
            pipe.set_ip_adapter_scale(before if step + 1 < 4 else after)
            return tensors

        made = []
        for i in range(3):
            pipe.set_ip_adapter_scale(before)
            one = [PICTURES[i]], [TEXTS[i]], [SEEDS[i]]
            made.append(call(pipe, *one, callback_on_step_end=on_step_end))
        pipe.set_ip_adapter_scale(0.7)
        return torch.cat(made)

    assert error(call(pipe, steps=range(4)), scaled(0.7, 0.0)) < 1e-5
    assert error(call(pipe, steps=range(4, N)), scaled(0.0, 0.7)) < 1e-5


@pytest.mark.parametrize("name", EDITING)
def test_a_picture_to_edit_is_followed_by_plain_guidance(make_pipe, tmp_path, name):
    """From step k on the prediction is that of w alone over inputs without a picture."""
    pipe = conditioned(make_pipe, name, tmp_path)
    k, rows = 4, []

    def plainly(unet, args, kwargs, out):
        rows.append(len(args[0]))
        if len(rows) <= k:
            return out
        x = args[0].clone()
        x[:, 4:] = 0
        text, _, null = unet.forward(x, *args[1:], **kwargs)[0].chunk(3)
        guided = null + W * (text - null)
        return (torch.cat([guided] * 3),)  # which the pipeline's formula leaves as it is

    handle = pipe.unet.register_forward_hook(plainly, with_kwargs=True)
    expected = call(pipe)
    handle.remove()
    assert rows == [9] * N
    assert error(call(pipe, steps=range(k)), expected) < 1e-4


def test_what_is_seen_are_the_predictions_with_and_without_it(pipe):
    condition, seen = condition_of(pipe), []
    texts, pictures, seeds = TEXTS[:1], PICTURES[:1], SEEDS[:1]
    outputs = []
    handle = pipe.unet.register_forward_hook(lambda _, __, out: outputs.append(out[0]))
    with condition.shown_in(range(N), N, see=lambda *told: seen.append(told)):
        images = call(pipe, pictures, texts, seeds)
    with condition.shown_in((), N):
        call(pipe, pictures, texts, seeds)
    handle.remove()
    assert torch.equal(images, call(pipe, pictures, texts, seeds))
    assert [step for step, *_ in seen] == list(range(N))
    assert all(torch.equal(out, mine) for (_, out, _), mine in zip(seen, outputs, strict=False))
    assert torch.equal(seen[0][2], outputs[N])  # without it from the start, the first input is the same
    rows = condition.of_prompt(torch.arange(condition.branches * 2)[:, None], 2)
    assert rows.flatten().tolist() == ([0, 1] if condition.branches == 3 else [2, 3])


def test_an_error_within_leaves_nothing_behind(pipe):
    before = state(pipe)

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = pipe.unet.conv_out.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        call(pipe, steps=())
    handle.remove()
    assert state(pipe) == before


# --- the study ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("name", [name for name in ALL if "XL" not in name])
def test_a6(make_pipe, tmp_path, make_subject, monkeypatch, name):
    pipe, made = conditioned(make_pipe, name, tmp_path), {}

    def kept(subject, condition, prompts, pictures, steps, norms=None):
        made[tuple(steps)] = images_of(subject, condition, prompts, pictures, steps, norms)
        return made[tuple(steps)]

    monkeypatch.setattr(a6, "images_of", kept)
    subject = make_subject(pipe, pictures=PICTURES[:2])
    before = state(pipe)
    found = a6.STUDY.run(subject, PROMPTS)
    whole(found)
    branches = 3 if name in EDITING else 2
    assert found.evaluations == branches * (10 * N + N)  # 6 numbers of first steps and 4 of last, and norms
    assert subject.meter.done == subject.meter.expected == found.evaluations * len(PROMPTS)
    assert state(pipe) == before

    assert len(made) == 10
    for i, picture in enumerate((*PICTURES[:2], PICTURES[0])):
        (one,) = call(pipe, [picture], [TEXTS[i]], [SEEDS[i]], output_type="np")
        assert np.abs(np.asarray(made[tuple(range(N))][i]) / 255 - one).max() < 1e-3 + 0.5 / 255

    table = {name: np.array(values, dtype=object) for name, values in found.table.items()}
    assert len(table["l1"]) == 2 * 6 * len(PROMPTS)
    at_end = table["picture_steps"] == N
    assert set(table["l1"][at_end]) == {0.0}
    assert (table["l1"][~at_end] > 0).all()

    def mean(place, k):
        return table["l1"][(table["place"] == place) & (table["picture_steps"] == k)].mean()

    assert mean("first", 0) == mean("last", 0)
    assert found.claims[0].found.estimate == pytest.approx(mean("first", N // 2) / mean("first", 0))
    assert found.claims[1].found.estimate == pytest.approx(mean("first", N // 2) / mean("last", N // 2))


def test_where_the_curve_has_fallen():
    grid = [0, 1, 2, 4]
    assert a6.done_after(np.array([[9.0, 6.0, 2.0, 0.0]]), grid) == 1.75
    assert a6.done_after(np.array([[9.0, 1.0, 5.0, 0.0]]), grid) == 2.8
    assert a6.done_after(np.array([[0.0, 1.0, 0.0, 0.0]]), grid) == 0


def test_a_picture_that_changes_nothing_is_no_finding(make_pipe, tmp_path, make_subject, monkeypatch):
    pipe = conditioned(make_pipe, CONTROLLED[0], tmp_path)
    monkeypatch.setattr(a6, "images_of", lambda *_: PICTURES)
    with pytest.raises(DoesNotApply, match="the same with the ControlNet's picture and without it"):
        a6.STUDY.run(make_subject(pipe), PROMPTS)


def test_other_pipelines_have_no_such_condition(make_pipe, tmp_path, make_subject):
    for kind in ("sd-epsilon", "sdxl", "pixart"):
        with pytest.raises(DoesNotApply, match="given no picture beside the prompt: the study is about"):
            a6.STUDY.run(make_subject(make_pipe(kind)), PROMPTS)
    pipe = plain(make_pipe, CONTROLLED[0])
    twice = over(CONTROLLED[0], pipe, controlnet=[control_net(pipe)] * 2)
    with pytest.raises(DoesNotApply, match="has 2 ControlNets"):
        condition_of(twice)
    adapted = conditioned(make_pipe, ADAPTED[0], tmp_path)
    both = over(CONTROLLED[0], adapted, controlnet=control_net(pipe))
    with pytest.raises(DoesNotApply, match="has an IP-Adapter besides: take it off"):
        condition_of(both)
    adapted.image_encoder = None
    with pytest.raises(DoesNotApply, match="has no image encoder"):
        condition_of(adapted)


def test_pictures_are_asked_for(pipe, make_subject):
    with pytest.raises(ShapefirstError, match="say which with --image FILE"):
        a6.STUDY.run(make_subject(pipe, pictures=()), PROMPTS)


# --- from the disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CONTROLLED, *EDITING])
def test_folders_with_a_picture_load_for_the_study_alone(make_pipe, tmp_path, name):
    conditioned(make_pipe, name, tmp_path).save_pretrained(tmp_path / "model")
    pipe = load(tmp_path / "model", device="cpu", conditioned=True)
    assert type(pipe).__name__ == name
    assert condition_of(pipe).branches == (3 if name in EDITING else 2)
    with pytest.raises(UnsupportedPipelineError, match=r"or say `shapefirst study a6`\.$"):
        load(tmp_path / "model", device="cpu")


def test_adapters_that_cannot_be_put_on(make_pipe, tmp_path):
    pipe = plain(make_pipe, ADAPTED[0])
    file = adapter(tmp_path, pipe.unet)
    with pytest.raises(UnsupportedPipelineError, match="has no U-Net"):
        add_ip_adapter(make_pipe("pixart"), file)
    with pytest.raises(ModelError, match="There is no IP-Adapter"):
        add_ip_adapter(pipe, tmp_path / "absent.safetensors")
    (tmp_path / "adapter.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="no safetensors file"):
        add_ip_adapter(pipe, tmp_path / "adapter.bin")
    other = over(ADAPTED[0], pipe, unet=copy.deepcopy(pipe.unet))
    save_file({"lora": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="is no IP-Adapter of this model"):
        add_ip_adapter(other, tmp_path / "lora.safetensors")
    (tmp_path / "alone").mkdir()
    file = file.rename(tmp_path / "alone" / file.name)
    with pytest.raises(ModelError, match="needs the encoder of its pictures beside it"):
        add_ip_adapter(pipe, file)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return scorers.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def files(tmp_path):
    made = []
    for i, picture in enumerate(PICTURES[:2]):
        made += ["--image", tmp_path / f"{i}.png"]
        picture.save(made[-1])
    return made


@pytest.mark.usefixtures("sketched")
def test_the_command_runs_it_on_a_folder(make_pipe, tmp_path, clip, files):
    conditioned(make_pipe, CONTROLLED[0], tmp_path).save_pretrained(tmp_path / "model")
    words = ["study", "a6", "--model", tmp_path / "model", "--clip", clip, "--device", "cpu", "--quick", "--steps", 10]
    assert "with --image FILE" in shapefirst(*words, "--out", tmp_path / "out").stderr
    result = shapefirst(*words, *files, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    stored = load_stored(tmp_path / "out", "a6")
    assert len(stored.claims) == 3
    assert "Other conditions" in (tmp_path / "out" / "report.html").read_text()
    again = shapefirst(*words, *files, "--out", tmp_path / "out")
    assert "kept from an earlier run" in again.stderr
    Image.new("RGB", (16, 16)).save(files[1])
    other = one_sentence(shapefirst(*words, *files, "--out", tmp_path / "out"))
    assert "other prompts or pictures" in other
    refused = one_sentence(shapefirst("study", "a6", "f6", *words[2:], "--out", tmp_path / "both"))
    assert "is a pipeline with a ControlNet" in refused


@pytest.mark.usefixtures("sketched")
def test_the_command_puts_an_adapter_on(make_pipe, tmp_path, clip, files):
    pipe = plain(make_pipe, ADAPTED[0])
    pipe.save_pretrained(tmp_path / "model")
    file = adapter(tmp_path, pipe.unet)
    words = ["--model", tmp_path / "model", "--clip", clip, "--device", "cpu", "--quick", "--steps", 10]
    words += ["--ip-adapter", file]
    result = shapefirst("study", "a6", *words, *files, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "The IP-Adapter's picture" in load_stored(tmp_path / "out", "a6").claims[0].statement
    assert "is for a6 alone" in one_sentence(shapefirst("study", "all", *words, "--out", tmp_path / "all"))
    words[-1] = tmp_path / "absent.safetensors"
    assert "There is no IP-Adapter" in one_sentence(shapefirst("study", "a6", *words, "--out", tmp_path / "absent"))


def test_on_pocket_it_does_not_apply(tmp_path, files):
    result = shapefirst("study", "a6", "--quick", "--device", "cpu", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "does not apply: This is a StableDiffusionPipeline, which is given no picture" in result.stderr
    said = one_sentence(shapefirst("study", "f6", *files, "--out", tmp_path / "other"))
    assert "--image is for a6" in said
