"""The FID's network: its shape is that of the published weights, and its parts do what their equations say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from shapefirst.errors import ModelError
from shapefirst.measure import inception
from shapefirst.measure.inception import Inception, load_inception


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Inception()


def test_it_has_the_layers_of_the_published_weights(network):
    names = network.state_dict()
    assert (
        sum(value.numel() for name, value in names.items() if "running" not in name and "num_" not in name) == 21785568
    )
    assert len([name for name in names if name.endswith("conv.weight")]) == 94
    assert names["Mixed_5b.branch5x5_2.conv.weight"].shape == (64, 48, 5, 5)
    assert names["Mixed_6c.branch7x7dbl_3.conv.weight"].shape == (160, 160, 1, 7)
    assert names["Mixed_7a.branch7x7x3_4.conv.weight"].shape == (192, 192, 3, 3)
    assert names["Mixed_7c.branch3x3dbl_3a.conv.weight"].shape == (384, 384, 1, 3)
    assert names["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)


def test_images_of_any_size_have_2048_features_whatever_stands_beside_them(network):
    dice = np.random.default_rng(0)
    images = [Image.fromarray(dice.integers(0, 256, (side, 40, 3), dtype=np.uint8)) for side in (30, 50)]
    both = network.features(images)
    assert both.shape == (2, 2048)
    assert both.dtype == np.float32
    assert np.allclose(both[1], network.features(images[1:])[0], atol=1e-5)
    assert network.features([]).shape == (0, 2048)


def test_enlarging_is_tensorflow_s():
    """out[i] = (1 - f) x[j] + f x[j + 1] with i size / 299 = j + f, the last pixel repeated."""
    x = torch.rand(1, 3, 5, 7)
    found = inception._enlarge(x)
    assert found.shape == (1, 3, 299, 299)
    for row, column in [(0, 0), (1, 2), (150, 200), (298, 298), (240, 297)]:
        a, b = row * 5 / 299, column * 7 / 299
        j, k = int(a), int(b)
        j_next, k_next = min(j + 1, 4), min(k + 1, 6)
        f, g = a - j, b - k
        naive = (1 - f) * ((1 - g) * x[0, :, j, k] + g * x[0, :, j, k_next])
        naive = naive + f * ((1 - g) * x[0, :, j_next, k] + g * x[0, :, j_next, k_next])
        assert torch.allclose(found[0, :, row, column], naive, atol=1e-5)


def test_its_means_leave_the_padding_out_and_its_last_block_takes_maxima(network):
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(inception._mean(ones), ones)
    assert network.Mixed_7b.pool is inception._mean
    assert network.Mixed_7c.pool is inception._maximum


def test_weights_are_read_from_safetensors_and_others_refused(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    image = Image.new("RGB", (20, 20), "red")
    read = load_inception(tmp_path / "inception.safetensors", device="cpu")
    assert np.array_equal(read.features([image]), network.features([image]))
    with pytest.raises(ModelError, match=r"no Inception weights in .*nothing"):
        load_inception(tmp_path / "nothing.pth")
    torch.save(network.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"is not weights-inception"):
        load_inception(tmp_path / "other.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_inception(tmp_path / "odd.safetensors")


def test_the_usual_file_is_read_with_its_last_layer_left_out(network, tmp_path, monkeypatch):
    import hashlib

    weights = {**network.state_dict(), "fc.weight": torch.zeros(3, 2048), "fc.bias": torch.zeros(3)}
    file = tmp_path / inception.FILE
    torch.save(weights, file)
    monkeypatch.setattr(inception, "DIGEST", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    image = Image.new("RGB", (20, 20), "red")
    assert np.array_equal(load_inception(file, device="cpu").features([image]), network.features([image]))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def download(url, path, **options):
        file.rename(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert np.array_equal(load_inception("torch-fidelity", device="cpu").features([image]), network.features([image]))
