"""A hook that stands before a pipeline's denoiser for as long as `with` blocks need it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, TypeVar
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks import HookRegistry, ModelHook

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.rows import Taking, rows_of

__all__ = ["DenoiserHook", "check_unreplaced"]

_CACHES: Final = re.compile(r"diffusers\.hooks\..*(cache|pyramid_attention_broadcast)")

Kind = TypeVar("Kind", bound="DenoiserHook")


class DenoiserHook(ModelHook):
    """One hook serves all blocks of its kind: the outermost attaches it, and with the last one it goes.

    Attributes:
        name: What the hook is called in diffusers' registry; one for each kind.
        busy: What the denoiser is busy with, for the sentence that refuses another pipeline's block.
        blocks: What the blocks want, the innermost last.
    """

    name: ClassVar[str]
    busy: ClassVar[str]
    #: Denoiser -> what it had of a hook's attributes before the first of all our hooks on it.
    _had: ClassVar[WeakKeyDictionary[torch.nn.Module, set[str]]] = WeakKeyDictionary()

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__()
        self.pipe, self.denoiser = pipe, denoiser
        self.blocks: list[Any] = []
        # Of the class: hooks of an older diffusers hide the arguments of the method that they stand before.
        _, *parameters = inspect.signature(type(denoiser).forward).parameters
        if "timestep" not in parameters:
            raise UnsupportedPipelineError(
                f"{type(denoiser).__name__} takes no timestep, so the denoising step cannot be told from its calls."
            )
        self._places = {name: place for place, name in enumerate(parameters)}
        self.latents_name = parameters[0]  # `sample` of a U-Net, `hidden_states` of a transformer

    @classmethod
    def on(cls: type[Kind], denoiser: Any) -> Kind | None:
        """The hook of this kind that is on the denoiser, if any."""
        registry = getattr(denoiser, "_diffusers_hook", None)
        return registry.get_hook(cls.name) if registry else None

    @classmethod
    def enter(cls: type[Kind], pipe: Any, denoiser: Any, block: Any) -> Kind:
        """Begin a block: on the hook that an outer block has put on the denoiser, or on a new one.

        Raises:
            ShapefirstError: The outer block belongs to another pipeline.
        """
        hook = cls.on(denoiser)
        if hook is None:
            hook = cls(pipe, denoiser)
            hook.attach()
        if hook.pipe is not pipe:
            raise ShapefirstError(f"This {cls.busy} through another pipeline that shares it: end that block.")
        hook.blocks.append(block)
        return hook

    @classmethod
    @contextmanager
    def within(cls, pipe: Any, denoiser: Any, block: Any, value: Any = None) -> Iterator[Any]:
        """The `with` block, which yields `value`."""
        hook = cls.enter(pipe, denoiser, block)
        try:
            yield value
        finally:
            hook.leave(block)

    def leave(self, block: Any) -> None:
        """End a block."""
        self.blocks = [other for other in self.blocks if other is not block]
        if not self.blocks:
            self.detach()

    def attach(self) -> None:
        had = {name for name in ("_diffusers_hook", "forward") if name in vars(self.denoiser)}
        DenoiserHook._had.setdefault(self.denoiser, had)
        HookRegistry.check_if_exists_or_initialize(self.denoiser).register_hook(self, self.name)

    def detach(self) -> None:
        """Leave the denoiser as it was found, to the last attribute."""
        if type(self).on(self.denoiser) is not self:  # somebody has taken it off
            return
        registry = self.denoiser._diffusers_hook
        registry.remove_hook(self.name, recurse=False)
        if not registry.hooks:  # nobody else has hooked the denoiser meanwhile
            for name in {"_diffusers_hook", "forward"} - DenoiserHook._had.pop(self.denoiser):
                delattr(self.denoiser, name)

    @torch.compiler.disable
    def argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One of the arguments that the denoiser is called with."""
        return kwargs[name] if name in kwargs else args[self._places[name]]

    @torch.compiler.disable
    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All of them, by name."""
        return {**dict(zip(self._places, args, strict=False)), **kwargs}

    @torch.compiler.disable
    def latents(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """The latents that the denoiser is called with, (rows, C, H, W)."""
        return self.argument(self.latents_name, args, kwargs)

    @torch.compiler.disable
    def taken(self, args: tuple[Any, ...], kwargs: dict[str, Any], taking: Taking) -> tuple[Any, Any]:
        """The denoiser's arguments for some of the rows only."""
        positional = (rows_of(name, value, taking) for name, value in self.arguments(args, {}).items())
        return tuple(positional), {name: rows_of(name, value, taking) for name, value in kwargs.items()}


def check_unreplaced(denoiser: torch.nn.Module) -> None:
    """Raise UnsupportedPipelineError if another tool skips parts of the evaluations that are counted here.

    DeepCache and T-GATE put a forward of their own on the denoiser or a part of it, diffusers' caches a hook; its other
    hooks and those of accelerate replace it as well, but change nothing about what is evaluated.
    """
    for name, module in denoiser.named_modules():
        hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        if skipping := [type(hook).__name__ for hook in hooks.values() if _CACHES.search(type(hook).__module__)]:
            raise UnsupportedPipelineError(
                f"A cache of diffusers ({skipping[0]}) skips parts of this {type(denoiser).__name__}: switch it off "
                "with disable_cache(), or do without a policy."
            )
        if "forward" not in vars(module) or {"_diffusers_hook", "_hf_hook"} & set(vars(module)):
            continue
        # DeepCache puts a module's own method back when it is switched off.
        if getattr(module.forward, "__func__", None) is not type(module).forward:
            raise UnsupportedPipelineError(
                f"Another tool has replaced the forward method of {name or 'the denoiser'!r} in this "
                f"{type(denoiser).__name__}, as DeepCache and T-GATE do: switch it off, or load the pipeline again."
            )
