"""A job of the studio: the full picture, the one that the policy saves on, and what was seen on the way.

    x0 = (x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t)         kept of every step, to look at later

Seconds are those of the steps and of the decoding; previews, which are decoded between them, do not count.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import torch
from PIL import Image

from shapefirst.attention import record
from shapefirst.errors import ShapefirstError
from shapefirst.families import Embeddings, family_of
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.images.comparison import Comparison
from shapefirst.images.jobs import Result, cut_text
from shapefirst.models import OWN_SAMPLER, is_pocket, load, with_sampler
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts.edits import switch_eos
from shapefirst.prompts.known import unseen
from shapefirst.prompts.tokens import positions, preprocessed, word_positions
from shapefirst.sampling.loop import Step, decode, denoise, encode, generators
from shapefirst.studio.offer import Offer
from shapefirst.studio.settings import StudioSettings
from shapefirst.studio.strip import titled
from shapefirst.studio.turns import Ticket

__all__ = ["MAP_SIZE", "JobResult", "Progress", "Sampled", "Studio"]

MAP_SIZE: Final = 16  # pixels of the longer side of an attention map
KEPT: Final = 4  # full pictures that are not sampled anew
SHARE: Final = 4  # a preview is due when the time since the last one is this many times what that took
SOONEST: Final = 0.15  # seconds between two previews


@dataclass(frozen=True)
class Sampled:
    """One run.

    Attributes:
        title: Which, for people.
        results: An image for each seed, and its cost.
        x0: (B, C, H, W) of each step, in half precision on the CPU.
        spent: Denoiser evaluations an image in each step.
    """

    title: str
    results: tuple[Result, ...]
    x0: tuple[torch.Tensor, ...]
    spent: tuple[float, ...]


@dataclass(frozen=True)
class Progress:
    """What a job tells while it runs.

    Attributes:
        what: What it is at.
        done: Steps.
        steps: Of how many; 0 while that is not known.
        finished: Name of a run that is done -> its images.
        name: The run in progress.
        preview: Its x0 so far.
    """

    what: str
    done: int = 0
    steps: int = 0
    finished: Mapping[str, tuple[Image.Image, ...]] = field(default_factory=dict)
    name: str = ""
    preview: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class JobResult:
    """What a job made.

    Attributes:
        settings: Complete.
        policy: In words.
        runs: "full", and as far as they were asked for "saved", "switched" and "second".
        words: Of the prompt, with the positions of their tokens.
        device: Where it ran.
        notes: What one should know: words that pocket never saw, an end that was cut off, why there are no maps.
        maps: Step -> (B, L, h, w) of the full picture, once they were read.
    """

    settings: StudioSettings
    policy: str
    runs: Mapping[str, Sampled]
    words: tuple[tuple[str, tuple[int, ...]], ...]
    device: str
    notes: tuple[str, ...] = ()
    maps: dict[int, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The saved picture against the full one."""
        saved, full = self.runs.get("saved"), self.runs["full"]
        return None if saved is None else Comparison(saved.title, saved.results, full.results)


class Studio:
    """What makes the pictures. Its methods run in the thread of `turns` alone.

    Args:
        offer: What it was started with.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self._loaded: tuple[str, Any] | None = None
        self._full: OrderedDict[tuple[Any, ...], Sampled] = OrderedDict()
        self._warm: set[tuple[Any, ...]] = set()

    def pipeline(self, settings: StudioSettings) -> Any:
        """The pipeline of the settings' model and sampler; one model at a time stays loaded."""
        if self._loaded is None or self._loaded[0] != settings.model:
            self._loaded = None  # before the next one takes its memory
            self._full.clear()
            pipe = load(settings.model, device=self.offer.device, dtype=self.offer.dtype, sampler=OWN_SAMPLER)
            pipe.set_progress_bar_config(disable=True)
            self._loaded = settings.model, pipe
        return with_sampler(self._loaded[1], settings.sampler)

    def loaded(self, model: str) -> Any:
        """The pipeline of a model if it is the one that is loaded, else None."""
        return self._loaded[1] if self._loaded is not None and self._loaded[0] == model else None

    def make(self, settings: StudioSettings, ticket: Ticket) -> JobResult:
        """The settings' pictures.

        Raises:
            Cancelled: Within a step after the ticket was cancelled.
            ShapefirstError: They cannot be made.
        """
        ticket.tell(Progress(f"Loading {settings.model}"))
        pipe, policy = self.pipeline(settings), self._policy(settings)
        ticket.tell(Progress("Reading the prompt"))
        prompts = _encoded(pipe, settings, settings.prompt)
        wanted: dict[str, tuple[str, Embeddings, Policy]] = {"full": ("Full guidance", prompts, TextSchedule.always())}
        said = titled(policy.in_run(pipe.scheduler, *steps_ahead(pipe.scheduler, settings.steps)), settings.steps)
        if policy != TextSchedule.always():
            wanted["saved"] = (said, prompts, policy)
        if settings.second.strip():
            other = _encoded(pipe, settings, settings.second)
            wanted["switched"] = (
                "The first prompt with the [EOS] of the second",
                _switched(pipe, settings, prompts, other),
                TextSchedule.always(),
            )
            wanted["second"] = ("The second prompt", other, TextSchedule.always())
        self._warm_up(pipe, settings, prompts, ticket)
        runs: dict[str, Sampled] = {}
        for name, (title, embeddings, schedule) in wanted.items():
            finished = {done: tuple(one.image for one in run.results) for done, run in runs.items()}
            watched = _Watched(pipe, ticket, Progress(title, finished=finished, name=name))
            runs[name] = self._sampled(pipe, settings, title, embeddings, schedule, watched, kept=name == "full")
        words, why = _words(pipe, settings, prompts.text.shape[1])
        notes = (*_notes(pipe, settings), *([why] if why else []))
        return JobResult(settings, said, runs, words, pipe.device.type, notes)

    def read_maps(self, outcome: JobResult, ticket: Ticket) -> None:
        """What each pixel of the full picture attends to, from one more run of it: `outcome.maps`.

        Raises:
            Cancelled: As `make`.
            ShapefirstError: The model's attention cannot be recorded.
        """
        settings = outcome.settings
        ticket.tell(Progress(f"Loading {settings.model}"))
        pipe = self.pipeline(settings)
        watched = _Watched(pipe, ticket, Progress("Reading the attention"), previews=False)
        with record(pipe, size=MAP_SIZE) as maps:
            _sample(pipe, settings, _encoded(pipe, settings, settings.prompt), TextSchedule.always(), watched)
            outcome.maps.update(maps.text)

    def _policy(self, settings: StudioSettings) -> Policy:
        tuned = self.offer.policies.get(settings.policy.strip())
        return self.offer.policy(settings) if tuned is None else tuned.policy_for(self.pipeline(settings))

    def _sampled(
        self,
        pipe: Any,
        settings: StudioSettings,
        title: str,
        embeddings: Embeddings,
        schedule: Policy,
        watched: _Watched,
        kept: bool,
    ) -> Sampled:
        """A run; the full one is taken from an earlier job that differed in its policy alone."""
        key = _key(settings)
        if kept and key in self._full:
            self._full.move_to_end(key)
            return self._full[key]
        run = _sample(pipe, settings, embeddings, schedule, watched)
        made = replace(run, title=title)
        if kept:
            self._full[key] = made
            if len(self._full) > KEPT:
                self._full.popitem(last=False)
        return made

    def _warm_up(self, pipe: Any, settings: StudioSettings, prompts: Embeddings, ticket: Ticket) -> None:
        """One step with the text and one without, so that no timed run pays for what only the first one does."""
        key = (settings.model, settings.images, settings.width, settings.height)
        if key not in self._warm:
            ticket.tell(Progress("Warming up"))
            watched = _Watched(pipe, ticket, Progress("Warming up"), previews=False)
            _sample(pipe, replace(settings, steps=2), prompts, TextSchedule.until(1), watched)
            self._warm.add(key)


def _key(settings: StudioSettings) -> tuple[Any, ...]:
    """Of the full picture: what the policy and the second prompt do not change."""
    return astuple(replace(settings, policy="full", second=""))


class _Watched:
    """What is told between the steps of a run, and where it may end."""

    def __init__(self, pipe: Any, ticket: Ticket, progress: Progress, *, previews: bool = True) -> None:
        self._pipe, self._ticket, self._progress, self._previews = pipe, ticket, progress, previews
        self._due = 0.0

    def __call__(self, step: Step | None, steps: int) -> None:
        done = 0 if step is None else step.index + 1
        now = time.monotonic()
        if step is not None and self._previews and now >= self._due and done < steps:
            self._progress = replace(self._progress, preview=tuple(decode(self._pipe, step.x0)))
            took = time.monotonic() - now
            self._due = now + max(SOONEST, (SHARE + 1) * took)
        self._progress = replace(self._progress, done=done, steps=steps)
        self._ticket.tell(self._progress)
        self._ticket.breathe()


def _sample(
    pipe: Any,
    settings: StudioSettings,
    prompts: Embeddings,
    schedule: Policy,
    watched: Callable[[Step | None, int], None],
) -> Sampled:
    """One run of all the images."""
    steps = schedule.own_steps or settings.steps
    watched(None, steps)
    walk = denoise(
        pipe,
        prompts,
        schedule=schedule,
        num_inference_steps=steps,
        guidance_scale=settings.guidance or 0.0,
        generator=generators(settings.seeds),
        height=settings.height,
        width=settings.width,
    )
    x0: list[torch.Tensor] = []
    spent: list[float] = []
    seconds, last = 0.0, None
    while True:
        begun = time.perf_counter()
        step = next(walk, None)
        _finish(pipe)
        seconds += time.perf_counter() - begun
        if step is None:
            break
        last = step
        x0.append(step.x0.to("cpu", torch.float16))
        spent.append(step.evaluations)
        watched(step, steps)
    assert last is not None
    begun = time.perf_counter()
    images = decode(pipe, last.x_next)
    seconds += time.perf_counter() - begun
    each, evaluations = seconds / settings.images, sum(spent)
    results = tuple(
        Result(settings.prompt, seed, image, evaluations, evaluations, each)
        for seed, image in zip(settings.seeds, images, strict=True)
    )
    return Sampled("", results, tuple(x0), tuple(spent))


def _finish(pipe: Any) -> None:
    """CUDA only takes orders; the time that a step takes is known when it is done."""
    if pipe.device.type == "cuda":
        torch.cuda.synchronize(pipe.device)


def _encoded(pipe: Any, settings: StudioSettings, prompt: str) -> Embeddings:
    return encode(pipe, prompt, settings.negative or None, num_images_per_prompt=settings.images)


def _switched(pipe: Any, settings: StudioSettings, first: Embeddings, second: Embeddings) -> Embeddings:
    """The first prompt with the [EOS] of the second, and with what is pooled from it."""
    if (why := family_of(pipe).no_positions) is not None:
        raise ShapefirstError(why)
    length = first.text.shape[1]
    here, there = (
        [positions(pipe.tokenizer, preprocessed(pipe, text), length)] * settings.images
        for text in (settings.prompt, settings.second)
    )
    return replace(first, text=switch_eos(first.text, second.text, here, there), text_pooled=second.text_pooled)


def _words(pipe: Any, settings: StudioSettings, length: int) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], str]:
    """The words that the text encoder sees and where, or none and why."""
    if (why := family_of(pipe).no_positions) is not None:
        return (), why
    try:
        found = word_positions(pipe.tokenizer, preprocessed(pipe, settings.prompt), length)
    except ShapefirstError as error:
        return (), str(error)
    return tuple((word, places) for word, places in found if places), ""


def _notes(pipe: Any, settings: StudioSettings) -> list[str]:
    notes = []
    for text in filter(None, (settings.prompt, settings.second)):
        if cut := cut_text(pipe, text):
            notes.append(f"The prompt is too long for the text encoder, which does not see its end: {cut!r}.")
        if is_pocket(settings.model) and (said := unseen(text)):
            notes.append(said)
    if settings.guidance is not None and settings.guidance <= 1:
        notes.append(f"At a guidance scale of {settings.guidance:g} no guidance runs: each step has one evaluation.")
    return notes
