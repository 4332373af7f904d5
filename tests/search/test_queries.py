from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_index import index_of_pictures, made_pictures

from vit_hybrid import predict
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.inference.features import Extractor
from vit_hybrid.outputs.vectors import VectorsError
from vit_hybrid.search import Approximate, Index, Searcher, by_all_pairs
from vit_hybrid.search.queries import duplicates_of

pytest.importorskip("pyarrow")

ON_CPU = {"engine": "torch", "device": "cpu"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine pictures, of which the fourth cannot be read and the last three are copies of the first."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = made_pictures(folder, 9)
    paths[3].write_bytes(b"no picture")
    for copy in paths[6:]:
        shutil.copy(paths[0], copy)
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path], tiny_folder: Path) -> Path:
    return index_of_pictures(tmp_path_factory.mktemp("index") / "x.parquet", str(tiny_folder), pictures)


@pytest.fixture(scope="module")
def searcher(folder: Path) -> Searcher:
    return Searcher(Index(folder), batch_size=4, **ON_CPU)


def test_a_picture_of_the_index_finds_itself_first(searcher: Searcher, pictures: list[Path]) -> None:
    records = [*searcher.stream(pictures, top_k=5)]
    assert [record["path"] for record in records] == [str(path) for path in pictures]
    for path, record in zip(pictures, records, strict=True):
        if path == pictures[3]:
            assert record == {"path": str(path), "error": f"{path}: is not a picture in a format that Pillow reads"}
            continue
        assert record["neighbors"][0] == {"path": str(path), "similarity": 1.0}
        assert str(pictures[3]) not in {neighbor["path"] for neighbor in record["neighbors"]}
        similarities = [neighbor["similarity"] for neighbor in record["neighbors"]]
        assert similarities == sorted(similarities, reverse=True)
        assert len(similarities) == 5


def test_also_among_more_copies_than_are_asked_for(searcher: Searcher, pictures: list[Path]) -> None:
    [record] = searcher.stream([pictures[7]], top_k=2)
    assert record["neighbors"] == [{"path": str(pictures[row]), "similarity": 1.0} for row in (7, 0)]


def test_a_picture_that_became_another_since_comes_behind_those_that_it_is_like(
    searcher: Searcher, pictures: list[Path]
) -> None:
    given = (str(pictures[1]), pictures[0].read_bytes())
    [record] = searcher.stream([given], top_k=3)
    assert [neighbor["path"] for neighbor in record["neighbors"]] == [str(pictures[row]) for row in (0, 6, 7)]
    [record] = searcher.stream([given], top_k=8)
    similarities = {neighbor["path"]: neighbor["similarity"] for neighbor in record["neighbors"]}
    assert [*similarities.values()] == sorted(similarities.values(), reverse=True)
    assert similarities[str(pictures[1])] < 1


@pytest.mark.parametrize("name", ["from elsewhere", os.fsdecode(b"caf\xe9")])
def test_a_picture_under_another_name_finds_its_copies_in_their_order(
    searcher: Searcher, pictures: list[Path], name: str
) -> None:
    [record] = searcher.stream([(name, pictures[8].read_bytes())], top_k=3)
    assert [neighbor["path"] for neighbor in record["neighbors"]] == [str(pictures[row]) for row in (0, 6, 7)]


def test_a_picture_of_the_index_whose_name_is_no_utf_8_finds_itself_among_its_copies(
    pictures: list[Path], tiny_folder: Path, tmp_path: Path
) -> None:
    copy, odd = tmp_path / "a.png", tmp_path / os.fsdecode(b"caf\xe9.png")
    for one in (copy, odd):
        shutil.copy(pictures[1], one)
    folder = index_of_pictures(tmp_path / "x.parquet", str(tiny_folder), [copy, odd])
    searcher = Searcher(Index(folder), **ON_CPU)
    for path, name in ((odd, f"{tmp_path}/caf\\xe9.png"), (copy, str(copy))):
        [record] = searcher.stream([path], top_k=1)
        assert record["neighbors"] == [{"path": name, "similarity": 1.0}]


def test_a_query_is_computed_as_the_index_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches that are always full, so that it does not depend on the others."""
    asked: list[dict[str, Any]] = []
    sizes: list[int | None] = [None, 7]  # of an engine that does not say, and of one that gives others
    inner = Extractor.from_pretrained

    def from_pretrained(*given: Any, **options: Any) -> Extractor:
        asked.append(options)
        found = inner(*given, **options)
        found.engine.spec = replace(found.engine.spec, feature_size=sizes.pop(0))
        return found

    monkeypatch.setattr(Extractor, "from_pretrained", from_pretrained)
    Searcher(Index(folder), batch_size=3, **ON_CPU)
    assert asked == [{"batch_size": 3, "fill_batches": True, **ON_CPU}]
    with pytest.raises(
        VectorsError, match=r"x\.parquet: made with dimension 16 and not 7; give that model with model, or"
    ):
        Searcher(Index(folder), **ON_CPU)
    assert asked[1] == {"batch_size": 16, "fill_batches": True, **ON_CPU}


def test_half_precision_and_the_faiss_index_find_the_same(
    searcher: Searcher, pictures: list[Path], tiny_folder: Path, tmp_path: Path
) -> None:
    expected = [*searcher.stream(pictures[:3], top_k=1)]
    half = index_of_pictures(tmp_path / "x.parquet", str(tiny_folder), pictures, dtype="float16", normalization="l2")
    assert [*Searcher(Index(half), **ON_CPU).stream(pictures[:3], top_k=1)] == expected
    pytest.importorskip("faiss")
    through = Searcher(Approximate.of(Index(half)), **ON_CPU)
    assert [*through.stream(pictures[:3], top_k=1)] == expected


def test_rows_with_labels_beside_the_vectors_are_an_index_too(
    searcher: Searcher, pictures: list[Path], tiny_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.parquet"
    predict.predict(pictures, rows, model=str(tiny_folder), embeddings=True, engine="torch", device="cpu")
    found = Searcher(Index(rows), batch_size=4, **ON_CPU).stream(pictures, top_k=4)
    assert [*found] == [*searcher.stream(pictures, top_k=4)]


def test_groups_by_their_names(folder: Path, pictures: list[Path]) -> None:
    index = Index(folder)
    assert duplicates_of(index, by_all_pairs(index, 1.0)) == [
        {
            "path": str(pictures[0]),
            "duplicates": [{"path": str(pictures[row]), "similarity": 1.0} for row in (6, 7, 8)],
        }
    ]
    assert duplicates_of(index, []) == []


def test_a_query_by_another_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that is loaded."""
    monkeypatch.setattr(Extractor, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(VectorsError, match=r"x.parquet: made with model .* \(weights \w{12}\) and not vit-hybrid-tiny"):
        Searcher(Index(folder), "vit-hybrid-tiny-imagenet", **ON_CPU)
    with pytest.raises(ModelLoadError, match=r"nowhere.npz: there is no such file"):
        Searcher(Index(folder), "nowhere.npz", **ON_CPU)


def test_the_same_model_by_another_name_will_do(
    folder: Path, tmp_path: Path, tiny_folder: Path, pictures: list[Path]
) -> None:
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    [record] = Searcher(Index(folder), str(moved), **ON_CPU).stream(pictures[:1], top_k=1)
    assert record["neighbors"][0]["similarity"] == 1.0


def test_other_preprocessing_is_refused(folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    changed = shutil.copytree(tiny_folder, tmp_path / "changed")
    file = changed / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(VectorsError, match="made with another preprocessing of pictures than"):
        Searcher(Index(folder), str(changed), **ON_CPU)


def test_a_model_that_is_gone_is_asked_for(tmp_path: Path, tiny_folder: Path, pictures: list[Path]) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    folder = index_of_pictures(tmp_path / "x.parquet", str(model), pictures[:2])
    shutil.rmtree(model)
    with pytest.raises(VectorsError, match=r"made with a model that cannot be opened .*give that model with model, or"):
        Searcher(Index(folder), **ON_CPU)


def test_answers_come_as_soon_as_their_batch_is_through(searcher: Searcher, pictures: list[Path]) -> None:
    taken: list[Path] = []
    records = searcher.stream((taken.append(path) or path for path in pictures), top_k=1, read_ahead=False)
    assert next(records)["path"] == str(pictures[0])
    assert len(taken) <= 2 * 4
    assert len([*records]) == len(pictures) - 1


def test_as_many_are_looked_for_as_are_asked_for(
    searcher: Searcher, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(searcher, "_nearest", lambda queries, top_k: asked.append(top_k) or [[] for _ in queries])
    assert [*searcher.stream(pictures[:1], top_k=37)] == [{"path": str(pictures[0]), "neighbors": []}]
    assert asked == [37]


def test_features_that_are_not_finite_are_the_error_of_their_picture_alone(
    searcher: Searcher, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = searcher._extractor.stream

    def broken(sources: Any, read_ahead: bool | None) -> Any:
        assert read_ahead is False  # as it was asked for
        for record in stream(sources, read_ahead):
            if record["path"] == str(pictures[1]):
                record["features"] = np.append(record["features"][:-1], np.float32(np.nan))
            yield record

    monkeypatch.setattr(searcher._extractor, "stream", broken)
    first, second, third = searcher.stream([pictures[4], pictures[1], pictures[2]], top_k=1, read_ahead=False)
    assert second == {"path": str(pictures[1]), "error": f"{pictures[1]}: the model's features are not finite numbers"}
    assert [one["neighbors"][0]["path"] for one in (first, third)] == [str(pictures[4]), str(pictures[2])]
