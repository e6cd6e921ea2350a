"""Ids and folders become scoring models, or one clear sentence. Nothing here reaches the network."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import scorers
import torch

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.measure.clip import load_clip
from shapefirst.measure.vqa import load_vqa
from shapefirst.models.scoring import find_scorer


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    return scorers.clip_folder(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def damaged(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "damaged")


def into_cache(cache, saved, revision, *, main):
    folder = cache / "models--someone--clip"
    shutil.copytree(saved, folder / "snapshots" / revision)
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
    return folder / "snapshots" / revision


def test_models_are_loaded_in_full_precision_and_ready(saved):
    clip = load_clip(saved, device="cpu")
    assert clip.model.dtype == torch.float32
    assert not clip.model.training
    assert clip.name == str(saved)


def test_a_name_that_is_neither_id_nor_folder_is_refused(empty_cache):
    with pytest.raises(ModelError, match=r"no model 'nonsense'.*hub id such as"):
        find_scorer("nonsense")


def test_an_id_that_is_not_to_be_had_says_how_to_get_it(empty_cache):
    with pytest.raises(ModelError, match="hf download someone/clip"):
        find_scorer("someone/clip")


def test_what_is_in_the_cache_is_used_without_network(empty_cache, saved):
    other = into_cache(empty_cache, saved, "b" * 40, main=False)
    assert find_scorer("someone/clip") == other  # a conversion, say
    main = into_cache(empty_cache, saved, "c" * 40, main=True)
    assert find_scorer("someone/clip") == main
    (main / "model.safetensors").unlink()
    assert find_scorer("someone/clip") == other


@pytest.mark.parametrize("author", ["SFconvertbot", "somebody"])
def test_weights_that_are_only_pickled_are_taken_from_the_hub_s_own_conversion(empty_cache, saved, monkeypatch, author):
    def files(revision):
        return ["config.json", "pytorch_model.bin", *(["model.safetensors"] if revision == "refs/pr/3" else [])]

    class Hub:
        def model_info(self, repository, revision=None, files_metadata=False, timeout=None):
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=1) for name in files(revision)])

        def list_repo_files(self, repository, revision=None):
            return files(revision)

        def get_repo_discussions(self, repository, **_):
            return [SimpleNamespace(author=author, num=2), SimpleNamespace(author=author, num=3)]

    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, sorted(allow_patterns)))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, name: str(saved / name))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    if author == "SFconvertbot":
        assert find_scorer("someone/clip") == saved
        assert asked == [("someone/clip", "refs/pr/3", ["config.json", "model.safetensors"])]
    else:
        with pytest.raises(ModelError, match="offers no safetensors"):
            find_scorer("someone/clip")


def test_pickled_weights_are_not_opened(damaged):
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickled checkpoint"):
        load_clip(damaged)


def test_truncated_weights_are_refused(damaged):
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="corrupt or truncated"):
        load_clip(damaged)


def test_weights_that_lack_a_part_are_refused_rather_than_made_up(damaged):
    from safetensors.torch import load_file, save_file

    state = load_file(damaged / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(visual_projection\.weight"):
        load_clip(damaged, device="cpu")


def test_a_shard_that_the_index_names_must_be_there(damaged):
    (damaged / "model.safetensors").rename(damaged / "model-00002-of-00002.safetensors")
    (damaged / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(ModelError, match="incomplete"):
        load_clip(damaged)


@pytest.mark.parametrize("damage", ["no config", "broken config", "another model"])
def test_a_folder_of_something_else_is_refused(damaged, damage):
    config = damaged / "config.json"
    if damage == "no config":
        config.unlink()
    else:
        config.write_text("{" if damage == "broken config" else json.dumps({"model_type": "clip_text_model"}))
    words = {"no config": "no config.json", "broken config": "is corrupt", "another model": "'clip_text_model', not"}
    with pytest.raises(ModelError, match=words[damage]):
        load_clip(damaged, device="cpu")


def test_a_clip_is_no_vqa_model(saved):
    with pytest.raises(ModelError, match="cannot be loaded as AutoModelForVisualQuestionAnswering"):
        load_vqa(saved, device="cpu")


def test_a_model_without_a_tokenizer_is_refused(damaged):
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (damaged / file).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="tokenizer"):
        load_clip(damaged, device="cpu")


def test_an_unknown_device_is_named(saved):
    with pytest.raises(ShapefirstError, match="no device 'abacus'"):
        load_clip(saved, device="abacus")
