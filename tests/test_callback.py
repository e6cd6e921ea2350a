"""Text in the first steps only by a callback: the same images as by `text_until`, at any batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import diffusers
import modular
import naive
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback
from modular import normal

from shapefirst import ShapefirstError, text_until, text_until_callback
from shapefirst.errors import UnsupportedPipelineError
from shapefirst.guidance.callback import PAIRS, TENSORS

N, W = 4, 4.0
PROMPTS = ["a red cat", "two dogs", "the old house"]


class Row(NamedTuple):
    """A pipeline, and what its call takes besides steps, scale and seeds: (prompts, images a prompt) -> that."""

    pipe: Any
    given: Callable[[int, int], dict[str, Any]]

    def __call__(self, prompts: int = 3, each: int = 1, **more: Any) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in range(prompts * each)]
        options = {"num_inference_steps": N, "guidance_scale": W, "output_type": "latent", "generator": generators}
        out = self.pipe(**{**options, **self.given(prompts, each), **more})
        return next(iter(out.values()))

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """The rows of each of its denoiser's calls."""
        rows: list[int] = []
        handle = self.denoiser.register_forward_hook(lambda _, __, out: rows.append(len(out[0])))
        try:
            yield rows
        finally:
            handle.remove()


def over(name: str, pipe: Any, **more: Any) -> Any:
    more |= {} if "XL" in name or "Depth" in name else {"requires_safety_checker": False}
    parts = {key: part for key, part in pipe.components.items() if "Depth" not in name or key in DEPTH}
    made = getattr(diffusers, name)(**{**parts, **more})
    made.set_progress_bar_config(disable=True)
    return made


DEPTH = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
MASK = torch.cat([torch.zeros(1, 1, 16, 8), torch.ones(1, 1, 16, 8)], dim=3)


def prompted(**more: Any) -> Callable[[int, int], dict[str, Any]]:
    return lambda prompts, each: {"prompt": PROMPTS[:prompts], "num_images_per_prompt": each, **more}


def picture() -> torch.Tensor:
    return normal(0, 1, 3, 16, 16).sigmoid()


def widened(unet: Any, channels: int) -> Any:
    """The same U-Net for latents with more channels beside them."""
    config = {**unet.config, "in_channels": channels}
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**config).eval()


def stable_diffusion(name: str, channels: int = 4, **given: Any) -> Callable[[Any], Row]:
    def build(make_pipe: Any) -> Row:
        pipe = make_pipe("sdxl" if "XL" in name else "sd-epsilon")
        unet = pipe.unet if channels == 4 else modular.listens(widened(pipe.unet, channels), "attn2.to_v", times=40)
        more = {"feature_extractor": None, "depth_estimator": None} if "Depth" in name else {}
        return Row(over(name, pipe, unet=unet, **more), prompted(**given))

    return build


def controlled(name: str, nets: int = 1, **given: Any) -> Callable[[Any], Row]:
    def build(make_pipe: Any) -> Row:
        pipe = make_pipe("sdxl" if "XL" in name else "sd-epsilon", deep=True)
        torch.manual_seed(1)
        options = {"conditioning_embedding_out_channels": (4, 4)}
        made = [diffusers.ControlNetModel.from_unet(pipe.unet, **options).eval() for _ in range(nets)]
        with torch.no_grad():  # they begin with zeros, that do nothing
            for weight in (weight for net in made for weight in net.parameters()):
                weight.add_(0.1 * torch.randn_like(weight))
        pictures = {"image": picture(), "control_image": picture()} if "Img2Img" in name else {"image": picture()}
        if nets > 1:
            pictures = {key: [value] * nets for key, value in pictures.items()}
        row = over(name, pipe, controlnet=made if nets > 1 else made[0])
        return Row(row, prompted(**pictures, **given))

    return build


def stable_diffusion_3(make_pipe: Any) -> Row:
    xl = make_pipe("sdxl")
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    parts = {**dict.fromkeys(("text_encoder_3", "tokenizer_3")), "tokenizer": xl.tokenizer, "tokenizer_2": xl.tokenizer}
    encoders = {"text_encoder": xl.text_encoder_2, "text_encoder_2": xl.text_encoder_2, "vae": xl.vae}
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=modular.flow(), **parts, **encoders
    )
    pipe.set_progress_bar_config(disable=True)
    return Row(pipe, prompted(max_sequence_length=77))


def wan(make_pipe: Any) -> Row:
    """Without a text encoder, it takes embeddings, and diffusers gives each of them one video."""
    made = modular.wan(make_pipe)
    parts = {**dict.fromkeys(("vae", "text_encoder", "tokenizer")), "transformer": made.denoisers[0]}
    pipe = diffusers.WanPipeline(scheduler=made.pipe.scheduler, **parts)
    pipe.set_progress_bar_config(disable=True)
    return Row(pipe, lambda prompts, each: made.conditions(prompts * each))


PICTURE = {"image": picture(), "strength": 0.9}
INPAINT = {**PICTURE, "mask_image": MASK, "height": 16, "width": 16}
ROWS: dict[str, Callable[[Any], Row]] = {
    "StableDiffusionPipeline": stable_diffusion("StableDiffusionPipeline"),
    "StableDiffusionImg2ImgPipeline": stable_diffusion("StableDiffusionImg2ImgPipeline", **PICTURE),
    "StableDiffusionInpaintPipeline": stable_diffusion("StableDiffusionInpaintPipeline", **INPAINT),
    "StableDiffusionInpaintPipeline 9": stable_diffusion("StableDiffusionInpaintPipeline", 9, **INPAINT),
    "StableDiffusionDepth2ImgPipeline": stable_diffusion(
        "StableDiffusionDepth2ImgPipeline", 5, **PICTURE, depth_map=torch.rand(1, 16, 16)
    ),
    "StableDiffusionControlNetPipeline": controlled("StableDiffusionControlNetPipeline"),
    "StableDiffusionControlNetPipeline twice": controlled("StableDiffusionControlNetPipeline", 2),
    "StableDiffusionControlNetImg2ImgPipeline": controlled("StableDiffusionControlNetImg2ImgPipeline", strength=0.9),
    "StableDiffusionXLPipeline": stable_diffusion("StableDiffusionXLPipeline"),
    "StableDiffusionXLImg2ImgPipeline": stable_diffusion("StableDiffusionXLImg2ImgPipeline", **PICTURE),
    "StableDiffusionXLInpaintPipeline": stable_diffusion("StableDiffusionXLInpaintPipeline", **INPAINT),
    "StableDiffusionXLInpaintPipeline 9": stable_diffusion("StableDiffusionXLInpaintPipeline", 9, **INPAINT),
    "StableDiffusionXLControlNetPipeline": controlled("StableDiffusionXLControlNetPipeline"),
    "StableDiffusionXLControlNetImg2ImgPipeline": controlled(
        "StableDiffusionXLControlNetImg2ImgPipeline", strength=0.9
    ),
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "WanPipeline": wan,
}


@pytest.fixture
def row(request: pytest.FixtureRequest, make_pipe: Any) -> Row:
    return ROWS[request.param](make_pipe)


@pytest.fixture
def sd(make_pipe: Any) -> Row:
    return ROWS["StableDiffusionPipeline"](make_pipe)


def given(callback: PipelineCallback) -> dict[str, Any]:
    """What a call is given of a callback; not every pipeline asks that for its tensors itself."""
    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": callback.tensor_inputs}


@contextmanager
def text_until_in(row: Row, step: int, keep: str) -> Iterator[None]:
    """`text_until`; with a call for each branch, the conditions of the kept one in both."""
    if type(row.pipe).__name__ not in PAIRS:
        with text_until(row.pipe, step, keep=keep):
            yield
        return
    calls: list[Any] = []

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        calls.append(kwargs)
        images = len(kwargs["encoder_hidden_states"])
        kept = row.given(images, 1)["prompt_embeds" if keep == "text" else "negative_prompt_embeds"]
        return args, kwargs if len(calls) <= 2 * step else {**kwargs, "encoder_hidden_states": kept}

    handle = row.denoiser.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("row", "keep", "prompts", "each"),
    [*((name, "null", 2, 2) for name in ROWS), *((name, "text", 3, 1) for name in list(ROWS)[::3])],
    indirect=["row"],
)
def test_it_gives_what_text_until_gives(row, keep, prompts, each):
    stock, before = row(prompts, each), vars(row.pipe).copy()
    with text_until_in(row, 2, keep):
        expected = row(prompts, each)
    with row.counted() as rows:
        found = row(prompts, each, **given(text_until_callback(row.pipe, 2, keep=keep)))
    assert naive.error(found, expected) < 1e-4 < naive.error(found, stock)
    assert sum(rows) == prompts * each * (row.pipe.num_timesteps + 2)
    assert vars(row.pipe) == before
    assert torch.equal(row(prompts, each), stock)


def test_all_that_is_known_is_tested():
    assert {name.split()[0] for name in ROWS} == {*TENSORS, *PAIRS}


def test_one_callback_serves_many_calls(sd):
    callback = text_until_callback(sd.pipe, fraction=0.5)
    assert isinstance(callback, PipelineCallback)
    for prompts, steps in ((1, 6), (3, 9), (2, 4)):
        with text_until(sd.pipe, fraction=0.5):
            expected = sd(prompts, num_inference_steps=steps)
        found = sd(prompts, num_inference_steps=steps, callback_on_step_end=callback)
        assert naive.error(found, expected) < 1e-4


def test_one_beside_others(sd):
    class Listening(PipelineCallback):
        tensor_inputs = ("latents",)

        def callback_fn(self, pipeline: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
            seen.append(len(given["latents"]))
            return given

    seen: list[int] = []
    both = MultiPipelineCallbacks([Listening(), text_until_callback(sd.pipe, 2)])
    with text_until(sd.pipe, 2):
        expected = sd()
    assert naive.error(sd(callback_on_step_end=both), expected) < 1e-4
    assert seen == [3] * N


@pytest.mark.parametrize("sampler", ["heun", "dpm-solver"])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_steps_are_those_of_the_solver(make_pipe, sampler, step):
    row = Row(make_pipe("sd-epsilon", sampler), prompted())
    with text_until(row.pipe, step) as evaluations:
        expected = row()
    with row.counted() as rows:
        found = row(callback_on_step_end=text_until_callback(row.pipe, step))
    assert naive.error(found, expected) < 1e-4
    assert sum(rows) == evaluations.rows


def test_a_solver_may_warm_up(sd):
    sd.pipe.scheduler = diffusers.PNDMScheduler.from_config(sd.pipe.scheduler.config)
    for step in (1, 3):
        with text_until(sd.pipe, step) as evaluations:
            expected = sd()
        with sd.counted() as rows:
            found = sd(callback_on_step_end=text_until_callback(sd.pipe, step))
        assert naive.error(found, expected) < 1e-4
        assert sum(rows) == evaluations.rows


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline"])
def test_steps_are_those_that_run(make_pipe, name):
    row, part = ROWS[name](make_pipe), {"num_inference_steps": 12, "denoising_end": 0.5}
    with text_until(row.pipe, fraction=0.5) as evaluations:
        expected = row(**part)
    with row.counted() as rows:
        found = row(**part, callback_on_step_end=text_until_callback(row.pipe, fraction=0.5))
    assert naive.error(found, expected) < 1e-4
    assert rows == [6, 6, 6, 3, 3]
    assert sum(rows) == evaluations.rows
    assert row.pipe._guidance_scale == W


def test_without_guidance_there_is_nothing_to_drop(sd):
    stock = sd(guidance_scale=1.0)
    assert torch.equal(sd(guidance_scale=1.0, callback_on_step_end=text_until_callback(sd.pipe, 2)), stock)


def test_an_aborted_call_leaves_nothing_that_matters_behind(sd):
    stock = sd()
    callback = text_until_callback(sd.pipe, 2)
    expected = sd(callback_on_step_end=callback)

    def abort(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return callback(pipe, step, t, given)

    with pytest.raises(KeyboardInterrupt):
        sd(callback_on_step_end=abort, callback_on_step_end_tensor_inputs=callback.tensor_inputs)
    assert torch.equal(sd(), stock)
    assert torch.equal(sd(callback_on_step_end=callback), expected)


def test_diffusers_own_keeps_the_text_and_fails_above_one_image(sd):
    own = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    with text_until(sd.pipe, 2, keep="text"):
        expected = sd(1)
    assert naive.error(sd(1, callback_on_step_end=own), expected) < 1e-4
    with pytest.raises(RuntimeError):
        sd(3, callback_on_step_end=own)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Give either a step"),
        ({"step": 2, "fraction": 0.5}, "Give either a step"),
        ({"step": 0}, "first called after step 0"),
        ({"fraction": 0.0}, "first called after step 0"),
        ({"step": -1}, "step must be a whole number"),
        ({"fraction": 1.5}, "a finite number from 0 to 1 or None, not 1.5"),
        ({"step": 2, "keep": "neither"}, 'keep= of .* must be "null" or "text", not .neither'),
        ({"step": 2, "keep": "image"}, 'keep= of .* must be "null" or "text", not .image'),
    ],
)
def test_what_cannot_be_is_refused_at_once(sd, given, sentence):
    with pytest.raises(ShapefirstError, match=sentence):
        text_until_callback(sd.pipe, **given)


@pytest.mark.parametrize("given", [{"step": 5}, {"fraction": 0.01}])
def test_what_does_not_fit_is_refused_after_the_first_step(sd, given):
    with (
        sd.counted() as rows,
        pytest.raises(ShapefirstError, match=r"guides the first 5 steps|first called after step 0"),
    ):
        sd(callback_on_step_end=text_until_callback(sd.pipe, **given))
    assert rows == [6]


def test_other_loops_are_refused_at_once(make_pipe):
    class Own(diffusers.StableDiffusionPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    xl, pipe = make_pipe("sdxl"), make_pipe()
    own = Own(**pipe.components, requires_safety_checker=False)
    for other in (make_pipe("pixart"), own, object()):
        with pytest.raises(UnsupportedPipelineError, match=f"The loop of {type(other).__name__} is not known"):
            text_until_callback(other, 2)
    with pytest.raises(ShapefirstError, match="made for a StableDiffusionPipeline, not for a StableDiffusionXL"):
        xl("a cat", num_inference_steps=2, callback_on_step_end=text_until_callback(pipe, 1))


def test_a_class_of_ones_own_with_the_same_loop_is_fine(make_pipe):
    class Own(diffusers.StableDiffusionPipeline):
        pass

    row = Row(Own(**make_pipe().components, requires_safety_checker=False), prompted())
    with text_until(row.pipe, 2):
        expected = row()
    assert naive.error(row(callback_on_step_end=text_until_callback(row.pipe, 2)), expected) < 1e-4


def test_a_pipeline_that_does_not_ask_for_the_tensors_is_told_them(make_pipe):
    row = ROWS["StableDiffusionDepth2ImgPipeline"](make_pipe)
    callback = text_until_callback(row.pipe, 2)
    with (
        row.counted() as rows,
        pytest.raises(ShapefirstError, match=r"tensor_inputs=\['prompt_embeds', 'depth_mask'\]"),
    ):
        row(callback_on_step_end=callback)
    assert rows == [6]


def test_guess_mode_is_refused_after_the_first_step(make_pipe):
    row = controlled("StableDiffusionControlNetPipeline", guess_mode=True)(make_pipe)
    with row.counted() as rows, pytest.raises(UnsupportedPipelineError, match="guess mode"):
        row(callback_on_step_end=text_until_callback(row.pipe, 2))
    assert rows == [6]


def test_an_ip_adapter_is_refused(sd):
    callback, config = text_until_callback(sd.pipe, 2), sd.pipe.unet.config

    def load(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        config.__dict__["encoder_hid_dim_type"] = "ip_image_proj"  # as diffusers' loader does
        return callback(pipe, step, t, given)

    try:
        with pytest.raises(UnsupportedPipelineError, match="unload_ip_adapter"):
            sd(callback_on_step_end=load, callback_on_step_end_tensor_inputs=callback.tensor_inputs)
        with pytest.raises(UnsupportedPipelineError, match="unload_ip_adapter"):
            text_until_callback(sd.pipe, 2)
    finally:
        config.__dict__["encoder_hid_dim_type"] = None


def test_tensors_for_the_attention_are_refused(sd):
    callback = text_until_callback(sd.pipe, 2)

    def hand_on(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._cross_attention_kwargs = {"scale": 1.0, "masks": torch.zeros(6, 1)}
        return callback(pipe, step, t, given)

    with pytest.raises(UnsupportedPipelineError, match="hands its attention tensors of 6 rows"):
        sd(callback_on_step_end=hand_on, callback_on_step_end_tensor_inputs=callback.tensor_inputs)
