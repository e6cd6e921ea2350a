"""The training of the judge, which tells objects in pictures of the embedded model's world."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shapefirst.measure.judge import Judge
from shapefirst.training.loop import Recipe, TrainingRun, fit, mixed_precision
from shapefirst.world.renders import Renders

__all__ = ["answered", "augment", "train_judge"]


def augment(x: Tensor, g: torch.Generator) -> Tensor:
    """Small shifts, blur and noise: what an imperfect decoder does to a picture must not look like another object."""
    dx, dy = torch.randint(-2, 3, (2,), generator=g).tolist()
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 2 + dy + x.shape[-2], 2 + dx : 2 + dx + x.shape[-1]]
    soft = torch.rand(len(x), 1, 1, 1, generator=g) * (torch.rand(len(x), 1, 1, 1, generator=g) < 0.5)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + soft * (blurred - x)
    return x + 0.08 * torch.rand(len(x), 1, 1, 1, generator=g) * torch.randn(x.shape, generator=g)


def answered(logits: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Answers to the four questions against labels (b, 4): the sum of their cross-entropies, and the share of images
    of which all four are right."""
    errors = [F.cross_entropy(q.float(), labels[:, i]) for i, q in enumerate(logits)]
    right = torch.stack([q.argmax(-1) == labels[:, i] for i, q in enumerate(logits)]).all(0).float().mean()
    return torch.stack(errors).sum(), right


def train_judge(renders: Renders, recipe: Recipe, run: TrainingRun, stage: str = "judge") -> Judge:
    """Cross-entropy on the four questions."""
    torch.manual_seed(run.seed)
    model = Judge().to(run.device)

    def loss(_: int, g: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(renders), (recipe.batch,), generator=g)
        labels = renders.labels[index].to(run.device)
        with mixed_precision(run.device):
            logits, _ = model(augment(renders.batch(index), g).to(run.device))
        error, right = answered(logits, labels)
        return {"loss": error, "all_right": right}

    model.load_state_dict(fit(stage, model, loss, recipe, run))
    return model.cpu().eval()
