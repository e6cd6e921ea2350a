"""The one training loop: resumable, deterministic in its seed, with a progress bar, a log and averaged weights.

Several processes may share the work (``torch.distributed``): each takes its part of every batch, the gradients are
averaged. On a CPU one process a core, with a single thread each, beats threads, which wait for each other in every
operation.

Every random number of step ``i`` comes from a generator seeded by (seed, stage, i), so that a resumed run draws what an
uninterrupted one would have drawn. Checkpoints are safetensors, written to a temporary name and renamed.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import MofNCompleteColumn, Progress
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from shapefirst.files import cleared, save_text

SECONDS_BETWEEN_CHECKPOINTS = 120.0
LOG_EVERY = 20


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: AdamW, a short warm-up, then a cosine to zero."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.03
    ema: float = 0.0
    clip: float = 1.0


@dataclass(frozen=True)
class TrainingRun:
    """Where a training run keeps its files, what it is seeded with and what it computes on."""

    folder: Path
    seed: int
    device: torch.device


#: (step, generator) -> {"loss": scalar to minimise, other names: scalars to log}
LossFunction = Callable[[int, torch.Generator], dict[str, Tensor]]


def generator_for(seed: int, stage: str, step: int) -> torch.Generator:
    """The generator of one step of one stage."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{stage}/{step}".encode()))


def generator_on(device: torch.device, g: torch.Generator) -> torch.Generator:
    """A generator of one step's random numbers on ``device``, itself drawn from ``g``: on the CPU ``g``."""
    if device.type == "cpu":
        return g
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=g)))


def part_of(batch: Tensor) -> Tensor:
    """The rows of a batch that this process works on: all of them if it is alone."""
    return batch[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else batch


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    if dist.is_initialized():
        together = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        for p, g in zip(parameters, together.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(g.view_as(p))


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 arithmetic on a GPU; on a CPU without matrix units for it, float32 is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up to ``recipe.learning_rate``, then half a cosine to zero at ``recipe.steps``."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def fit(
    stage: str,
    model: nn.Module,
    loss_function: LossFunction,
    recipe: Recipe,
    run: TrainingRun,
    *,
    faster: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Train ``model`` in place for ``recipe.steps`` steps and return the averaged weights (the last ones without EMA).

    Resumes from ``run.folder/{stage}.checkpoint.safetensors`` where that exists, and appends one JSON line every 20
    steps to ``run.folder/{stage}.jsonl``.

    Args:
        faster: Child of ``model`` -> by how much its learning rate is above that of the recipe.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    factors = [(faster or {}).get(name.partition(".")[0], 1.0) for name in names]
    groups = [
        {"params": [p for p, f in zip(parameters, factors, strict=True) if f == factor], "factor": factor}
        for factor in dict.fromkeys(factors)
    ]
    optimizer = torch.optim.AdamW(
        groups, recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, foreach=True
    )
    average = [p.detach().clone() for p in parameters]
    checkpoint, log = run.folder / f"{stage}.checkpoint.safetensors", run.folder / f"{stage}.jsonl"
    start, seconds = _resume(checkpoint, names, parameters, average, optimizer)
    leader = not dist.is_initialized() or dist.get_rank() == 0
    if leader:
        _go_on(log, start)
    model.train()
    began = saved = time.monotonic()
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn(), disable=not leader) as progress,
        log.open("a") as lines,
    ):
        bar = progress.add_task(stage, total=recipe.steps, completed=start)
        for step in range(start, recipe.steps):
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            values = loss_function(step, generator_for(run.seed, stage, step))
            values["loss"].backward()
            _average_gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            # Early on the average follows closely, so that it does not carry the random initial weights along.
            decay = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            progress.update(bar, completed=step + 1)
            now = time.monotonic()
            if leader and ((step + 1) % LOG_EVERY == 0 or step + 1 == recipe.steps):
                row = {"step": step + 1, "seconds": round(seconds + now - began, 1), "learning_rate": rate}
                row |= {name: float(value.detach()) for name, value in values.items()} | {"gradient_norm": float(norm)}
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                progress.update(bar, description=f"{stage} loss {row['loss']:.4f}")
            if leader and (now - saved > SECONDS_BETWEEN_CHECKPOINTS or step + 1 == recipe.steps):
                _save(checkpoint, names, parameters, average, optimizer, step + 1, seconds + now - began)
                saved = now
    model.eval()
    result = dict(model.state_dict())
    result.update(zip(names, average, strict=True))
    return result


def _go_on(log: Path, start: int) -> None:
    """Without the rows of steps that come again, and without one that a killed run has left half-written."""
    if log.exists():
        rows = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        save_text("".join(row for row in rows if json.loads(row)["step"] <= start), cleared(log))


def _save(path: Path, names, parameters, average, optimizer, step: int, seconds: float) -> None:
    tensors: dict[str, Tensor] = {}
    for name, p, a in zip(names, parameters, average, strict=True):
        state = optimizer.state[p]
        tensors |= {f"weight.{name}": p.detach(), f"average.{name}": a}
        tensors |= {f"first.{name}": state["exp_avg"], f"second.{name}": state["exp_avg_sq"]}
    part = path.with_suffix(".part")
    metadata = {"step": str(step), "seconds": str(seconds)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=metadata)
    part.replace(path)


def _resume(path: Path, names, parameters, average, optimizer) -> tuple[int, float]:
    """(steps done, seconds spent) of a checkpoint, its state copied into the arguments; (0, 0.0) without one."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as stored, torch.no_grad():
        metadata = stored.metadata()
        for name, p, a in zip(names, parameters, average, strict=True):
            p.copy_(stored.get_tensor(f"weight.{name}"))
            a.copy_(stored.get_tensor(f"average.{name}"))
            optimizer.state[p] = {
                "step": torch.tensor(float(metadata["step"])),
                "exp_avg": stored.get_tensor(f"first.{name}").to(p),
                "exp_avg_sq": stored.get_tensor(f"second.{name}").to(p),
            }
    return int(metadata["step"]), float(metadata["seconds"])
