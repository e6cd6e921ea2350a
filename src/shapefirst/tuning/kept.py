"""What an interrupted search leaves for the next one with the same settings."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from shapefirst.checks import fitted, json_of
from shapefirst.errors import ShapefirstError
from shapefirst.files import atomic, content_of, save_text
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.solving import scheduler_for
from shapefirst.measure.npz import read_npz
from shapefirst.policies.file import model_digest, sampler_digest
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import Solver
from shapefirst.tuning.candidates import Candidate, Costs
from shapefirst.tuning.search import BatchRecord, Tuner

__all__ = ["UnfinishedSearch", "unfinished_search"]

FORMAT: Final = 4  # raised when what an older shapefirst has left is no part of a new search


@dataclass(frozen=True)
class _State:
    """What state.json says."""

    digest: str
    costs: Costs | None
    runs: dict[str, list[float]]
    solvers: dict[str, str] = field(default_factory=dict)
    seal: str = ""

    def __post_init__(self) -> None:
        costs = self.costs
        if costs is not None and not (costs.guided > 0 and min(costs.one, costs.none, costs.rest) >= 0):
            raise ShapefirstError("A call of the denoiser takes time.")
        if not all(0 <= distance <= 1 for run in self.runs.values() for distance in run):
            raise ShapefirstError("An L1 is from 0 to 1.")
        for name, configuration in self.solvers.items():
            steps = len(scheduler_for(Solver(FittedScheduler.__name__, configuration)).timesteps)
            if name not in (_fit(steps, refined=False), _fit(steps, refined=True)):
                raise ShapefirstError(f"A solver of {steps} steps is none of {name}.")

    def sealed(self) -> _State:
        """With a digest of all else: a weight that was changed is no longer the one whose L1 was measured."""
        content = json.dumps(asdict(replace(self, seal="")), sort_keys=True)
        return replace(self, seal=hashlib.sha256(content.encode()).hexdigest())


class UnfinishedSearch:
    """What an interrupted run leaves, in a hidden folder beside the policy.

    Attributes:
        goes_on: Whether an earlier run with the same settings has left something.
        costs: What it measured, if it came so far.
        runs: Candidate's name -> the L1 of each image.
    """

    def __init__(self, out: Path, settings: Sequence[Any]) -> None:
        self._folder = out.with_name(f".{out.name}.tuning")
        self._digest = hashlib.sha256(json.dumps([FORMAT, *settings], sort_keys=True).encode()).hexdigest()
        self.goes_on = False
        self.costs: Costs | None = None
        self.runs: dict[str, list[float]] = {}
        self._solvers: dict[str, str] = {}  # "fitted M" or "refined M" -> configuration, beside its run of that name
        try:
            state = fitted(_State, json_of(content_of(self._folder / "state.json")), "")
        except (OSError, ValueError):  # there is none, or one that cannot be used
            state = _State("", None, {})
        if state.digest != self._digest or state.seal != state.sealed().seal:
            self.forget()
            return
        self.goes_on, self.costs, self.runs = True, state.costs, dict(state.runs)
        self._solvers = dict(state.solvers)

    def recording(self, batch: int) -> BatchRecord | None:
        """What an earlier run recorded of a batch, or None."""
        try:
            recorded = read_npz(self._folder / f"recording-{batch}.npz", ("references", "names", "scores"))
        except ShapefirstError:  # there is none, or one that cannot be used
            return None
        references, names, scores = recorded
        kinds = [(array.dtype.kind, array.ndim) for array in recorded]
        if kinds != [("u", 4), ("U", 1), ("f", 1)] or len(names) != len(scores) or not np.isfinite(scores).all():
            return None
        return BatchRecord(references, dict(zip(names.tolist(), scores.tolist(), strict=True)))

    def keep_recording(self, batch: int, recorded: BatchRecord) -> None:
        self._write()
        with atomic(self._folder / f"recording-{batch}.npz") as part, part.open("wb") as stream:
            names, scores = list(recorded.scores), list(recorded.scores.values())
            np.savez(stream, references=recorded.references, names=np.array(names), scores=np.array(scores))

    def keep_costs(self, costs: Any) -> Any:
        self.costs = costs
        self._write()
        return costs

    def keep_run(self, name: str, distances: list[float]) -> list[float]:
        self.runs[name] = distances
        self._write()
        return distances

    def fitted(self, steps: int, images: int, *, refined: bool = False) -> tuple[Candidate, list[float]] | None:
        """A solver of so many steps that was fitted, or refined, and the L1 of every image under it, or None."""
        name = _fit(steps, refined)
        if name not in self._solvers or len(self.runs.get(name, ())) != images:
            return None
        solver = Solver(FittedScheduler.__name__, self._solvers[name])
        return Candidate(steps, TextSchedule.solved(solver, steps), "fitted"), self.runs[name]

    def keep_fitted(
        self, steps: int, candidate: Candidate, distances: list[float], *, refined: bool = False
    ) -> tuple[Candidate, list[float]]:
        assert candidate.schedule.solver is not None
        self._solvers[_fit(steps, refined)] = candidate.schedule.solver.configuration
        return candidate, self.keep_run(_fit(steps, refined), distances)

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self) -> None:
        state = _State(self._digest, self.costs, self.runs, self._solvers)
        save_text(json.dumps(asdict(state.sealed())), self._folder / "state.json")


def _fit(steps: int, refined: bool) -> str:
    return f"{'refined' if refined else 'fitted'} {steps}"


def unfinished_search(out: Path, tuner: Tuner, dtype: str | None) -> UnfinishedSearch:
    """What an earlier search of the same model, prompts, sampling, batches, kind of device and number format left."""
    pipe = tuner.pipe
    digests = model_digest(pipe), sampler_digest(pipe.scheduler)
    same = [tuner.goal, asdict(tuner.sampling), tuner.prompts, tuner.batch_size, pipe._execution_device.type, dtype]
    return UnfinishedSearch(out, [*digests, *same])
