"""The model under study, with everything that the studies share: sampling in batches, forks of a trajectory, scores.

trunk: x_T -> ... -> x_t ---> ... -> x_0        one run
                      \\--> ... -> x_0           its branch from step k on: the k steps before are not done again
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from shapefirst.errors import ShapefirstError
from shapefirst.families import family_of
from shapefirst.findings.finding import DoesNotApply
from shapefirst.measure.alignment import Alignment, range_of
from shapefirst.measure.intervals import Range
from shapefirst.models import is_pocket, locate
from shapefirst.models.catalogue import NOISE_FILTER
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Prompt
from shapefirst.prompts.tokens import Positions, positions, preprocessed
from shapefirst.sampling.loop import Embeddings, Step, decode, denoise, encode, generators
from shapefirst.sampling.together import denoise_together
from shapefirst.training.noise import coloured

Named = TypeVar("Named", bound=Hashable)

__all__ = ["Fork", "Meter", "Subject", "colour_of", "part"]


class Meter:
    """Counts denoiser evaluations per image against what a study expects to need; tells a progress bar."""

    def __init__(self, report: Callable[[float], None] | None = None) -> None:
        self._report = report
        self.expected, self.done = 0.0, 0.0

    def expect(self, evaluations: float) -> None:
        """That many evaluations (over all images) are to come."""
        self.expected += evaluations

    def add(self, evaluations: float) -> None:
        """That many were done."""
        self.done += evaluations
        if self._report is not None:
            self._report(min(1.0, self.done / self.expected) if self.expected else 0.0)


@dataclass(frozen=True)
class Fork:
    """How a trajectory goes on once it leaves the trunk.

    Attributes:
        embeddings: Other prompts, or None for the trunk's.
        schedule: Which steps use the text, counted from the start of the run; None for all.
    """

    embeddings: Embeddings | None = None
    schedule: Policy | None = None


@dataclass(frozen=True)
class Subject:
    """A pipeline and how it is sampled in all studies.

    Attributes:
        name: The model's name, id or folder.
        pipe: A pipeline that `shapefirst.families.layout` knows.
        alignments: Name -> score of images against prompts. The first is the one that verdicts are made by.
        seed: Image i of a study has the seed ``seed + i``.
        steps: Denoising steps N.
        guidance_scale: w.
        sampler: The name of the pipe's sampler.
        batch_size: Images at a time.
        clip: Id or folder of the CLIP that images are compared with each other by; None for the model's usual one.
        scoring_device: Of the models that score images; None for the best there is.
        pictures: RGB, for studies that give the model one beside the prompt.
        control: Another model, sampled and scored alike, for studies that compare the two.
        colour: (C, h, w), by which the frequencies of the noise that it starts from are multiplied; None: white noise.
        meter: Counts evaluations.
    """

    name: str
    pipe: Any
    alignments: Mapping[str, Alignment]
    seed: int = 0
    steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    batch_size: int = 32
    clip: str | None = None
    scoring_device: str | None = None
    pictures: Sequence[Image.Image] = ()
    control: Subject | None = None
    colour: torch.Tensor | None = None
    meter: Meter = field(default_factory=Meter)

    @property
    def is_pocket(self) -> bool:
        """Whether the world that the model draws is known, with the true shapes of things in it."""
        return is_pocket(self.name)

    @property
    def primary(self) -> str:
        """The name of the alignment that verdicts are made by."""
        return next(iter(self.alignments))

    def scored_by(self, wanted: str) -> str:
        """The name of this alignment if there is one, else of the primary."""
        return wanted if wanted in self.alignments else self.primary

    def range_of(self, alignment: str) -> Range:
        """What a score can be."""
        return range_of(self.alignments[alignment])

    def as_read(self, prompt: Prompt | str) -> Prompt:
        """The prompt in the spelling that its tokenizer is given (see `shapefirst.prompts.tokens.preprocessed`)."""
        one = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        return replace(one, text=preprocessed(self.pipe, one.text))

    def seeds(self, count: int) -> list[int]:
        return [self.seed + i for i in range(count)]

    def about(self, prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
        """What tidy tables say of a prompt, as an axis for ``findings.tables.crossed``."""
        texts, kinds = [prompt.text for prompt in prompts], [prompt.source for prompt in prompts]
        return {"prompt": texts, "kind": kinds, "seed": self.seeds(len(prompts))}

    def percent(self) -> list[float]:
        """How much of the run is done when each of its steps begins, in %, for the axes of charts."""
        return [100 * step / self.steps for step in range(self.steps)]

    def encode(self, prompts: Sequence[Prompt | str]) -> Embeddings:
        """The prompts' embeddings, and the empty prompt's as the null ones."""
        return encode(self.pipe, [p if isinstance(p, str) else p.text for p in prompts])

    def positions(self, prompts: Sequence[Prompt | str], *, sos: bool = False) -> list[Positions]:
        """Where each prompt's tokens stand.

        Args:
            prompts: The prompts.
            sos: The study needs a start token.

        Raises:
            DoesNotApply: The tokens are no row of one encoder's, or it has no [EOS], or no [SOS] where that is needed.
        """
        if (why := family_of(self.pipe).no_positions) is not None:
            raise DoesNotApply(why)
        length = self.encode(prompts[:1]).text.shape[1]
        try:
            at = [positions(self.pipe.tokenizer, self.as_read(p).text, length) for p in prompts]
        except ShapefirstError as error:
            raise DoesNotApply(str(error)) from error
        if sos and not all(p.sos for p in at):
            raise DoesNotApply(
                f"The prompts of {self.name} have no [SOS] (T5 puts no start token before the words), "
                "so there is nothing that this study could measure."
            )
        return at

    def batches(self, count: int) -> Iterator[slice]:
        """Slices of at most ``batch_size`` that go through ``count`` images."""
        for first in range(0, count, self.batch_size):
            yield slice(first, min(first + self.batch_size, count))

    @property
    def solver_order(self) -> int:
        """Calls of the denoiser in every step but the last, see `TextSchedule.calls`."""
        return int(getattr(self.pipe.scheduler, "order", 1))

    @property
    def needed_control(self) -> Subject:
        """The control, whose evaluations count here.

        Raises:
            DoesNotApply: There is none.
        """
        if self.control is None:
            raise DoesNotApply("It compares the model with another one, which --control names, and none was given.")
        return replace(self.control, meter=self.meter)

    def cost(self, steps: int | None = None) -> int:
        """Denoiser evaluations of a run's last ``steps`` steps with text, by default of all of them."""
        calls, _ = TextSchedule.always().calls(self.steps if steps is None else steps, self.solver_order)
        return (2 if self.guidance_scale > 1 else 1) * calls

    def saved(self, k: int) -> float:
        """The share of the evaluations that the text in ``k`` steps saves."""
        return TextSchedule.until(k).saved(self.steps, self.solver_order)

    def steps_of(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        *,
        schedule: Policy | None = None,
        start: Step | None = None,
        guidance_scale: Sequence[float] | None = None,
    ) -> Iterator[Step]:
        """One batch, a ``Step`` at a time (see ``denoise``), counted by the meter. ``start`` forks an earlier run;
        ``guidance_scale`` has one for each step, by default the subject's own in all."""
        for step in denoise(
            self.pipe,
            embeddings,
            schedule=schedule,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale if guidance_scale is None else guidance_scale,
            generator=generators(seeds),
            latents=self._coloured(seeds),
            start=start,
        ):
            self.meter.add(len(seeds) * step.evaluations)
            yield step

    def _coloured(self, seeds: Sequence[int]) -> torch.Tensor | None:
        """The noise that a model starts from which was trained with another than white."""
        if self.colour is None:
            return None
        white = torch.stack([torch.randn(self.colour.shape, generator=source) for source in generators(seeds)])
        return coloured(white, self.colour)

    def sample(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int],
        *,
        schedule: TextSchedule | None = None,
        guidance_scale: Sequence[float] | None = None,
    ) -> list[Image.Image]:
        """One image for each row of ``embeddings``, of the seed beside it."""
        images = []
        for here in self.batches(len(seeds)):
            rows, scale = part(embeddings, here), guidance_scale
            *_, last = self.steps_of(rows, seeds[here], schedule=schedule, guidance_scale=scale)
            images += decode(self.pipe, last.x_next)
        return images

    def sample_together(
        self, embeddings: Embeddings, seeds: Sequence[int], schedules: Mapping[Named, Policy]
    ) -> dict[Named, list[Image.Image]]:
        """The images of `sample` for each of the schedules; what these have in common is computed once, and counts
        as `policies.sharing.evaluations_together` says."""
        images: dict[Named, list[Image.Image]] = {name: [] for name in schedules}
        for here in self.batches(len(seeds)):
            mine = seeds[here]

            def count(evaluations: float, images: Sequence[int] = mine) -> None:
                self.meter.add(evaluations * len(images))

            ended = denoise_together(
                self.pipe,
                part(embeddings, here),
                list(schedules.values()),
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=generators(mine),
                latents=self._coloured(mine),
                batch_size=2 * self.batch_size,
                on_step=count,
            )
            for made, end in zip(images.values(), ended, strict=True):
                made += decode(self.pipe, end.latents)
        return images

    def fork(
        self,
        trunk: Embeddings,
        seeds: Sequence[int],
        at: Collection[int],
        branches: Mapping[str, Callable[[int], Fork]],
        *,
        on_step: Callable[[slice, Step], None] | None = None,
    ) -> tuple[list[Image.Image], dict[tuple[str, int], list[Image.Image]]]:
        """Images of a trunk with the text in all steps, and of its branches; what they share is computed once.

        Args:
            trunk: The prompts of the trunk, B rows.
            seeds: B.
            at: The steps k to leave the trunk at, each from 0 to N - 1.
            branches: Name -> (k -> how the run goes on from step k).
            on_step: Told every step of the trunk, with the rows it is of.

        Returns:
            The trunk's B images, and (name, k) -> B images.
        """
        whole: list[Image.Image] = []
        forked: dict[tuple[str, int], list[Image.Image]] = {(name, k): [] for name in branches for k in sorted(at)}
        for here in self.batches(len(seeds)):
            mine = part(trunk, here)
            step = None
            for step in self.steps_of(mine, seeds[here]):
                if on_step is not None:
                    on_step(here, step)
                if step.index not in at:
                    continue
                for name, branch in branches.items():
                    way = branch(step.index)
                    other = mine if way.embeddings is None else part(way.embeddings, here)
                    *_, last = self.steps_of(other, seeds[here], schedule=way.schedule, start=step)
                    forked[name, step.index] += decode(self.pipe, last.x_next)
            assert step is not None
            whole += decode(self.pipe, step.x_next)
        return whole, forked

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        """Alignment's name -> (B,) scores of images against the prompts beside them."""
        return {name: alignment.score(images, prompts) for name, alignment in self.alignments.items()}


def colour_of(model: str) -> torch.Tensor | None:
    """The `Subject.colour` of a model: what training on noise of its own left beside its weights, if it did."""
    place = locate(model)
    file = None if place is None else place / NOISE_FILTER
    if file is None or not file.is_file():
        return None
    return load_file(file)["filter"]


def part(embeddings: Embeddings, rows: slice) -> Embeddings:
    """Some of the rows."""
    values = {f.name: getattr(embeddings, f.name) for f in fields(embeddings)}
    return replace(embeddings, **{name: value[rows] for name, value in values.items() if torch.is_tensor(value)})
