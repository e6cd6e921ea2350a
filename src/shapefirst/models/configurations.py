"""What a configuration may say, checked before anything is built from it.

Three laws hold of all classes of diffusers and transformers, so that none has a list of its own:

    code       nothing in it names code of the model's own
    entries    each is of the kinds that its class declares, as its default finite, and positive where the default is
    weights    what is built has no more weights than lie beside it, counted while it is built
"""

from __future__ import annotations

import inspect
import math
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from shapefirst.errors import ModelError, shortened

__all__ = ["check_content", "check_entries", "no_more_weights", "shapes_in"]

#: Entries that name a file of code to run, or a repository of it.
_CODE: Final = ("auto_map", "custom_pipelines", "custom_pipeline")
#: What no working model has more of, where what is built grows with it and holds no weights.
_MOST: Final = {"sample_size": 1024, "num_train_timesteps": 100_000, "downsample_padding": 16}
#: Sides of pictures, which other files give in pixels.
_SIDES: Final = ("height", "width", "size", "crop_size", "shortest_edge")
_LARGEST_SIDE: Final = 16_384
_LARGEST: Final = 1e9  # of any other number
_SHOWN: Final = 100  # characters of a value
#: Weights that are tied are built twice and kept once.
_TIED: Final = 2


def check_content(content: Any, file: Path) -> None:
    """Raise ModelError if a configuration names code of the model's own, or pictures that no memory holds."""
    for key, value in _entries(content):
        outside = key.endswith("_implementation") and isinstance(value, str) and "/" in value  # a kernel of the hub's
        if (key in _CODE and value) or outside:
            raise ModelError(
                f"{file} asks for code of the model's own ({key}), which is not run: get a model that diffusers and "
                "transformers know, or take the entry out."
            )
        if key in _SIDES and isinstance(value, (int, float)) and not value <= _LARGEST_SIDE:
            raise ModelError(f"{file} says {value:g} of {key}, which must be at most {_LARGEST_SIDE:,}: correct it.")


def check_entries(kind: type, content: Mapping[str, Any], place: str) -> None:
    """Raise ModelError unless a configuration of a class of diffusers says what that class declares.

    Args:
        kind: The class; the annotations and defaults of its ``__init__`` are what is declared.
        content: Entry -> value; those that the class does not know do not count.
        place: Where they stand, for the sentence.
    """
    hints, in_pixels = _hints(kind), 16 if "Autoencoder" in kind.__name__ else 1
    for name, parameter in inspect.signature(kind.__init__).parameters.items():  # type: ignore[misc]
        most = _MOST[name] * in_pixels if name in _MOST else None
        if name in content and (wanted := _wrong(content[name], parameter.default, hints.get(name), most)):
            raise ModelError(
                f"{place} says {shortened(ascii(content[name]), _SHOWN)} of {name}, which must be {wanted}: correct "
                "it, or get the file again."
            )


@contextmanager
def no_more_weights(files: Iterable[Path], folder: Path) -> Iterator[None]:
    """Raises ModelError as soon as the networks that are built within the block have more weights than some
    safetensors, whatever a configuration says of layers and sizes: before their memory is touched.

    Args:
        files: The safetensors, of which the headers are read.
        folder: What is built, for the sentence.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    most, largest, seen = 1, 1, {}
    for _, shape in shapes_in(files):
        most, largest = most + _TIED, largest + _TIED * math.prod(shape)
    numbers, here = 0, threading.get_ident()

    def count(module: Any, name: str, weight: Any) -> None:
        nonlocal numbers
        if weight is None or threading.get_ident() != here or (id(module), name) in seen:
            return
        seen[id(module), name] = module  # kept alive, so that no other one gets its id
        numbers += weight.numel()
        if len(seen) > most or numbers > largest:
            raise ModelError(
                f"{folder} has the configuration of a larger network than its weights are of: the two are not of the "
                "same model."
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def shapes_in(files: Iterable[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the weights in some safetensors, from their headers alone."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="numpy") as content:
            for name in content.keys():  # noqa: SIM118
                yield name, tuple(content.get_slice(name).get_shape())


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """All entries of a JSON file at any depth."""
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield from one.items()
            left += one.values()
        elif isinstance(one, list):
            left += one


def _wrong(value: Any, default: Any, hint: Any, most: float | None) -> str | None:
    """What a value should be that it is not; None if it may be so."""
    kinds = _declared(hint)
    if value is None and (default is None or default is False):
        return None
    if kinds and not isinstance(value, tuple(kinds | {int} if kinds & {float, bool} else kinds)):
        return _said(kinds)
    limited = not (isinstance(default, float) and math.isinf(default))
    positive = isinstance(default, (int, float)) and default > 0 and default is not True
    for leaf in _leaves(value):
        if isinstance(leaf, bool) or not isinstance(leaf, (int, float)):
            continue
        if limited and not abs(leaf) <= (most or _LARGEST):
            return f"at most {most or _LARGEST:,.0f}"
        if (positive or most) and (leaf < 0 or (leaf == 0 and leaf is value)):
            return "above 0"
    return None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__)  # type: ignore[misc]
    except Exception:  # annotations that name what is imported for type checkers alone
        return {}


def _declared(hint: Any) -> set[type]:
    """The classes that an annotation allows; none if it may be anything. Of words a class may take others, too, and
    mends them itself."""
    origin = get_origin(hint)
    if origin is Literal:
        return {type(choice) for choice in get_args(hint)}
    if origin in (Union, types.UnionType):
        inside = [_declared(one) for one in get_args(hint)]
        return set().union(*inside) if all(inside) else set()
    kind = origin or hint
    if kind in (list, tuple):  # JSON knows no difference
        return {list, tuple}
    return {kind} if isinstance(kind, type) else set()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _said(kinds: set[type]) -> str:
    return " or ".join(sorted({kind.__name__ for kind in kinds - {types.NoneType, tuple}}))
