"""What a denoiser is asked while it learns, against what a hook of one's own sees in the same call."""

from __future__ import annotations

import pytest
import torch

from shapefirst.measure.judge import SIZES
from shapefirst.training import denoiser
from shapefirst.training.questions import Questioned


@pytest.mark.parametrize("build", [denoiser.build_unet, denoiser.build_transformer])
def test_every_head_reads_the_features_of_its_layer_averaged_over_sixteen_places(build):
    torch.manual_seed(0)
    model = build(24).eval()
    questioned = Questioned(model)
    layers = [model.mid_block, model.up_blocks[1]] if hasattr(model, "mid_block") else [model.transformer_blocks[4]]
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: seen.append(output))
    x, t, states, mask = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randn(2, 6, 24), torch.ones(2, 6)
    plain = build(24).eval()
    plain.load_state_dict(model.state_dict())

    predicted = denoiser.predict(model, x, t, states, mask)
    answers = questioned.answers()

    assert torch.equal(predicted, denoiser.predict(plain, x, t, states, mask))
    assert len(answers) == len(seen) == len(layers)
    for head, features, logits in zip(questioned.heads, seen, answers, strict=True):
        if features.dim() == 3:  # the transformer's 64 tokens, row by row
            features = features.permute(0, 2, 1).reshape(2, -1, 8, 8)
        side = features.shape[-1] // 4
        grid = features.reshape(2, -1, 4, side, 4, side).mean((3, 5)).flatten(1)
        by_hand = head[3](head[2](head[1](grid)))
        assert torch.allclose(torch.cat(logits, 1), by_hand, atol=1e-5)
        assert tuple(q.shape[1] for q in logits) == SIZES


def test_a_denoiser_is_any_other_one_when_the_questions_are_over():
    model = denoiser.build_unet(24)
    questioned = Questioned(model)
    questioned.withdraw()
    denoiser.predict(model, torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 6, 24), None)
    with pytest.raises(ValueError, match="shorter"):
        questioned.answers()
