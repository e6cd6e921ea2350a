"""Options that several commands take, with one wording; and a command with the options that it was given."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

import typer

from shapefirst.checks import check_text
from shapefirst.errors import ShapefirstError
from shapefirst.models.catalogue import SAMPLERS

__all__ = [
    "Device",
    "Dtype",
    "GuidanceScale",
    "Model",
    "Models",
    "PolicyWords",
    "Sampler",
    "SamplerOrOwn",
    "Scores",
    "command_line",
    "named_models",
    "prompts_and_count",
    "unpacked",
]

_MODEL: Final = "A name of `shapefirst models`, a hub id, a folder, a .safetensors checkpoint"
_NUMBER: Final = re.compile(r"-?\d{1,18}")


def _models(incomplete: str) -> list[str]:
    from shapefirst.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def _samplers(incomplete: str) -> list[str]:
    return [name for name in SAMPLERS if name.startswith(incomplete)]


def _policies(incomplete: str) -> list[str]:
    from shapefirst.policies.words import EXAMPLES

    return [words for words in EXAMPLES if words.startswith(incomplete)]


Model: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"{_MODEL}.",
        autocompletion=_models,
    ),
]
Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help=f"{_MODEL}; several in turn.",
        show_default="pocket",
        autocompletion=_models,
    ),
]
Sampler: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)}.",
        show_default="ddim; euler for flow matching",
        autocompletion=_samplers,
    ),
]
SamplerOrOwn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        help=f"own, the scheduler that the model came with, {', '.join(SAMPLERS)}.",
        show_default="own, or that of a tuned policy",
        autocompletion=_samplers,
    ),
]
Dtype: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="float32, float16 or bfloat16.", show_default="float16 on CUDA, float32 elsewhere"
    ),
]
GuidanceScale: TypeAlias = Annotated[
    float | None, typer.Option(metavar="W", show_default="the model's own", help="Strength of the text.")
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda or mps.", show_default="the best there is")
]
PolicyWords: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="Such as budget:0.6, every:3, tol:0.006, paper:25, or the path of a tuned policy (.json).",
        autocompletion=_policies,
    ),
]

Scores: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--score", metavar="NAME=ID", help="A score of `measure.scores` to score images by, and its model."),
]


def prompts_and_count(prompts: str | None, count: int | None = None) -> tuple[Path | None, int | None]:
    """The file of ``--prompts FILE``, and the number of ``--prompts N`` or ``--count N``.

    Raises:
        ShapefirstError: The number is said twice.
    """
    from shapefirst.files import on_disk

    if prompts is None or not _NUMBER.fullmatch(prompts) or on_disk(prompts) is not None:
        return None if prompts is None else Path(prompts), count
    if count is not None:
        raise ShapefirstError(f"--prompts {prompts} and --count {count} both say how many: give one, and a file.")
    return None, int(prompts)


def named_models(scores: Sequence[str] | None) -> dict[str, str]:
    """Score -> model, of ``--score``."""
    pairs = [word.partition("=") for word in scores or ()]
    for name, _, model in pairs:
        if not (name and model):
            raise ShapefirstError(
                f"--score {name or repr(model)} does not say which score by which model: say {name or 'NAME'}=ID, a "
                "hub id or a folder."
            )
    return {name: model for name, _, model in pairs}


def unpacked(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` for typer, which sees the fields of its dataclasses as options: so several commands share a list."""
    options: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if is_dataclass(kind := parameter.annotation):
            groups[parameter.name] = kind
            hints = get_type_hints(kind, include_extras=True)
            options += [
                parameter.replace(name=name, annotation=hints[name], default=getattr(kind, name)) for name in hints
            ]
        else:
            options.append(parameter)

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    flat.__signature__ = inspect.Signature([one.replace(kind=one.KEYWORD_ONLY) for one in options])  # type: ignore[attr-defined]
    return flat


def command_line(context: typer.Context, command: Sequence[str], without: Collection[str] = (), **other: Any) -> str:
    """What to type to repeat a command with the options of this run.

    Args:
        context: The run's.
        command: The words behind "shapefirst".
        without: Parameters to leave out.
        other: Parameters that have another value than in this run.

    Raises:
        ShapefirstError: A name in it is no UTF-8 text, so that no results could say it.
    """
    words = ["shapefirst", *command]
    for parameter in context.command.params:
        value = {**context.params, **other}.get(str(parameter.name))
        if parameter.name in without or value in (None, [], ()) or value == parameter.default:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
            words += option if one is True else [*option, str(one)]
    line = shlex.join(words)
    check_text(line, "The command")
    return line
