"""Which files of a folder are a model's weights, and what is wrong where one cannot be had."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from vit_hybrid.checkpoints.files import (
    WEIGHTS_FILES,
    FileMissing,
    ModelLoadError,
    check_model_type,
    found_path,
    local_path,
    needing_code,
    read_json,
    safetensors_alone,
    weights_paths,
    why_refused,
)
from vit_hybrid.errors import LFS_POINTER, UNFETCHED
from vit_hybrid.registration import MODEL_TYPE


def test_weights_are_those_that_transformers_would_load(tmp_path: Path) -> None:
    assert WEIGHTS_FILES == (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
    assert weights_paths(str(tmp_path)) == []
    for name in reversed(WEIGHTS_FILES):
        (tmp_path / name).write_text('{"weight_map": {}}')
        assert weights_paths(str(tmp_path)) == [tmp_path / name]


def test_a_folder_that_is_called_as_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(FileMissing, match=r"^a model: there is no config\.json in this folder; "):
        local_path("a model", str(tmp_path), "config.json")
    assert found_path(str(tmp_path), "config.json") is None


@pytest.mark.parametrize(
    ("file", "purpose"),
    [
        ("config.json", "a folder that save_pretrained wrote has one"),
        ("bundle.json", "vit-hybrid export writes one"),
        ("preprocessor_config.json", "it says how pictures are resized and normalized"),
    ],
)
def test_what_a_missing_file_would_be_for_is_said(file: str, purpose: str, tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match=f"^mine: there is no {file} in this folder; {purpose}"):
        local_path("mine", str(tmp_path), file)


def test_what_is_wrong_with_a_file_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, said in (
        (LFS_POINTER + b"\noid sha256:4d7a\n", f"its config.json {UNFETCHED}."),
        (b"[]", "its config.json holds no fields."),
        (b"{", "cannot read its config.json: Expecting property name"),
        (b"\xff", "cannot read its config.json: 'utf-8' codec can't decode"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelLoadError, match=f"^mine: {re.escape(said)}"):
            read_json("mine", str(tmp_path), "config.json")


def test_of_weights_in_shards_those_that_are_there(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    shards = ["model-2.safetensors", "model-1.safetensors", "model-1.safetensors", "model-3.safetensors"]
    index.write_text(json.dumps({"weight_map": {f"weight{place}": shard for place, shard in enumerate(shards)}}))
    for number in (1, 2):
        (tmp_path / f"model-{number}.safetensors").touch()
    found = weights_paths(str(tmp_path))
    assert found == [index, tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"]
    assert safetensors_alone(found) == found[1:]
    for damaged in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}'):
        index.write_text(damaged)
        assert weights_paths(str(tmp_path)) == [index]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ([], None),
        (["model.safetensors"], ["model.safetensors"]),
        (["model.safetensors.index.json"], None),
        (["pytorch_model.bin"], None),
        (["model.safetensors", "more.bin"], None),
    ],
)
def test_whether_all_weights_are_safetensors(names: list[str], kept: list[str] | None) -> None:
    assert safetensors_alone([*map(Path, names)]) == (None if kept is None else [*map(Path, kept)])


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        (errors.HFValidationError, "id"),
        (errors.GatedRepoError, "access"),
        (errors.RevisionNotFoundError, "revision"),
        (errors.RepositoryNotFoundError, "model"),
        (errors.LocalEntryNotFoundError, "reach"),
        (errors.OfflineModeIsEnabled, "reach"),
        (errors.EntryNotFoundError, "file"),
        (OSError, ""),
        (ValueError, ""),
    ],
)
def test_what_the_hub_means(kind: type[Exception], meaning: str) -> None:
    assert why_refused(kind.__new__(kind)) == meaning  # they take a response of the hub


@pytest.mark.parametrize(
    ("kind", "is_known_to_lack", "said"),
    [
        (errors.HFValidationError, False, "there is no such file or folder here, and a hub id would look like"),
        (errors.GatedRepoError, False, "the hub gives this model only to people it was granted to; log in."),
        (errors.RepositoryNotFoundError, False, "no such model on the hub (or it is private: then log in); the"),
        (errors.LocalEntryNotFoundError, False, "its config.json is not in the hub's cache on this machine, and"),
        (errors.LocalEntryNotFoundError, True, "there is no config.json in this model on the hub; a folder that"),
        (errors.RemoteEntryNotFoundError, False, "there is no config.json in this model on the hub; a folder that"),
        (OSError, False, "cannot get its config.json from the hub: "),
    ],
)
def test_a_file_that_the_hub_does_not_give(
    kind: type[Exception], is_known_to_lack: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repository: str, file: str) -> str:
        raise kind.__new__(kind)

    kept = huggingface_hub._CACHED_NO_EXIST if is_known_to_lack else None
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: kept)
    with pytest.raises(ModelLoadError) as caught:
        local_path("mine", "owner/name", "config.json")
    assert str(caught.value).startswith("mine: ")
    assert said in str(caught.value)
    assert isinstance(caught.value, FileMissing) == ("in this model on the hub" in said)


def test_an_error_of_which_the_hub_knows_nothing_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(repository: str, file: str) -> str:
        raise UnicodeError("odd")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", break_off)
    with pytest.raises(UnicodeError, match="odd"):
        local_path("mine", "owner/name", "config.json")
    assert found_path("owner/name", "config.json") is None


def test_the_configuration_of_another_model_is_refused_and_its_code_not_run() -> None:
    check_model_type("mine", {"model_type": MODEL_TYPE, "auto_map": {}})
    start = "^mine: its config.json says model_type 'vit'; expected 'vit-hybrid'"
    with pytest.raises(ModelLoadError, match=rf"{start}\.$"):
        check_model_type("mine", {"model_type": "vit"})
    with pytest.raises(ModelLoadError, match=rf"{start}, and it needs code of its own \(auto_map\), which is not run"):
        check_model_type("mine", {"model_type": "vit", "auto_map": {}})


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            "Unsupported global: GLOBAL argparse.Namespace was not an allowed global",
            "holds a argparse.Namespace object",
        ),
        ("unsupported GLOBAL mine.Net", "holds a mine.Net object"),
        ("Unsupported class timm.models.Net", "holds a timm.models.Net object"),
        ("Cannot use weights_only=True with TorchScript archives", "is a TorchScript program"),
        ("Unsupported operand 149", "is a pickle of Python objects"),
    ],
)
def test_weights_that_would_run_code(said: str, what: str) -> None:
    found = needing_code(RuntimeError(said))
    assert found is not None
    assert found.startswith(f"{what}, which takes code to load, and only tensors are read here")
    assert needing_code(RuntimeError("invalid load key")) is None
