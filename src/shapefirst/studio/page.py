"""The page, in Gradio: what is called when a control changes. What is done then stands in the other files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

import gradio as gr

from shapefirst.checks import fitted
from shapefirst.errors import ShapefirstError
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.studio.layout import Controls, samplers_of
from shapefirst.studio.looking import bands_of, map_over, preview_of
from shapefirst.studio.making import JobResult, Progress, Studio
from shapefirst.studio.repeating import command_of, python_of
from shapefirst.studio.settings import StudioSettings, link_of, settings_of_link
from shapefirst.studio.shelf import Shelf, Tab
from shapefirst.studio.showing import gallery_html, moment_html, progress_html, result_html, status_html
from shapefirst.studio.strip import strip_of, words_of_strip
from shapefirst.studio.turns import Ticket, Turns

__all__ = ["StudioPage"]

TICK: Final = 0.1  # seconds between two looks at a job
#: A tab makes up its name, which survives that it is loaded again. `crypto.randomUUID` is for https alone.
TOKEN: Final = """() => {
  let token = sessionStorage.getItem("shapefirst");
  if (!token) {
    const bytes = Array.from(crypto.getRandomValues(new Uint8Array(16)));
    token = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("shapefirst", token);
  }
  return [token, window.location.search];
}"""
#: The address says the settings, so that to load the page again is to find them.
ADDRESS: Final = "(link) => { if (link) history.replaceState(null, '', new URL(link).search); }"
EMPTY: Final = "Generate makes both pictures, from the same noise."

Update = dict[Any, Any]


class StudioPage:
    """The page of one studio.

    Args:
        studio: What makes the pictures.
        turns: Its queue.
        shelf: Its memory.
    """

    def __init__(self, studio: Studio, turns: Turns, shelf: Shelf) -> None:
        self._studio, self._turns, self._shelf = studio, turns, shelf
        self._offer = studio.offer
        self.blocks = gr.Blocks(title="shapefirst studio", analytics_enabled=False)
        with self.blocks:
            self._on = Controls(self._offer)
            self._wire()

    def _wire(self) -> None:
        """What is called when, with what, and what it changes."""
        on = self._on
        fields = list(on.fields.values())
        told = [on.link, on.command, on.python]
        shown = [on.status, on.result, on.go, on.stop, on.explorer, on.step, on.which, on.word, on.moment, on.gallery]
        policy, steps, model, sampler = (on.fields[name] for name in ("policy", "steps", "model", "sampler"))
        run = [policy, steps, model, sampler]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        latest = {**quiet, "trigger_mode": "always_last"}
        opened = [*fields, on.token, on.strip, on.said, *told, *shown]
        self.blocks.load(self._open, [on.token, on.query], opened, js=TOKEN, **quiet)
        made = gr.on([on.go.click, on.fields["prompt"].submit], self._generate, [on.token, *fields], shown, **quiet)
        made.then(None, on.link, js=ADDRESS, **quiet)
        on.stop.click(self._cancel, on.token, on.status, **quiet)
        gr.on(
            [policy.input, steps.change, model.input, sampler.change],
            self._see,
            run,
            [on.strip, on.said, steps],
            **latest,
        )
        on.strip.input(self._toggle, [*run, on.strip], [policy, on.strip, on.said], **latest)
        gr.on([one.change for one in fields], self._repeat, fields, told, **latest)
        model.input(self._usual, [model, sampler], sampler, **latest)
        looks = [on.step.change, on.which.change, on.word.change]
        gr.on(looks, self._look, [on.token, on.step, on.which, on.word], [on.moment, on.stop], **latest)

    async def _open(self, token: str, query: str, request: gr.Request) -> AsyncIterator[Update]:
        """The page was loaded, perhaps again: its settings, its latest pictures, and a job that goes on."""
        tab, wrong = self._shelf.tab(token), ""
        running = tab.ticket is not None and not tab.ticket.is_over
        settings = tab.settings if running else None
        try:
            settings = settings or settings_of_link(query)
            if settings is None:  # the page's own address begins anew
                settings, tab.outcome, tab.shown = StudioSettings(), None, ""
        except ShapefirstError as error:
            settings, wrong = StudioSettings(), str(error)
        update = {one: getattr(settings, name) for name, one in self._on.fields.items()}
        update |= {
            self._on.token: token,
            **self._see(settings.policy, settings.steps, settings.model, settings.sampler, fixed=True),
        }
        update |= self._repeat(request, *update.values()) if not wrong else {}
        update[self._on.fields["sampler"]] = self._usual(settings.model, settings.sampler)
        update |= self._rest(tab, status_html(wrong or "Ready.", is_error=bool(wrong)))
        yield update
        if running and tab.ticket is not None:
            async for change in self._follow(tab, tab.ticket):
                yield change

    async def _generate(self, token: str, *values: Any) -> AsyncIterator[Update]:
        try:
            tab, settings = self._shelf.tab(token), self._completed(values)
            ticket = self._turns.submit(token, partial(self._make, settings, tab))
        except ShapefirstError as error:
            yield {self._on.status: status_html(str(error), is_error=True)}
            return
        tab.ticket, tab.settings = ticket, settings
        async for change in self._follow(tab, ticket):
            yield change

    def _make(self, settings: StudioSettings, tab: Tab, ticket: Ticket) -> JobResult:
        outcome = self._studio.make(settings, ticket)
        tab.shown, tab.outcome = result_html(outcome, self._shelf, tab), outcome
        return outcome

    async def _follow(self, tab: Tab, ticket: Ticket) -> AsyncIterator[Update]:
        """What changes on the page until a job is over."""
        yield {self._on.go: gr.update(interactive=False), self._on.stop: gr.update(interactive=True)}
        names = _names(tab.settings)
        last: tuple[int, int] | None = None
        while not ticket.is_over:
            ticket.look()
            if (now := (ticket.version, ticket.place)) != last:
                last = now
                change: Update = {self._on.status: status_html(_said(ticket))}
                if isinstance(ticket.news, Progress) and ticket.news.name:
                    change[self._on.result] = progress_html(ticket.news, names)
                yield change
            await asyncio.sleep(TICK)
        yield self._rest(tab, _ending(ticket), notes=ticket.state == "done")

    def _rest(self, tab: Tab, status: str, *, notes: bool = False) -> Update:
        """The page while no job of its tab runs."""
        outcome = tab.outcome
        update: Update = {
            self._on.go: gr.update(interactive=True),
            self._on.stop: gr.update(interactive=False),
            self._on.status: status + (status_html("", notes=outcome.notes) if notes and outcome else ""),
            self._on.result: tab.shown or progress_html(Progress(""), ["full", "saved"], EMPTY),
            self._on.gallery: gallery_html(tab, [link_of(one.settings) for one in tab.hung]),
            self._on.explorer: gr.update(visible=outcome is not None),
        }
        if outcome is not None:
            steps = max(len(run.x0) for run in outcome.runs.values())
            count = outcome.settings.images
            update |= {
                self._on.step: gr.update(maximum=steps, value=steps),
                self._on.which: gr.update(choices=[str(n + 1) for n in range(count)], value="1", visible=count > 1),
                self._on.word: gr.update(
                    choices=[(word, str(n)) for n, (word, _) in enumerate(outcome.words)],
                    value=None,
                    visible=bool(outcome.words),
                ),
                self._on.moment: "",
            }
        return update

    def _cancel(self, token: str) -> str:
        ticket = self._shelf.tab(token).ticket
        if ticket is None or ticket.is_over:
            return status_html("There is nothing to cancel.")
        ticket.cancel()
        return status_html("Stopping after this step.")

    def _see(self, words: str, steps: float, model: str, sampler: str, *, fixed: bool = False) -> Update:
        """The strip of a policy; a tuned one brings the steps along that it stands for."""
        words, steps = words or "", int(steps)
        tuned = self._offer.policies.get(words.strip())
        if tuned is not None and not fixed:
            steps = tuned.full_steps
        try:
            strip = strip_of(self._policy(words, steps, model, sampler), steps)
        except ShapefirstError as error:
            return {
                self._on.strip: gr.update(choices=[], value=[]),
                self._on.said: status_html(str(error), is_error=True),
            }
        said = status_html("", notes=[strip.said, *([tuned.promise] if tuned and tuned.promise else [])])
        cells = [] if strip.guided is None else [(str(n + 1), n) for n in range(steps)]
        update: Update = {
            self._on.strip: gr.update(choices=cells, value=sorted(strip.guided or ()), visible=bool(cells)),
            self._on.said: said,
        }
        return update if tuned is None or fixed else {**update, self._on.fields["steps"]: steps}

    def _usual(self, model: str, sampler: str) -> Any:
        """The samplers, as of another model."""
        known = model if model in self._offer.models else StudioSettings().model
        chosen = "" if sampler == self._offer.models[known] else sampler
        return gr.update(choices=samplers_of(self._offer, known), value=chosen)

    def _policy(self, words: str | None, steps: float, model: str, sampler: str) -> Policy:
        """The policy of these words, its steps as they lie with the sampler."""
        return self._offer.shown_policy(
            StudioSettings(policy=words or "", steps=int(steps), model=model, sampler=sampler or "")
        )

    def _toggle(self, words: str, steps: float, model: str, sampler: str, guided: Sequence[int]) -> Update:
        """Steps of the strip were clicked on: the policy that they are."""
        steps = int(steps)
        policy: Policy = TextSchedule.always()
        try:
            policy = self._policy(words, steps, model, sampler)
            chosen = words_of_strip(policy, [int(n) for n in guided], steps)
            return {
                self._on.fields["policy"]: chosen,
                self._on.said: status_html(
                    "", notes=[strip_of(self._policy(chosen, steps, model, sampler), steps).said]
                ),
            }
        except ShapefirstError as error:
            kept = sorted(strip_of(policy, steps).guided or ())
            return {self._on.strip: gr.update(value=kept), self._on.said: status_html(str(error), is_error=True)}

    def _repeat(self, request: gr.Request, *values: Any) -> Update:
        """The link, the command line and the Python of the settings; nothing where they are none."""
        try:
            settings = self._settings(values[: len(self._on.fields)])
            whole = self._offer.completed(settings)
        except ShapefirstError:
            return {self._on.link: "", self._on.command: "", self._on.python: ""}
        how = {"device": self._offer.device, "dtype": self._offer.dtype}
        tuned = self._offer.policies.get(settings.policy.strip())
        return {
            self._on.link: f"http://{request.headers['host']}/{link_of(settings)}",
            self._on.command: command_of(whole, **how),
            self._on.python: python_of(whole, tuned, **how),
        }

    async def _look(self, token: str, step: float, which: str, word: str | None) -> AsyncIterator[Update]:
        """A step of the runs; the maps are read with the first word that is clicked on."""
        on = self._on
        try:
            tab = self._shelf.tab(token)
            outcome = tab.outcome
            if outcome is None:
                return
            if word is not None and not outcome.maps:
                tab.ticket = ticket = self._turns.submit(token, partial(self._studio.read_maps, outcome))
                while not ticket.is_over:
                    ticket.look()
                    yield {on.moment: moment_html({}, _said(ticket)), on.stop: gr.update(interactive=True)}
                    await asyncio.sleep(TICK)
                yield {on.stop: gr.update(interactive=False)}
                if ticket.state != "done":
                    yield {on.moment: moment_html({}, ticket.sentence or "Cancelled.")}
                    return
            look = partial(self._moment_of, outcome, int(step) - 1, int(which) - 1, word)
            yield {on.moment: await asyncio.wrap_future(self._turns.errand(look))}
        except ShapefirstError as error:
            yield {on.moment: moment_html({}, str(error))}

    def _moment_of(self, outcome: JobResult, step: int, n: int, word: str | None) -> str:
        pipe = self._studio.loaded(outcome.settings.model)
        if pipe is None:
            return moment_html({}, "Another model is loaded by now: generate again to look into this run.")
        rows = {}
        for name, run in outcome.runs.items():
            at = min(max(step, 0), len(run.x0) - 1)
            image = preview_of(pipe, run.x0[at][n])
            low, high = bands_of(image)
            row = [("x0 at this step", image), ("Low frequencies", low), ("High frequencies", high)]
            if name == "full" and word is not None and at in outcome.maps:
                label, places = outcome.words[int(word)]
                row.append((f"Attention of “{label}”", map_over(image, outcome.maps[at][n], places)))
            rows[f"{run.title}, step {at + 1}"] = row
        return moment_html(rows)

    def _settings(self, values: Sequence[Any]) -> StudioSettings:
        told = {name: value for name, value in zip(self._on.fields, values, strict=True) if value is not None}
        return fitted(StudioSettings, told, "")

    def _completed(self, values: Sequence[Any]) -> StudioSettings:
        return self._offer.completed(self._settings(values))


def _names(settings: StudioSettings | None) -> list[str]:
    """The runs of a job, as far as they are known before."""
    if settings is None:
        return ["full"]
    saved = ["saved"] if settings.policy.strip() != "full" else []
    return ["full", *saved, *(["switched", "second"] if settings.second.strip() else [])]


def _said(ticket: Ticket) -> str:
    if ticket.state == "waiting":
        return f"Place {ticket.place} in the queue." if ticket.place else "Next."
    news = ticket.news
    if not isinstance(news, Progress):
        return "Starting."
    return f"{news.what}: step {news.done} of {news.steps}" if news.steps else f"{news.what}."


def _ending(ticket: Ticket) -> str:
    said = {"done": "Done.", "cancelled": "Cancelled."}
    return status_html(said.get(ticket.state, ticket.sentence), is_error=ticket.state == "failed")
