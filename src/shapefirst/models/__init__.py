"""Names, hub ids, folders and single files -> ready diffusers pipelines, and transformers models that score images.

    pipe = load("pocket")                          # the embedded model
    pipe = load("sd15", sampler="dpm-solver")      # a model of the paper, from the Hugging Face hub or its cache
    pipe = load("path/to/a/diffusers/folder")
    pipe = load("path/to/a/checkpoint.safetensors")

catalogue       the models and samplers that have names here
components      which files of a model are needed, told from their names
configurations  what a configuration may say, held against classes and weights
disk            folders: read, and checked before anything is built
hub             found in the cache of the Hugging Face hub, or downloaded
tasks           what a folder or file is that is no text-to-image pipeline
single_file     a whole model in one .safetensors file
faults          what a pipeline raises when it runs, as a sentence
fitting         whether tokenizers, text encoders and sizes of a pipeline fit together
loader          all of these put together
samplers        what samples a model, told before it is loaded
scoring         transformers models that score images
adapters        IP-Adapters, put on a pipeline

It imports ``families``, ``policies``, ``prompts``, ``files`` and errors. A model gets a name by an entry in
``catalogue.MODELS``, a sampler by one in ``catalogue.SAMPLERS``. Only safetensors are read, and nothing is downloaded
unless the name is a hub model that is not on the disk.
"""

from shapefirst.models.catalogue import (
    MODELS,
    OWN_SAMPLER,
    SAMPLERS,
    ModelInfo,
    SamplerInfo,
    default_guidance_scale,
    is_pocket,
    make_sampler,
    sampler_info,
    with_sampler,
)
from shapefirst.models.loader import download_of, files_of_model, find, load, locate
from shapefirst.models.samplers import check_samplers, usual_sampler

__all__ = [
    "MODELS",
    "OWN_SAMPLER",
    "SAMPLERS",
    "ModelInfo",
    "SamplerInfo",
    "check_samplers",
    "default_guidance_scale",
    "download_of",
    "files_of_model",
    "find",
    "is_pocket",
    "load",
    "locate",
    "make_sampler",
    "sampler_info",
    "usual_sampler",
    "with_sampler",
]
