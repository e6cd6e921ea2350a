"""Which files of a model a pipeline needs, told from names alone: of a hub repository before anything is downloaded,
and of a folder on the disk.

A diffusers repository has a model_index.json, which names the pipeline's class and its components, and a folder for
each component. Its weights may lie there several times:

    diffusion_pytorch_model.safetensors                   in full precision (`model.safetensors` in transformers)
    diffusion_pytorch_model.fp16.safetensors              a variant: the same in half precision
    diffusion_pytorch_model-00001-of-00002.safetensors    in shards, with an index (...safetensors.index.json)
    model.fp16-00001-of-00002.safetensors                 a variant in shards (model.safetensors.index.fp16.json)
    diffusion_pytorch_model.non_ema.safetensors           other weights, for training on: never chosen
    diffusion_pytorch_model.bin, .msgpack, .onnx          other formats: not read

One set is chosen for each component. A repository may have a variant of some components only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, Final

from shapefirst.errors import ModelError, PackageError, installing

__all__ = ["PICKLED", "VARIANTS", "Component", "Weights", "check_vocabulary", "components_of", "files_of", "weights_in"]

#: Suffixes of checkpoints that can run code when opened.
PICKLED: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
#: The number format that a model is to run in -> variants of its weights, the best first; None is full precision.
VARIANTS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "float32": (None, "fp32", "bf16", "fp16"),
    "float16": ("fp16", None, "bf16"),
    "bfloat16": ("bf16", None, "fp16"),
}

#: Components that making an image from a prompt does not need.
_SKIPPED: Final = ("safety_checker", "feature_extractor", "image_encoder")
#: diffusers and transformers themselves, and names of diffusers' pipelines that have classes of their own.
_LIBRARIES: Final = re.compile(r"[a-z0-9_]+")
_AUTO: Final = re.compile(r"Auto[A-Z]|.*\W")  # transformers' Auto classes run what a configuration names
_PREPARES: Final = re.compile(r"Tokenizer|Scheduler|Processor|FeatureExtractor")
_SMALL: Final = (".json", ".txt", ".model", ".jinja")
_VOCABULARIES: Final = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
_WEIGHTS: Final = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(?:\.(?P<before>\w+))?(?:-(?P<shard>\d+)-of-(?P<shards>\d+))?"
    r"(?:\.(?P<after>\w+))?\.safetensors"
)


@dataclass(frozen=True)
class Component:
    """An entry of a model_index.json that is loaded.

    Attributes:
        name: Of the entry and of its folder.
        library: The package that its class is from, or for classes of one pipeline the name of that.
        class_name: Its class.
    """

    name: str
    library: str
    class_name: str

    @property
    def is_network(self) -> bool:
        """Whether it is a model of diffusers' or transformers', with weights of its own."""
        return self.library in ("diffusers", "transformers") and not _PREPARES.search(self.class_name)

    @property
    def is_tokenizer(self) -> bool:
        return "Tokenizer" in self.class_name


@dataclass(frozen=True)
class Weights:
    """One set of a component's weights.

    Attributes:
        variant: "fp16", or None for full precision.
        files: The safetensors, and the index that names them where they are shards.
    """

    variant: str | None
    files: tuple[str, ...]


def components_of(index: Mapping[str, Any]) -> tuple[list[Component], list[str]]:
    """The components that a model_index.json names: those that are loaded, and the names of those that are left out.

    Raises:
        ModelError: An entry that is none, or that names code which is neither diffusers' nor transformers'.
    """
    named = []
    for name, origin in index.items():
        if name in _SKIPPED or not isinstance(origin, (list, dict)) or origin == [None, None]:
            continue
        if not isinstance(origin, list) or len(origin) != 2 or not all(isinstance(word, str) for word in origin):
            raise ModelError(
                f"The model_index.json says {origin!r:.60} of {name}, and no library and class: correct it."
            )
        named.append(Component(name, *origin))
    for component in named:
        if not _LIBRARIES.fullmatch(component.library) or _AUTO.match(component.class_name):
            raise ModelError(
                f"The model_index.json takes {component.name} from {component.library}.{component.class_name!s:.60}; "
                "only classes of diffusers and transformers are run, and no code of a model's own."
            )
    return named, [name for name in _SKIPPED if name in index]


def files_of(
    components: Iterable[Component], names: Collection[str], variants: tuple[str | None, ...], where: str
) -> dict[str, tuple[list[str], str | None]]:
    """What is needed of a model.

    Args:
        components: Its components.
        names: The files that there are, as paths relative to the model's folder.
        variants: Which variant of the weights to prefer, the best first.
        where: The model, for the sentences.

    Returns:
        Component's name -> its files, and the variant of its weights.

    Raises:
        ModelError: Something is missing.
    """
    found = {}
    for component in components:
        here = {path.name for name in names if (path := PurePosixPath(name)).parent.as_posix() == component.name}
        here = {name for name in here if not name.startswith(".")}  # what other systems leave, such as ._config.json
        if not here:
            raise ModelError(f"{where} is incomplete: {component.name} is missing.")
        if f"{component.library}.py" in here:
            raise ModelError(
                f"{where}/{component.name}/{component.library}.py is code of the model's own, which is not run."
            )
        small = [name for name in here if name.endswith(_SMALL) and ".index." not in name]
        weights = Weights(None, ())
        if component.is_network:
            weights = _chosen(component, here, variants, where)
        elif component.is_tokenizer:
            check_vocabulary(here, f"{where}/{component.name}")
        else:
            weights = Weights(None, tuple(name for name in here if name.endswith(".safetensors")))
        files = [f"{component.name}/{name}" for name in sorted({*small, *weights.files})]
        found[component.name] = files, weights.variant
    return found


def weights_in(names: Collection[str], *, sharded_first: bool = False) -> list[Weights]:
    """The sets of weights among a folder's file names that are there in full, by names.

    Args:
        names: The files of one component.
        sharded_first: Where a variant lies there whole and in shards, put the shards first, as diffusers reads it;
            transformers reads the whole one.
    """
    whole: list[Weights] = []
    shards: dict[tuple[str, str | None, int], dict[int, str]] = {}
    for name in sorted(names):
        if not (match := _WEIGHTS.fullmatch(name)):
            continue
        variant = match["before"] or match["after"]
        if match["shard"] is None:
            whole.append(Weights(variant, (name,)))
        else:
            shards.setdefault((match["stem"], variant, int(match["shards"])), {})[int(match["shard"])] = name
    sharded = []
    for (stem, variant, count), those in shards.items():
        middle = ("index",) if variant is None else (f"index.{variant}", f"{variant}.index")  # the latter before 2025
        index = next((name for part in middle if (name := f"{stem}.safetensors.{part}.json") in names), None)
        if index is not None and len(those) == count:
            sharded.append(Weights(variant, (*those.values(), index)))
    return [*sharded, *whole] if sharded_first else [*whole, *sharded]


def check_vocabulary(here: Collection[str], where: str) -> None:
    """Raise ModelError unless a tokenizer's words are among its files: transformers goes on without any."""
    found = [files for files in _VOCABULARIES if set(files) <= set(here)]
    if not found:
        raise ModelError(f"{where} has no vocabulary (tokenizer.json).")
    if found == [("spiece.model",)]:
        needed = [
            name for name, module in (("sentencepiece",) * 2, ("protobuf", "google.protobuf")) if not _has(module)
        ]
        if needed:
            raise PackageError(
                f"{where} is a SentencePiece tokenizer (spiece.model), which {' and '.join(needed)} must read: "
                f"{installing('t5')}."
            )


def _chosen(component: Component, here: Collection[str], variants: tuple[str | None, ...], where: str) -> Weights:
    sets = weights_in(here, sharded_first=component.library == "diffusers")
    if "config.json" not in here:
        raise ModelError(f"{where} is incomplete: {component.name} has no config.json.")
    for variant in variants:
        for weights in sets:
            if weights.variant == variant:
                return weights
    if sets:
        other = ", ".join(sorted({str(weights.variant) for weights in sets}))
        raise ModelError(
            f"{where} has the weights of {component.name} in the variant {other} only, and those in full precision "
            "or in fp16 are what can be used."
        )
    if any(_WEIGHTS.fullmatch(name) for name in here):
        raise ModelError(f"{where} is incomplete: some shards of {component.name}, or the index of them, are missing.")
    if pickled := sorted(name for name in here if name.endswith(PICKLED)):
        raise ModelError(
            f"{where}/{component.name}/{pickled[0]} is a pickled checkpoint, which can run code when opened, and is "
            "not read: convert the model to safetensors (pipe.save_pretrained(folder, safe_serialization=True))."
        )
    raise ModelError(f"{where} is incomplete: {component.name} is missing or has no weights (*.safetensors).")


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
