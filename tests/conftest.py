"""Tiny pipelines with random weights, built in memory: nothing is downloaded, and a generation takes milliseconds."""

from __future__ import annotations

import copy
import gc
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import pytest
import torch
from hypothesis import HealthCheck, settings
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

gc.freeze()  # what is imported stays; to look through it again and again takes a tenth of the time
gc.set_threshold(20_000, 20, 20)
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
torch.set_num_threads(1)  # on models this small more threads only wait for each other

#: What mostly waits: for a cluster, a browser, a process.
WAITING = ("test_sweep_ray.py", "test_studio_page.py", "test_fuzz.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One of them near the beginning of each worker's share (of three), so that nothing waits for it in the end."""
    waiting = {name: [item for item in items if item.path.name == name] for name in WAITING}
    items[:] = [item for item in items if item.path.name not in WAITING]
    share = len(items) // len(WAITING)
    for n, name in reversed(list(enumerate(WAITING))):
        at = n * share + 20 * bool(n)  # shares are not quite of one length
        items[at:at] = waiting[name]


KINDS = ("sd-epsilon", "sd-v", "pixart")
MAX_WORDS = 120
# Gentler noise than a real model's: random predictions are no noise, and dividing by a tiny sqrt(abar_T) would blow the
# latents up until later steps hardly show in them.
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.004}


def _clip_tokenizer(folder: Path) -> Any:
    """CLIP's BPE over single letters: every letter is a token, and one that ends a word has its own."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,.0123456789"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _t5_tokenizer() -> Any:
    """T5's layout (pad 0, </s> 1, no start token) over single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_WORDS
    )


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )


def _text_encoder(tokenizer: Any, kind: str = "CLIPTextModel") -> Any:
    import transformers

    return getattr(transformers, kind)(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _unet(deep: bool, **options: Any) -> Any:
    """With attention at two resolutions on the way down, in the middle and up, or in one place, which takes a third."""
    from diffusers import UNet2DConditionModel

    blocks = {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
    }
    if deep:
        blocks = {
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
            **blocks,
            **options,
        }
    )


def _stable_diffusion(folder: Path, prediction_type: str, deep: bool) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = _clip_tokenizer(folder)
    text_encoder, unet = _text_encoder(tokenizer), _unet(deep)
    scheduler = DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl(folder: Path, deep: bool) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    tokenizer = _clip_tokenizer(folder)
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=_text_encoder(tokenizer),
        text_encoder_2=_text_encoder(tokenizer, "CLIPTextModelWithProjection"),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            deep,
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        ),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )


def _pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = _t5_tokenizer()
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, is_encoder_decoder=False
        )
    )
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=16,
        in_channels=4,
        out_channels=8,  # learned sigma
        cross_attention_dim=16,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=_autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(**BETAS),
    )


def _pipelines(folder: Path, deep: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    pipes = {
        "sd-epsilon": _stable_diffusion(folder, "epsilon", deep),
        "sd-v": _stable_diffusion(folder, "v_prediction", deep),
        "pixart": _pixart(),
        "sdxl": _stable_diffusion_xl(folder, deep),
    }
    for kind, pipe in pipes.items():
        pipe.set_progress_bar_config(disable=True)
        denoiser = getattr(pipe, "unet", None) or pipe.transformer
        for part in (pipe.vae, pipe.text_encoder, denoiser):
            part.eval()
        # A random model hardly listens to its prompt, least where it can in one place only; this makes the branches
        # differ as a trained model's do.
        with torch.no_grad():
            for name, weight in denoiser.named_parameters():
                if "attn2.to_v" in name:
                    weight.mul_(10 if deep or kind == "pixart" else 40)
    return pipes


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _pipelines(tmp_path_factory.mktemp("clip"), deep=False)


@pytest.fixture(scope="session")
def _built_deep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _pipelines(tmp_path_factory.mktemp("clip"), deep=True)


@pytest.fixture
def make_pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """make_pipe(kind, sampler): a pipeline with a scheduler of its own, over the session's weights.

    With `deep=True` its U-Net has attention in several places. Pipelines of one kind share their models within a test;
    what a test leaves on a model (diffusers' hooks never quite go) is no other test's.
    """
    from shapefirst.models import make_sampler

    # In layers this small oneDNN takes longer to choose how to convolve than it takes to convolve.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)

    own: dict[tuple[str, bool], Any] = {}

    def make(kind: str = "sd-epsilon", sampler: str = "ddim", *, deep: bool = False) -> Any:
        built = request.getfixturevalue("_built_deep" if deep else "_built")
        if (kind, deep) not in own:
            own[kind, deep] = copy.copy(built[kind])
            for name, part in built[kind].components.items():
                if isinstance(part, torch.nn.Module):
                    setattr(own[kind, deep], name, copy.deepcopy(part))
        pipe = copy.copy(own[kind, deep])
        pipe.scheduler = make_sampler(sampler, pipe.scheduler.config)
        return pipe

    return make


@pytest.fixture
def few_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts are enough for a verdict: for tests of what studies conclude, on a few tiny pictures."""
    monkeypatch.setattr("shapefirst.measure.intervals.FEWEST", 2)


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are put together and not drawn, which takes matplotlib half a second each: for tests of other things."""
    monkeypatch.setattr("shapefirst.drawing.charts.svg", lambda drawn: "<svg></svg>")


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """A hub cache without models, and no network to fill it from."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"
