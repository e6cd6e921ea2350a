"""What is asked for in the studio. A link says it all: whoever opens it finds the same settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Final
from urllib.parse import parse_qsl, urlencode

from shapefirst.checks import check_number, check_prompt, check_seed, check_side, fitted
from shapefirst.errors import ShapefirstError

__all__ = ["LONGEST_PROMPT", "StudioSettings", "link_of", "settings_of_link"]

LONGEST_PROMPT: Final = 1_000  # characters; text encoders take some hundred words


@dataclass(frozen=True)
class StudioSettings:
    """A job of the studio.

    Attributes:
        prompt: What to draw.
        second: A prompt whose [EOS] is put into the first one's place; "" for none.
        negative: What not to draw.
        model: One that the studio was started with.
        sampler: A name in `SAMPLERS`, or "own" for the one that the model came with; "" is the model's usual one.
        steps: N.
        policy: Words of `policies.words`, or a tuned policy that the studio was started with.
        guidance: w; None is the model's own.
        seed: Of the first image; others count up.
        images: How many.
        width: In pixels; None is the model's own.
        height: Likewise.

    Raises:
        ShapefirstError: An empty or overlong prompt, or a number out of `checks.BOUNDS`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    prompt: str = "a red mushroom"
    second: str = ""
    negative: str = ""
    model: str = "pocket"
    sampler: str = ""
    steps: int = 25
    policy: str = "budget:0.75"
    guidance: float | None = None
    seed: int = 0
    images: int = 1
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        texts = {"prompt": "The prompt", "second": "The second prompt", "negative": "The negative prompt"}
        for name, what in {**texts, "policy": "The policy"}.items():
            check_prompt(getattr(self, name), what, LONGEST_PROMPT)
        if not self.prompt.strip():
            raise ShapefirstError('There is no prompt: say what to draw, such as "a red mushroom".')
        check_number(self.steps, "steps of the studio", "The number of steps")
        check_number(self.images, "images of the studio", "The number of images")
        check_seed(self.seed, self.images)
        if self.guidance is not None:
            check_number(self.guidance, "guidance scale", "The guidance scale")
        for name in ("width", "height"):
            if (side := getattr(self, name)) is not None:
                check_number(side, "side of the studio", f"The {name}")
                check_side(side, f"The {name}")

    @property
    def seeds(self) -> list[int]:
        """One for each image."""
        return [self.seed + n for n in range(self.images)]


_DEFAULTS: Final = {field.name: field.default for field in fields(StudioSettings)}


def link_of(settings: StudioSettings) -> str:
    """The query of the link, "?prompt=...": what differs from the defaults, and always the prompt."""
    told = {name: value for name, value in asdict(settings).items() if name == "prompt" or value != _DEFAULTS[name]}
    return f"?{urlencode(told)}"


def settings_of_link(query: str) -> StudioSettings | None:
    """The settings of a link, or None if it says none.

    Args:
        query: Of the page's address, with or without its "?". Names that the studio does not know, such as those that
            Gradio uses itself, begin with "__" and are passed over.

    Raises:
        ShapefirstError: The first entry that is unknown or not of its kind, or what `StudioSettings` refuses.
    """
    try:
        pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise ShapefirstError(
            "The link says more than 50 things: open the studio without what stands behind '?'."
        ) from None
    told = {name: value for name, value in pairs if not name.startswith("__")}
    return fitted(StudioSettings, told, " of the link") if told else None
