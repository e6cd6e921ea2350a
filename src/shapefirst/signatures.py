"""What a public function is given, held against its own signature before it runs: the annotation is the check.

    @guarded
    def record(pipe: Any, *, size: Annotated[int, From(1, 4096)] = 16, resolutions: Collection[int] | None = None): ...

    record(pipe, size=0.5)      size= of record() must be a whole number from 1 to 4096, not 0.5.

Numbers are finite, fit into 64 bits, and are no booleans; numpy's count as Python's. A text is no list of letters.
"""

from __future__ import annotations

import inspect
import math
import numbers
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from importlib import import_module
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from shapefirst.errors import ShapefirstError, said

__all__ = ["Axes", "From", "Having", "Name", "Pipeline", "Place", "Positive", "guarded"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class From:
    """The bounds of a number, both included."""

    least: float
    most: float = math.inf

    def admits(self, value: Any) -> bool:
        return bool(self.least <= value <= self.most)

    def __str__(self) -> str:
        return f" from {self.least} up" if self.most == math.inf else f" from {self.least} to {self.most}"


@dataclass(frozen=True)
class Longest:
    """The most characters of a text."""

    characters: int

    def admits(self, value: Any) -> bool:
        return len(value) <= self.characters

    def __str__(self) -> str:
        return f" of at most {self.characters} characters"


@dataclass(frozen=True)
class Having:
    """What anything must have to be taken for what it is."""

    what: str
    attributes: tuple[str, ...]

    def admits(self, value: Any) -> bool:
        return all(hasattr(value, attribute) for attribute in self.attributes)

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Axes:
    """The shape of a tensor or array of floats, such as "B C H W"; it holds numbers, and some."""

    names: str

    def admits(self, value: Any) -> bool:
        is_float = str(value.dtype).removeprefix("torch.").lstrip("b").startswith("float")
        whole = value.ndim == len(self.names.split()) and 0 not in value.shape
        return bool(is_float and whole and str(getattr(value, "device", "")) != "meta")

    def __str__(self) -> str:
        return f" of floats, ({', '.join(self.names.split())})"


#: With weights or without, whatever its family.
Pipeline: TypeAlias = Annotated[Any, Having("a pipeline of diffusers", ("scheduler", "components"))]
Positive: TypeAlias = Annotated[int, From(1)]
Name: TypeAlias = Annotated[str, Longest(200)]
Place: TypeAlias = Annotated[str, Longest(4096)]  # of a file, or a name on a hub

_WORD: Final = 2**63
_KINDS: Final[dict[Any, tuple[type, str]]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a finite number"),
    str: (str, "a text"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}


def guarded(function: Function) -> Function:
    """The function, or the class with its `__init__`, which refuses arguments that its annotations do not admit.

    Raises:
        ShapefirstError: When called, with such an argument; a name that there is not stays Python's TypeError.
    """
    hints = cache(partial(_hints, function))
    if not isinstance(function, type):
        return _checking(function, hints, function.__qualname__.removesuffix(".__init__"))
    function.__init__ = _checking(function.__init__, hints, function.__name__)  # type: ignore[misc]
    return function


def _hints(function: Any) -> dict[str, Any]:
    """Those of a function or of a dataclass's fields; what was imported for the type checker alone is imported now."""
    modules: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(function, localns=modules, include_extras=True)
        except NameError as error:
            modules[str(error.name)] = import_module(str(error.name))


def _checking(function: Any, hints: Callable[[], dict[str, Any]], name: str) -> Any:
    parameters = tuple(inspect.signature(function).parameters)
    tests = cache(lambda: {argument: _test(hint) for argument, hint in hints().items() if hint is not Any})

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for argument, value in (*zip(parameters, args, strict=False), *kwargs.items()):  # Python says what is too much
            if argument in (known := tests()) and not known[argument](value):
                raise ShapefirstError(
                    f"{argument}= of {name}() must be {_words(hints()[argument])}, not {said(value)}."
                )
        return function(*args, **kwargs)

    return call


def _test(hint: Any) -> Callable[[Any], bool]:
    """Whether a value is what an annotation says."""
    origin, parts = get_origin(hint), get_args(hint)
    if hasattr(origin, "dtype"):  # numpy's arrays, of whatever their numbers are
        hint, origin = origin, None
    if origin is Annotated:
        kind, bounds = _test(parts[0]), _bounds(hint)
        return lambda value: kind(value) and all(one.admits(value) for one in bounds)
    if origin is Literal:
        return lambda value: any(type(value) is type(part) and value == part for part in parts)
    if hint in _KINDS:
        return partial(_is_of, hint, _KINDS[hint][0])
    tests = [_test(part) for part in parts if part is not ... and not isinstance(part, list)]  # a function takes one
    if origin in (Union, types.UnionType):
        return lambda value: any(test(value) for test in tests)
    if origin is tuple and ... not in parts:
        return lambda value: (
            isinstance(value, (tuple, list))
            and len(value) == len(tests)
            and all(test(one) for test, one in zip(tests, value, strict=True))
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return lambda value: (
            isinstance(value, Mapping) and all(tests[0](key) and tests[1](one) for key, one in value.items())
        )
    if isinstance(origin, type) and issubclass(origin, Iterable):
        kinds = (tuple, list) if origin is tuple else origin
        return lambda value: isinstance(value, kinds) and _is_list(value) and all(map(tests[0], _seen(value)))
    kind = hint if origin is None else origin
    if hint is SupportsIndex or kind in (Any, object) or not isinstance(kind, type):  # of which nothing can be told yet
        return lambda value: True
    return lambda value: isinstance(value, kind)


def _is_of(hint: Any, kind: Any, value: Any) -> bool:
    if not isinstance(value, kind) or (hint in (int, float) and isinstance(value, bool)):
        return False
    if isinstance(value, numbers.Integral):
        return -_WORD <= int(value) < _WORD
    return hint is not float or math.isfinite(value)


def _is_list(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and getattr(value, "ndim", 1) == 1


def _seen(value: Any) -> Collection[Any]:
    """An iterator would be used up."""
    return value if isinstance(value, Collection) else ()


def _bounds(hint: Any) -> list[Any]:
    return [one for one in hint.__metadata__ if hasattr(one, "admits")]


def _words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return "".join(("" if parts[0] is Any else _words(parts[0]), *map(str, _bounds(hint))))
    if origin in (Union, types.UnionType):
        return _either(map(_words, parts))
    if origin is Literal:
        return _either(f'"{part}"' if isinstance(part, str) else repr(part) for part in parts)
    if hint in _KINDS:
        return _KINDS[hint][1]
    if hasattr(origin, "dtype"):
        return "an array"
    if origin is tuple and parts[-1:] != (...,):
        return f"a pair ({', '.join(map(_words, parts))})" if len(parts) == 2 else "a tuple"
    if parts and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of {_words(parts[0])} to {_words(parts[1])}"
    if parts and isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list, each of it {_words(parts[0])}"
    return f"a {hint.__name__}" if isinstance(hint, type) else "anything" if hint is Any else f"a {hint}"


def _either(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
