"""What a sweep is asked for, and the units that its work comes in.

    models = ["pocket"]
    samplers = ["ddim", "dpm-solver"]
    steps = [50]
    text_steps = ["0%", "50%", 40]        # in per cent of the steps, or steps; "0,10,25", or "0:50:5" for 0, 5, ..., 50
    keep = ["null", "text"]               # the branch that the other steps evaluate
    policies = ["budget:0.6"]             # more policies, as `shapefirst generate --policy` takes them
    guidance_scale = [4.0, 7.5]           # by default the model's own
    prompts = "captions.csv"              # or a text file, or "pocket" for prompts in its vocabulary
    count = 1000                          # of the prompts
    images_per_prompt = 1
    seed = 0

Full guidance is always among the policies: it is what the others are compared with. Image i, counted through the
prompts once for each image per prompt, has the seed ``seed + i``, the same in every setting.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt

from shapefirst.checks import check_number, check_seed, fitted
from shapefirst.errors import ShapefirstError, first_line
from shapefirst.files import on_disk
from shapefirst.models import MODELS, default_guidance_scale, sampler_info
from shapefirst.policies.auto import Policy
from shapefirst.policies.placement import Budget
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.policies.words import parse_policy, text_steps_of
from shapefirst.prompts import Prompt, mixed, parse_prompts, read_captions, read_prompts, sample
from shapefirst.prompts.lines import TABLES, read_text
from shapefirst.signatures import guarded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FULL", "Grid", "Setting", "Shard", "Shards", "prompts_of", "read_grid"]

FULL: Final = "full"
POCKET_PROMPTS: Final = 1000
TENTHS: Final = tuple(f"{10 * i}%" for i in range(11))


T = TypeVar("T")
#: A list, or a single value for a list of one.
Many: TypeAlias = Annotated[
    tuple[T, ...], BeforeValidator(lambda given: given if isinstance(given, list | tuple) else [given])
]


@guarded
@dataclass(frozen=True)
class Grid:
    """The module's fields; every combination of models, samplers, steps and guidance scales is a setting.

    Raises:
        ShapefirstError: A field that is empty, not of its kind, out of `checks.BOUNDS` or says the same twice; an
            unknown sampler or policy, more text steps than there are steps.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    models: Many[str] = ("pocket",)
    samplers: Many[str] = ("ddim",)
    steps: Many[StrictInt] = (50,)
    text_steps: Many[Annotated[str, Field(coerce_numbers_to_str=True)]] = TENTHS
    keep: Many[str] = ("null",)
    policies: Many[str] = ()
    guidance_scale: Many[StrictFloat] = ()
    prompts: str = "pocket"
    count: StrictInt | None = None
    images_per_prompt: StrictInt = 1
    seed: StrictInt = 0
    shard_size: StrictInt = 32

    def __post_init__(self) -> None:
        for name in ("models", "samplers", "steps", "keep"):
            if not getattr(self, name):
                raise ShapefirstError(f"A sweep needs at least one entry in {name}.")
        for name in ("text_steps", "policies"):  # of which those that do the same are one, whatever they are called
            check_number(len(getattr(self, name)), "entries", f"The number of entries in {name}")
        for name in ("models", "samplers", "steps", "keep", "guidance_scale"):
            check_number(len(getattr(self, name)), "entries", f"The number of entries in {name}")
            _check_different(name, getattr(self, name), _place_of if name == "models" else str)
        for sampler in self.samplers:
            sampler_info(sampler)
        for number in self.steps:
            check_number(number, "steps", "The number of steps")
        for keep in self.keep:
            if keep not in ("null", "text"):
                raise ShapefirstError(f'keep must be "null" or "text", not {keep!r}.')
        for scale in self.guidance_scale:
            check_number(scale, "guidance scale", "The guidance scale")
            if scale <= 1:
                raise ShapefirstError(
                    f"The guidance scale must be above 1, not {scale:g}: without guidance the text has one branch."
                )
        for name in ("count", "images_per_prompt", "shard_size"):
            if (value := getattr(self, name)) is not None:
                check_number(value, "prompts", name)
        check_seed(self.seed, 10**9)
        for number in self.steps:
            self.schedules(number)

    def schedules(self, steps: int) -> dict[str, Policy]:
        """Policy's words -> what it does in a run of ``steps`` steps; full guidance first, none twice.

        Raises:
            ShapefirstError: One is unknown or does not fit.
        """
        words = [FULL]
        numbers = dict.fromkeys(k for given in self.text_steps for k in text_steps_of(given, steps))
        for keep in self.keep:
            head = "paper" if keep == "null" else "text"
            words += [f"{head}:{k}" for k in numbers]
        settings = len(self.models) * len(self.samplers) * len(self.steps) * max(1, len(self.guidance_scale))
        conditions = settings * (len(words) + len(self.policies))
        check_number(conditions, "conditions", "The number of policies, over all settings of the sweep,")
        found: dict[Hashable, tuple[str, Policy]] = {}
        for word in (*words, *self.policies):
            policy = parse_policy(word)
            alike: Hashable = policy
            if isinstance(policy, TextSchedule):
                guided = policy.guided_steps(steps)
                whole, is_named = len(guided) == steps, not isinstance(policy.placement, Budget)
                alike = guided if whole else (guided, policy.keep, policy.order) if is_named else policy
            found.setdefault(alike, (word, policy))
        return dict(found.values())

    @property
    def settings(self) -> list[Setting]:
        """Models outermost, so that a worker loads each once."""
        return [
            Setting(model, sampler, steps, float(scale))
            for model in self.models
            for sampler in self.samplers
            for steps in self.steps
            for scale in self.guidance_scale or (default_guidance_scale(model),)
        ]


@dataclass(frozen=True)
class Setting:
    """How images are sampled, but for the policy."""

    model: str
    sampler: str
    steps: int
    guidance_scale: float

    def __str__(self) -> str:
        return f"{self.model}, {self.sampler}, {self.steps} steps, w = {self.guidance_scale:g}"

    def evaluations_together(self, policies: Sequence[Policy]) -> int:
        """Of the denoiser for one image under all of them, with what they share done once; at most, if one of them
        decides while sampling."""
        return evaluations_together(policies, self.steps, self.guidance_scale, sampler_info(self.sampler).order)

    @property
    def fully_guided(self) -> int:
        """The evaluations of full guidance."""
        return self.evaluations_together([TextSchedule.always()])


@dataclass(frozen=True)
class Shard:
    """One unit of work: some images in one setting, under every policy.

    Attributes:
        name: For files; names sort in the order of the work.
        setting: How they are sampled.
        policies: By their words.
        prompts: Of each image.
        first: The number of the first image; image i has the seed ``seed + i``.
        seed: Of the sweep.
    """

    name: str
    setting: Setting
    policies: Mapping[str, Policy]
    prompts: tuple[Prompt, ...]
    first: int
    seed: int

    @property
    def seeds(self) -> list[int]:
        return [self.seed + self.first + i for i in range(len(self.prompts))]


class Shards(Sequence[Shard]):
    """All shards of a grid, made when they are asked for: a plan takes no more memory than its prompts."""

    @guarded
    def __init__(self, grid: Grid, prompts: Sequence[Prompt]) -> None:
        self.grid, self.prompts = grid, prompts
        self.settings = grid.settings
        self.images = len(prompts) * grid.images_per_prompt  # of one policy in one setting
        check_number(self.images, "images of a sweep", "The number of images of each policy")
        self.parts = -(-self.images // grid.shard_size)  # shards of one setting
        check_number(len(self.settings) * self.parts, "shards", "The number of shards")
        self._policies = {steps: grid.schedules(steps) for steps in grid.steps}

    def __len__(self) -> int:
        return len(self.settings) * self.parts

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        setting, part = self.settings[index // self.parts], index % self.parts
        first = part * self.grid.shard_size
        numbers = range(first, min(first + self.grid.shard_size, self.images))
        return Shard(
            f"{index:06d}",
            setting,
            self._policies[setting.steps],
            tuple(self.prompts[i % len(self.prompts)] for i in numbers),
            first,
            self.grid.seed,
        )

    def __iter__(self) -> Iterator[Shard]:
        return (self[i] for i in range(len(self)))

    def policies(self, setting: Setting) -> Mapping[str, Policy]:
        return self._policies[setting.steps]

    def evaluations(self, setting: Setting) -> int:
        """Of the denoiser, for one image under all policies of the setting, with what they share done once."""
        return setting.evaluations_together(list(self.policies(setting).values()))

    @property
    def digest(self) -> str:
        """Tells this plan from others: of the grid, and of the prompts as they were read."""
        seen = hashlib.sha256(json.dumps(asdict(self.grid), sort_keys=True).encode())
        for prompt in self.prompts:
            seen.update(prompt.text.encode() + b"\0")
        return seen.hexdigest()[:16]


@guarded
def read_grid(file: Path | None, given: Mapping[str, Any]) -> Grid:
    """The grid of a TOML file, and what takes the place of its entries.

    Raises:
        ShapefirstError: The file cannot be read, is no TOML, or has an entry that is unknown or not of its kind.
    """
    entries: dict[str, Any] = {}
    if file is not None:
        text = read_text(file, "the grid")
        check_number(len(text), "characters", f"The number of characters in {str(file)!r}")
        check_number(text.count("."), "dots", f"The number of dots in {str(file)!r}")
        try:
            entries = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or an integer without end
            raise ShapefirstError(f"The grid {str(file)!r} is not TOML: {first_line(error)}.") from error
    place = f" of {str(file)!r}" if file is not None else ""
    return fitted(Grid, entries | {name: value for name, value in given.items() if value is not None}, place)


@guarded
def prompts_of(grid: Grid) -> list[Prompt]:
    """The grid's prompts: of a table or JSON of captions, of a text file, or in pocket's vocabulary.

    Raises:
        ShapefirstError: The file cannot be read, or holds fewer than two.
    """
    if grid.count == 1:
        raise ShapefirstError("One prompt is too few for a sweep: intervals need a count of at least 2.")
    if grid.prompts == "pocket":
        return parse_prompts(mixed(grid.count or POCKET_PROMPTS, grid.seed))
    path = Path(grid.prompts)
    if path.suffix.lower() in TABLES:
        prompts = read_captions(path, grid.count, grid.seed)
    else:
        prompts = parse_prompts(sample(read_prompts(path), grid.count, grid.seed))
    if len(prompts) < 2:
        raise ShapefirstError(f"There is only one prompt in {grid.prompts!r}: intervals need at least 2.")
    if grid.count is not None and len(prompts) < grid.count:
        raise ShapefirstError(f"There are {len(prompts)} prompts in {grid.prompts!r}, fewer than count = {grid.count}.")
    return prompts


def _check_different(name: str, values: Sequence[T], same: Callable[[T], str]) -> None:
    """Raise ShapefirstError if two values are one: their images would count twice, as if they were more."""
    seen: dict[str, T] = {}
    for value in values:
        if (key := same(value)) in seen:
            raise ShapefirstError(f"{name} says the same twice, {seen[key]!r} and {value!r}: say it once.")
        seen[key] = value


def _place_of(model: str) -> str:
    """Of all spellings of a model one."""
    if model in MODELS:
        return MODELS[model].source or model
    place = on_disk(model)
    return model if place is None else str(place.resolve())
