"""Other people's ways to sample faster, each as a context manager: pipeline -> what to call in its place.

    with peers.easycache(pipe, threshold=0.1) as call:
        call(prompts, num_inference_steps=25, guidance_scale=4.0, generator=generators(seeds), output_type="np")

    reuse, forecasts    skip both branches of guidance in a step
    branches            skip one
    parts               skip parts of an evaluation
    fitting             what some of them find out beforehand
    settings            what each is measured with; and diffusers' own samplers with their flags

They are written anew from papers and code, which their docstrings name, except where a package could be had. One more
is a rule (see `loop`) and an entry in `settings.RIVALS`.
"""

from .branches import (
    adaptive_guidance,
    cfg_gating,
    compress_guidance,
    cutoff_callback,
    guidance_interval,
    linear_ag,
    step_ag,
    tortoise_and_hare,
)
from .fitting import fit_linear_ag, fit_ltc_accel, fit_tortoise_and_hare, macro_steps, search_budcache
from .forecasts import ab_cache, fsampler, fsampler_adaptive, ltc_accel, sada, spectrum
from .parts import deepcache, pyramid_attention_broadcast, tgate, token_merging
from .reuse import adaptive_diffusion, budcache, easycache, lazycache

__all__ = [
    "ab_cache",
    "adaptive_diffusion",
    "adaptive_guidance",
    "budcache",
    "cfg_gating",
    "compress_guidance",
    "cutoff_callback",
    "deepcache",
    "easycache",
    "fit_linear_ag",
    "fit_ltc_accel",
    "fit_tortoise_and_hare",
    "fsampler",
    "fsampler_adaptive",
    "guidance_interval",
    "lazycache",
    "linear_ag",
    "ltc_accel",
    "macro_steps",
    "pyramid_attention_broadcast",
    "sada",
    "search_budcache",
    "spectrum",
    "step_ag",
    "tgate",
    "token_merging",
    "tortoise_and_hare",
]
