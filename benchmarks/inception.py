"""Whether the FID's network here is torch-fidelity's: the same features, from the same weights.

    pip install --no-deps --target peers torch-fidelity
    PYTHONPATH=peers python benchmarks/inception.py [--weights FILE]

With --weights it takes the published ones, otherwise random ones: what differs in the layers shows with either. Nothing
of torch-fidelity but the network is imported, so torchvision is not needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import types
from pathlib import Path

import torch

from shapefirst.measure.inception import Inception

SIZES = ((64, 64), (299, 299), (512, 512), (100, 70))


def random_weights(path: Path) -> None:
    """A file as the published one is, its numbers of a scale that keeps signals alive through all layers."""
    torch.manual_seed(0)
    weights = {}
    for name, value in Inception().state_dict().items():
        if name.endswith("running_var"):
            weights[name] = torch.rand_like(value) + 0.5
        elif value.ndim == 4:
            weights[name] = torch.randn_like(value) * (2 / value[0].numel()) ** 0.5
        elif value.is_floating_point():
            weights[name] = 0.1 * torch.randn_like(value) + float(name.endswith("bn.weight"))
        else:
            weights[name] = value
    torch.save({**weights, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--weights", type=Path)
    given = arguments.parse_args()
    found = importlib.util.find_spec("torch_fidelity")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("torch-fidelity is not installed: see the first lines of this script.")
    package = types.ModuleType("torch_fidelity")  # its own __init__ imports torchvision
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["torch_fidelity"] = package
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        weights = given.weights or Path(folder) / "weights.pth"
        if given.weights is None:
            random_weights(weights)
        theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(weights))
        known = torch.load(weights, map_location="cpu", weights_only=True)
    ours = Inception()
    ours.load_state_dict({name: value for name, value in known.items() if not name.startswith("fc.")})
    for size in SIZES:
        pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            a, b = theirs(pixels)[0], ours(pixels)
        print(f"{size[0]} x {size[1]}: largest difference {(a - b).abs().max():.2g} of a mean of {a.abs().mean():.2g}")


if __name__ == "__main__":
    main()
