"""See how text steers a diffusion model, then stop paying for it where it no longer does.

    from shapefirst import guide, load

    pipe = load("pocket")
    with guide(pipe, budget=0.75) as evaluations:
        images = pipe("a wooden car", num_inference_steps=25).images
    print(evaluations)

guide                     a `with` block in which a pipeline's generations follow a policy
text_until                the same, with the paper's policy: the text in the first steps only
apply                     the same without `with`, until the handle that it gives is removed
apply_to_module           the same for a denoiser in a loop of one's own
text_until_callback       the paper's policy as a `callback_on_step_end` of the pipeline's call
Guider                    a policy as the guider of Modular Diffusers
Evaluations               what a block yields: evaluations asked for and spent, the share saved, seconds
TextSchedule              a policy: which steps are guided, and what stands for the others
Auto                      a policy that decides while sampling, by a tolerance
read_policy               the policy of a file that `shapefirst tune` wrote
edit                      a `with` block in which tokens of the prompt are dropped, kept, replaced or switched
trace                     a `with` block that watches which words a pipeline attends to, and where
results                   the results of studies as tables of Arrow
load                      a name, a hub id, a folder or a checkpoint as a pipeline
ShapefirstError           what is raised for input that cannot be worked with, in one sentence
ModelError                of these: a model that is unknown, absent, incomplete or corrupt
UnsupportedPipelineError  of these: a pipeline whose guidance cannot be steered

Nothing heavy is imported before it is asked for: `import shapefirst` takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "Auto",
    "Evaluations",
    "Guider",
    "ModelError",
    "ShapefirstError",
    "TextSchedule",
    "UnsupportedPipelineError",
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
    from shapefirst.errors import ModelError, ShapefirstError, UnsupportedPipelineError
    from shapefirst.findings.results import results
    from shapefirst.guidance import Evaluations, apply, guide, text_until
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
    "Evaluations": "guidance",
    "Guider": "guidance.guider",
    "ModelError": "errors",
    "ShapefirstError": "errors",
    "TextSchedule": "policies.schedule",
    "UnsupportedPipelineError": "errors",
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
