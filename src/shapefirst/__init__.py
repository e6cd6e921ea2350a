"""See how text steers a diffusion model, then stop paying for it where it no longer does.

    from shapefirst import load, text_until

    pipe = load("pocket")
    with text_until(pipe, step=25) as evaluations:
        images = pipe("a red wooden car", num_inference_steps=50).images

Nothing heavy is imported before it is asked for: `import shapefirst` takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Auto",
    "Guider",
    "ShapefirstError",
    "TextSchedule",
    "__version__",
    "apply",
    "apply_to_module",
    "edit",
    "guide",
    "load",
    "read_policy",
    "results",
    "text_until",
    "text_until_callback",
    "trace",
]

if TYPE_CHECKING:
    from shapefirst.attention.editing import edit
    from shapefirst.errors import ShapefirstError
    from shapefirst.findings.results import results
    from shapefirst.guidance import apply, guide, text_until
    from shapefirst.guidance.callback import text_until_callback
    from shapefirst.guidance.guider import Guider
    from shapefirst.guidance.module import apply_to_module
    from shapefirst.images.heat_maps import trace
    from shapefirst.models import load
    from shapefirst.policies.auto import Auto
    from shapefirst.policies.file import read_policy
    from shapefirst.policies.schedule import TextSchedule

_ROOMS = {
    "Auto": "policies.auto",
    "Guider": "guidance.guider",
    "ShapefirstError": "errors",
    "TextSchedule": "policies.schedule",
    "apply": "guidance",
    "apply_to_module": "guidance.module",
    "edit": "attention.editing",
    "guide": "guidance",
    "load": "models",
    "read_policy": "policies.file",
    "results": "findings.results",
    "text_until": "guidance",
    "text_until_callback": "guidance.callback",
    "trace": "images.heat_maps",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room on first use (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
