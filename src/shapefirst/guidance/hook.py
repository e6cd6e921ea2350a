"""How a `with` block stands before a denoiser, and goes without a trace.

While a block is open its module is of a subclass that was made for it, whose calls go through the block's hook: what
torch's own parametrizations and `fully_shard` do. Nothing is put on the module itself, so whatever else is done to it
goes on as before, in any order: other hooks come and go, accelerate's offloading wraps its forward anew after every
call of a pipeline, torch.compile compiles what is behind the hook and never the hook, and copies are plain.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache, partial
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch._C._dynamo.eval_frame import set_eval_frame

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import OwnLoop
from shapefirst.families.arguments import LATENTS, TIMES, parameters_of
from shapefirst.guidance.introspection import is_called_in, running

__all__ = ["Forward", "ModuleHook", "Reentrant", "check_uncached", "check_unreplaced"]

#: What torch.compile keeps the function in that it has compiled.
_COMPILED: Final = "_torchdynamo_orig_callable"
_CACHES: Final = re.compile(r"diffusers\.hooks\..*(cache|pyramid_attention_broadcast)")

#: The module itself, or the next hook before it.
Forward: TypeAlias = Callable[..., Any]
Kind = TypeVar("Kind", bound="ModuleHook")
Value = TypeVar("Value")


class Reentrant(AbstractContextManager[Value], Generic[Value]):
    """A `with` block that can be entered again, and within itself. One that never was has done nothing, and warns.

    Args:
        begin: Begins it, and gives what it yields and how it ends. It holds no reference to the block, or the warning
            would come late.
        what: What was made for a pipeline, such as "A policy".
        use: How it is written, for who forgot to.
    """

    def __init__(self, begin: Callable[[], tuple[Value, Callable[[], None]]], what: str, use: str) -> None:
        self._begin = begin
        self._what, self._use = what, use
        self._used = False
        self._ends: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<{self._what} for a pipeline: {self._use}>"

    def __del__(self) -> None:
        if not getattr(self, "_used", True) and not sys.is_finalizing():
            warnings.warn(f"{self._what} was made for a pipeline and never entered: {self._use}", stacklevel=2)

    def __enter__(self) -> Value:
        self._used = True
        value, end = self._begin()
        self._ends.append(end)
        return value

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if not self._ends:
            raise ShapefirstError("This block was left as often as it was entered: enter it first, or write `with`.")
        with suppress(ShapefirstError) if kind is not None else nullcontext():  # the block's own error says more
            self._ends.pop()()


class ModuleHook:
    """One hook serves all blocks of its kind: the outermost attaches it, and with the last one it goes.

    Attributes:
        nearness: The order of kinds before one module: those with more are nearer to it.
        busy: What the module is busy with, for the sentence that refuses another pipeline's block.
        module: What a pipeline calls: a module, or torch.compile's wrapper of one.
        denoiser: The module itself.
        blocks: What the blocks want, the innermost last.
    """

    nearness: ClassVar[int] = 0
    busy: ClassVar[str]

    def __init__(self, pipe: Any, module: torch.nn.Module) -> None:
        self.pipe, self.module, self.denoiser = pipe, module, unwrap_module(module)
        self.blocks: list[Any] = []
        self._entered_in: dict[int, int] = {}  # a block -> its thread; replaced and never changed, as others read it
        self._thread = threading.get_ident()  # of the latest call
        self.context: str | None = None  # of the call in progress, see `_hooked`
        self._parameters = parameters_of(self.denoiser)
        names = sorted(self._parameters, key=lambda name: (name not in LATENTS, name in TIMES))
        self.latents_name = next(iter(names), "argument 0")

    def around(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call of the module."""
        raise NotImplementedError

    @classmethod
    def on(cls: type[Kind], module: torch.nn.Module) -> Kind | None:
        """The hook of this kind that is before the module, if any."""
        return next((hook for hook in _HOOKS.get(unwrap_module(module), ()) if type(hook) is cls), None)

    @classmethod
    def enter(cls: type[Kind], pipe: Any, module: torch.nn.Module, block: Any) -> Kind:
        """Begin a block: on the hook that an outer block has put before the module, or on a new one.

        Raises:
            ShapefirstError: The outer block belongs to another pipeline.
        """
        with _LOCK:
            hook = cls.on(module)
            if hook is None:
                hook = cls(pipe, module)
                hook.attach()
            if hook.pipe != pipe:  # loops of one's own are equal if all that they say is
                raise ShapefirstError(f"This {cls.busy} through another pipeline that shares it: end that block.")
            hook.blocks.append(block)
            hook._entered_in = {**hook._entered_in, id(block): threading.get_ident()}
            return hook

    def leave(self, block: Any) -> None:
        """End a block."""
        with _LOCK:
            self.blocks = [other for other in self.blocks if other is not block]
            self._entered_in = {one: thread for one, thread in self._entered_in.items() if one != id(block)}
            if not self.blocks:
                self.detach()

    def serves(self) -> bool:
        """Whether a call that is about to begin is one that the blocks are for.

        Another pipeline that shares the module is served in the threads that have entered a block, and runs as ever in
        those that know of none.

        Raises:
            ShapefirstError: A pipeline runs the module in another thread at once.
        """
        thread = threading.get_ident()
        if not self.blocks:  # another thread has ended the last one in the midst of this thread's generation
            return False
        if thread not in self._entered_in.values() and not isinstance(self.pipe, OwnLoop):
            caller = running(self.denoiser)
            if caller is not None and caller.pipe is not self.pipe:
                return False
        if thread != self._thread and is_called_in(self._thread, self.denoiser):
            raise ShapefirstError(
                f"Two threads run this {type(self.pipe).__name__} at once, and its scheduler has only one place in its "
                "list: give each thread a pipeline of its own."
            )
        self._thread = thread
        return True

    def attach(self) -> None:
        hooks = [*_HOOKS.get(self.denoiser, ()), self]
        _HOOKS[self.denoiser] = sorted(hooks, key=lambda hook: hook.nearness)
        if not isinstance(self.module, _Hooked):
            object.__setattr__(self.module, "__class__", _hooked(type(self.module)))  # type: ignore[arg-type]

    def detach(self) -> None:
        _HOOKS[self.denoiser] = [hook for hook in _HOOKS[self.denoiser] if hook is not self]
        if not any(hook.module is self.module for hook in _HOOKS[self.denoiser]):
            object.__setattr__(self.module, "__class__", _plain(self.module))

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All that the module is called with, by name, as far as it has one."""
        names = (*self._parameters[: len(args)], *(None for _ in args))
        named = {
            f"argument {n}" if name is None or name in kwargs else name: value
            for n, (name, value) in enumerate(zip(names, args, strict=False))
        }
        return {**named, **kwargs}

    def latents_in(self, arguments: dict[str, Any]) -> str:
        """The name of the latents among the arguments of a call."""
        return self.latents_name if self.latents_name in arguments else next(iter(arguments))


#: Held where a block begins or ends: the last one of a hook may end while another thread's begins on it.
_LOCK: Final = threading.RLock()

#: Module -> the hooks before it, the outermost first.
_HOOKS: WeakKeyDictionary[torch.nn.Module, list[ModuleHook]] = WeakKeyDictionary()


class _Hooked:
    """Marks the classes that `_hooked` makes."""


class _Alike(type):
    """Such a class is equal to the one that it is made of: `from_pipe` looks for a part's type among those it takes."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__mro__[2]

    def __hash__(cls) -> int:
        return hash(cls.__mro__[2])


@lru_cache(maxsize=256)
def _hooked(module_class: Any) -> Any:
    """The class of such modules while hooks are before them; to all who ask for its name it is the same."""

    @torch.compiler.disable(recursive=False)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiler = set_eval_frame(None)  # a module may be compiled after the hooks were put before it
        try:
            forward: Forward = partial(_run, self, compiler)
            for hook in reversed(_HOOKS[unwrap_module(self)]):
                if hook.module is self:
                    forward = partial(_around, hook, forward)
            return forward(*args, **kwargs)
        finally:
            set_eval_frame(compiler)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        with _as_it_was(self):
            made, args, *rest = self.__reduce_ex__(protocol)
        if made.__name__ == "__newobj__":  # pickle holds its first argument against the class that it sees
            made = object.__new__
        return made, args, *rest

    @contextmanager
    def cache_context(self: Any, name: str, **more: Any) -> Iterator[None]:
        """Pipelines name their calls so, "cond" and "uncond"."""
        hooks = [hook for hook in _HOOKS[unwrap_module(self)] if hook.module is self and hook.serves()]
        for hook in hooks:
            hook.context = name
        try:
            with _plain(self).cache_context(self, name, **more):
                yield
        finally:
            for hook in hooks:
                hook.context = None

    names = {name: getattr(module_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    members = {**names, "__call__": __call__, "__reduce_ex__": __reduce_ex__}
    if hasattr(module_class, "cache_context"):
        members["cache_context"] = cache_context
    metaclass = type("_Alike", (_Alike, type(module_class)), {})
    return metaclass(module_class.__name__, (_Hooked, module_class), members)


def _around(hook: ModuleHook, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    return hook.around(forward, args, kwargs) if hook.serves() else forward(*args, **kwargs)


def _run(module: Any, compiler: Any, *args: Any, **kwargs: Any) -> Any:
    if compiler is None and not _is_compiled(module):
        return _plain(module).__call__(module, *args, **kwargs)
    with _as_it_was(module):  # compiled code is of one class, and would be compiled anew for the other
        set_eval_frame(compiler)
        try:
            return module(*args, **kwargs)
        finally:
            set_eval_frame(None)


def _plain(module: torch.nn.Module) -> Any:
    """Its class without hooks."""
    found = type(module)
    return found.__mro__[2] if issubclass(found, _Hooked) else found


@contextmanager
def _as_it_was(module: torch.nn.Module) -> Iterator[None]:
    hooked = type(module)
    object.__setattr__(module, "__class__", _plain(module))
    try:
        yield
    finally:
        if any(hook.module is module for hook in _HOOKS[unwrap_module(module)]):  # another thread's may have ended
            object.__setattr__(module, "__class__", hooked)


def _is_compiled(module: torch.nn.Module) -> bool:
    return module._compiled_call_impl is not None or hasattr(vars(module).get("forward"), _COMPILED)


def check_uncached(denoiser: torch.nn.Module) -> None:
    """Raise UnsupportedPipelineError if a cache of diffusers is switched on in a denoiser of which rows are dropped."""
    for module in denoiser.modules():
        hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        for hook in hooks.values():
            if _CACHES.search(type(hook).__module__):
                raise UnsupportedPipelineError(
                    f"A cache of diffusers ({type(hook).__name__}) is switched on in this {type(denoiser).__name__}, "
                    "and cannot follow where a branch is dropped: switch it off with disable_cache(), or take "
                    "budget=0.6 or every:2."
                )


def check_unreplaced(denoiser: torch.nn.Module) -> None:
    """Raise UnsupportedPipelineError if another tool skips parts of the evaluations that are counted here.

    DeepCache and T-GATE put a forward of their own on the denoiser or a part of it; hooks of diffusers and accelerate
    replace it as well, but change nothing about what is evaluated.
    """
    for name, module in denoiser.named_modules():
        if "forward" not in vars(module) or {"_diffusers_hook", "_hf_hook"} & set(vars(module)):
            continue
        # DeepCache puts a module's own method back when it is switched off; some compile the method alone.
        forward = getattr(module.forward, _COMPILED, module.forward)
        if getattr(forward, "__func__", None) is not type(module).forward:
            raise UnsupportedPipelineError(
                f"Another tool has replaced the forward method of {name or 'the denoiser'!r} in this "
                f"{type(denoiser).__name__}, as DeepCache and T-GATE do: switch it off, or load the pipeline again."
            )
