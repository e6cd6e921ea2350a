"""What a denoiser is asked while it learns, against what a hook of one's own sees in the same call."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shapefirst.measure.judge import SIZES
from shapefirst.training import denoiser
from shapefirst.training.questions import Contents, OfAll, OfCells, Questioned
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

CONTENTS = Contents(torch.tensor([[3, 1, 40, 14], [5, 0, 7, 2]]), torch.zeros(2, 16, 16, dtype=torch.uint8))
CONTENTS.where[0, 4:8, 2:9] = 1
CONTENTS.where[1, 0, 0], CONTENTS.where[1, 9, 3] = 1, 2


@pytest.mark.parametrize(
    "build", [denoiser.build_unet, denoiser.build_transformer, lambda width: denoiser.build_transformer(width, 4)]
)
def test_every_head_reads_the_features_of_its_layer_in_the_same_call(build):
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
    error, right = questioned.graded(CONTENTS)

    assert torch.equal(predicted, denoiser.predict(plain, x, t, states, mask))
    assert len(seen) == len(layers) == len(questioned.heads)
    if hasattr(model, "mid_block"):
        by_hand = sum(0.015 * _of_all(head, features) for head, features in zip(questioned.heads, seen, strict=True))
    else:
        by_hand = 0.4 * _of_cells(questioned.heads[0], seen[0])
    assert error.item() == pytest.approx(by_hand, rel=1e-4)
    assert 0 <= right <= 1


def _of_all(head, features):
    side = features.shape[-1] // 4
    grid = features.reshape(2, -1, 4, side, 4, side).mean((3, 5)).flatten(1)
    answers = head[4](head[3](head[2](grid)))
    assert answers.shape[1] == sum(SIZES)
    return sum(F.cross_entropy(one, CONTENTS.labels[:, i]).item() for i, one in enumerate(answers.split(SIZES, 1)))


def _of_cells(head, tokens):
    """Cell by cell: the patch that it lies in, and within that its own classes."""
    patches = round(tokens.shape[1] ** 0.5)
    side, error = 16 // patches, 0.0
    for picture in range(2):
        for row in range(16):
            for column in range(16):
                token = tokens[picture, row // side * patches + column // side]
                hidden = F.silu(head[0].weight[:, :, 0, 0] @ token + head[0].bias)
                answers = head[2].weight[:, :, 0, 0] @ hidden + head[2].bias
                answers = answers.view(-1, side, side)[:, row % side, column % side]
                thing = int(CONTENTS.where[picture, row, column])
                noun, attribute = (
                    CONTENTS.labels[picture, 2 * thing - 2 : 2 * thing].tolist()
                    if thing
                    else (len(NOUNS), len(ATTRIBUTES))
                )
                error -= answers[: len(NOUNS) + 1].log_softmax(0)[noun].item()
                error -= answers[len(NOUNS) + 1 :].log_softmax(0)[attribute].item()
    return error / 512


def test_of_cells_only_those_with_an_object_are_graded_as_right_or_wrong():
    head = OfCells(8, 4)
    for layer in head:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    # Nothing is told apart: every cell is said to have the first noun and the first attribute.
    error, right = head.graded(torch.randn(2, 8, 4, 4), CONTENTS)
    assert error.item() == pytest.approx(math.log(len(NOUNS) + 1) + math.log(len(ATTRIBUTES) + 1), rel=1e-5)
    assert right == 0
    _, all_first = head.graded(torch.randn(2, 8, 4, 4), Contents(torch.zeros(2, 4, dtype=torch.long), CONTENTS.where))
    assert all_first == 1


def test_a_denoiser_is_any_other_one_when_the_questions_are_over():
    model = denoiser.build_unet(24)
    questioned = Questioned(model)
    assert all(isinstance(head, OfAll) for head in questioned.heads)
    questioned.withdraw()
    denoiser.predict(model, torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 6, 24), None)
    with pytest.raises(ValueError, match="shorter"):
        questioned.graded(CONTENTS)
