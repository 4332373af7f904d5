"""What decides the last digits, and which files a node of a cluster has to see."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vit_hybrid.inference import facts


@pytest.mark.parametrize(
    ("name", "device", "library", "kind", "accelerator"),
    [
        ("torch", "cpu", "torch", "cpu", None),
        ("torch", "cuda:1", "torch", "cuda", "number 1"),
        ("onnx", "cuda", "onnxruntime", "cuda", "the first"),
        ("openvino", "cpu", "openvino", "cpu", None),
    ],
)
def test_of_an_engine_its_kind_of_device_counts_and_not_the_number(
    name: str, device: str, library: str, kind: str, accelerator: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": "number 1", "cuda": "the first"}.__getitem__)
    engine: Any = SimpleNamespace(name=name, precision="f32", device=device)
    assert facts.facts_of(engine) == {
        **{"engine": name, "precision": "f32", "device": kind, "accelerator": accelerator},
        "libraries": {one: version(one) for one in (library, "numpy", "Pillow")},
    }


def test_long_values_are_not_shown() -> None:
    short, long = "x" * 24, "x" * 25
    assert facts.difference({"a": short}, {"a": "y"}) == f"a was {short} and is y"
    for before, now in ((long, "y"), ("y", long)):
        assert facts.difference({"a": before}, {"a": now}) == "other a than before"


def test_sources_are_seen_in_the_home_folder_and_behind_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "deeper").mkdir(parents=True)
    (tmp_path / "some" / "[0].csv").touch()
    facts.check_seen(
        ["~/some", "some/*.jpg", "some/deeper/{a,b}.csv", "*.png", "some/[0].csv", "some/a?.tar", "s3://bucket/x"]
    )
    for missing in ("~/none", "none/*.jpg", "some/none/{a,b}.csv", "some/none"):
        with pytest.raises(ValueError, match=r": the node .* does not see this; expected a file system that all"):
            facts.check_seen(["some", missing])


def test_a_folder_that_is_not_there_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts.stand_in(str(tmp_path / "none"))
    assert Path.cwd() == tmp_path
    (tmp_path / "place").mkdir()
    facts.stand_in(str(tmp_path / "place"))
    assert Path.cwd() == tmp_path / "place"


def test_a_node_has_to_find_what_the_driver_works_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.platform, "node", lambda: "other")
    facts.check_alike("other", {"weights": "a"}, lambda: {"weights": 1 / 0})  # which there is nothing to ask of
    facts.check_alike("driver", {"weights": "a"}, lambda: {"weights": "a"})
    with pytest.raises(ValueError, match=r"^the node other would work with something else: weights was a and is b\.$"):
        facts.check_alike("driver", {"weights": "a"}, lambda: {"weights": "b"})


def test_of_lists_what_is_gone_and_what_came_is_told() -> None:
    for before, now, said in (
        (["avx2", "fma"], ["avx2"], "without fma"),
        (["avx2"], ["avx2", "amx_bf16"], "with amx_bf16"),
        (["avx2", "fma"], ["neon", "fma"], "without avx2 and with neon"),
        (["a", "b"], ["b", "a"], "in another order"),
    ):
        assert facts.difference({"sets": before}, {"sets": now}) == f"other sets than before: {said}"
    assert facts.difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "other a: b was 1 and is 2"
    assert facts.difference({"a": 1}, {}) == "a was 1 and is None"
    assert facts.difference({"a": None}, {"a": {"b": 1}}) == "a was None and is {'b': 1}"
    assert facts.difference({"a": [1]}, {"a": None}) == "a was [1] and is None"
    assert facts.difference({"a": 1, "b": 1}, {"b": 2, "a": 2}) == "b was 1 and is 2"  # the first of what is now
    assert facts.difference({"a": [1], "b": {}}, {"b": {}, "a": [1]}) is None
