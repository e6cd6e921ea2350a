"""What stands on the page, and where. The names of the settings' controls are those of `StudioSettings`."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import gradio as gr

from shapefirst.checks import BOUNDS
from shapefirst.drawing.pages import fill
from shapefirst.models import OWN_SAMPLER, SAMPLERS
from shapefirst.studio.offer import Offer
from shapefirst.studio.settings import StudioSettings, link_of
from shapefirst.studio.showing import status_html

__all__ = ["Controls", "samplers_of"]

PRESETS: Final = ("budget:0.75", "budget:0.6", "every:2", "tol:0.006", "paper:0.5", "text:0.5", "full")
SWITCH: Final = (
    "[EOS] is the token behind a prompt's words, and has read them all. Two more pictures: of this second prompt, and "
    "of the first one's words with the second one's [EOS]. Which of the two prompts does that one show?"
)
OWN: Final = "the model's own"


class Controls:
    """The controls, laid out within the `gr.Blocks` that is open.

    Args:
        offer: What there is to choose among.

    Attributes:
        fields: Name of a setting -> its control.
        token: The tab's name.
        query: Of the page's address.
    """

    def __init__(self, offer: Offer) -> None:
        self.fields: dict[str, Any] = {}
        gr.HTML(fill("studio/title.html"), elem_classes="sf-title")
        self.token, self.query = (gr.Textbox(visible=False) for _ in range(2))
        with gr.Row(elem_id="sf-main"):
            with gr.Column():
                self._ask(offer)
            with gr.Column():
                self._show()
        with gr.Accordion("Gallery", open=True):
            self.gallery = gr.HTML(elem_id="sf-gallery")
        with gr.Accordion("The same elsewhere: link, command line, Python", open=False, elem_id="sf-same"):
            copied = partial(gr.Textbox, interactive=False, buttons=["copy"])
            self.link = copied(label="Link", elem_id="sf-link", max_lines=3)
            self.command = copied(label="Command line", elem_id="sf-command", max_lines=6)
            self.python = copied(label="Python", elem_id="sf-python", max_lines=24)
        if offer.reports or offer.policies:
            with gr.Accordion("Reports and tuned policies", open=False):
                gr.HTML(_reports(offer), elem_id="sf-reports")

    def _ask(self, offer: Offer) -> None:
        """What is asked for, in the order of its weight. On a phone the pictures stand between the two columns."""
        fresh, put = StudioSettings(), self.fields.__setitem__
        with gr.Column(elem_id="sf-first"):
            put("prompt", gr.Textbox(fresh.prompt, label="Prompt", max_lines=4, elem_id="sf-prompt"))
            with gr.Row():
                self.go = gr.Button("Generate", variant="primary", interactive=False, elem_id="sf-go", min_width=120)
                self.stop = gr.Button("Cancel", interactive=False, elem_id="sf-stop", min_width=100)
            self.status = gr.HTML(status_html("One moment."), elem_id="sf-status")
        with gr.Column(elem_id="sf-settings"):
            self._settings(offer, fresh)

    def _settings(self, offer: Offer, fresh: StudioSettings) -> None:
        put = self.fields.__setitem__
        low, high = (int(bound) for bound in BOUNDS["steps of the studio"])
        few, many = (int(bound) for bound in BOUNDS["images of the studio"])
        policies = gr.Dropdown(
            [*PRESETS, *offer.policies],
            value=fresh.policy,
            label="Policy",
            allow_custom_value=True,
            info="Choose one or write your own, such as steps:0-9+12+16",
            elem_id="sf-policy",
        )
        put("policy", policies)
        put("steps", gr.Slider(low, high, fresh.steps, step=1, label="Steps", elem_id="sf-steps"))
        label = "Schedule: the steps that evaluate both branches"
        self.strip = gr.CheckboxGroup(label=label, interactive=True, elem_id="sf-strip")
        self.said = gr.HTML(elem_id="sf-said")
        samplers = samplers_of(offer, fresh.model)
        with gr.Row():
            put("model", gr.Dropdown([*offer.models], value=fresh.model, label="Model", min_width=110, scale=2))
            put(
                "sampler",
                gr.Dropdown(
                    samplers, value=fresh.sampler, label="Sampler", min_width=200, scale=3, elem_id="sf-sampler"
                ),
            )
        with gr.Accordion("[EOS] switch: a second prompt", open=False, elem_id="sf-eos"):
            put("second", gr.Textbox(label="Second prompt", info=SWITCH, elem_id="sf-second"))
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                put("seed", gr.Number(fresh.seed, label="Seed", precision=0, min_width=100))
                put("images", gr.Slider(few, many, fresh.images, step=1, label="Images", min_width=140))
            with gr.Row():
                put("guidance", gr.Number(None, label="Guidance scale", placeholder=OWN, min_width=100))
                for name in ("width", "height"):
                    put(name, gr.Number(None, label=name.capitalize(), precision=0, placeholder=OWN, min_width=90))
            put("negative", gr.Textbox(label="Negative prompt"))

    def _show(self) -> None:
        """What was made, and what one sees of a step."""
        with gr.Column(elem_id="sf-shown"):
            self.result = gr.HTML(elem_id="sf-result", min_height=120)
        with gr.Column(elem_id="sf-look"):
            with gr.Group(visible=False) as self.explorer:
                self.step = gr.Slider(1, 25, 1, step=1, label="Look at step", elem_id="sf-step")
                self.which = gr.Radio(["1"], value="1", label="Picture", visible=False, elem_id="sf-which")
                self.word = gr.Radio([], label="Attention of a word", elem_id="sf-words")
            self.moment = gr.HTML(elem_id="sf-moment")


def samplers_of(offer: Offer, model: str) -> list[tuple[str, str]]:
    """What to call each sampler -> its name in `StudioSettings`; the first is the model's usual one."""
    usual = offer.models[model]
    others = [(name, name) for name in SAMPLERS if name != usual]
    return [("the model's own" if usual == OWN_SAMPLER else f"{usual} (the model's usual)", ""), *others]


def _reports(offer: Offer) -> str:
    tuned = [
        (name, file, link_of(StudioSettings(policy=name, steps=file.full_steps)))
        for name, file in offer.policies.items()
    ]
    return fill("studio/reports.html", reports=list(enumerate(offer.reports)), tuned=tuned)
