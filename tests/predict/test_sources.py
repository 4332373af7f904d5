"""Predictions over each kind of source and to each kind of place, and over pictures that are broken in ten ways."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_engine
import numpy as np
import pytest
from broken_pictures import WAYS, break_picture, sound

from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.outputs.vectors import Part
from vit_hybrid.predict.job import Summary, embed, predict

pa = pytest.importorskip("pyarrow", reason="rows in parquet need pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="rows in parquet need pyarrow")

Run = Callable[..., Summary]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening())


@pytest.fixture
def run(tiny_folder: Path) -> Run:
    def predicted(source: Any, output: Any, **options: Any) -> Summary:
        return predict(source, output, **{"model": tiny_folder, "batch_size": 4, "rows_per_part": 3, **options})

    return predicted


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out).to_pylist()


def folder_of(place: Path, count: int) -> Path:
    place.mkdir()
    for number in range(count):
        (place / f"{number:02d}.jpg").write_bytes(sound(seed=number))
    return place


def test_pictures_that_are_broken_in_ten_ways(run: Run, tmp_path: Path) -> None:
    source, alone = folder_of(tmp_path / "pictures", 40), folder_of(tmp_path / "alone", 40)
    whole = {path.name: path.read_bytes() for path in source.iterdir()}
    broken = {}
    for way in range(2 * len(WAYS)):
        name = f"{2 * way:02d}.jpg" if way % 3 else f"{2 * way + 1:02d}.jpg"
        broken[name] = break_picture(source / name, way)
        (alone / name).unlink()
    assert run(source, tmp_path / "x.parquet").errors == 20
    run(alone, tmp_path / "alone.parquet", rows_per_part=5)
    found = {Path(row.pop("path")).name: row for row in rows(tmp_path / "x.parquet")}
    assert {name: row["error"] for name, row in found.items() if row["error"]} == broken
    assert all(found[name]["reason"] for name in broken)
    too_large = next(row for row in found.values() if row["error"] == "too large")
    assert too_large["reason"].endswith("--max-pixels 3600000000 lets it pass")  # as it is typed, whoever asks
    others = {Path(row.pop("path")).name: row for row in rows(tmp_path / "alone.parquet")}
    assert others == {name: row for name, row in found.items() if name not in broken}
    for name in sorted(broken)[:12]:
        (source / name).unlink()
        (source / name).write_bytes(whole[name])
    summary = run(source, tmp_path / "x.parquet", retry_errors=True)
    assert (summary.rows, summary.errors) == (40, 8)


def test_what_fails_in_a_decoder_is_its_pictures_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vit_hybrid.images.preparing import Exactly

    sized = Exactly.sized

    def failing(self: Exactly, source: Any, name: str | None = None) -> Any:
        for number, error in enumerate((MemoryError(), RuntimeError("a bug"), PermissionError(13, "denied"))):
            if str(name).endswith(f"0{number}.jpg"):
                raise error
        pixels, size = sized(self, source, name)
        return (pixels[:, :7] if str(name).endswith("03.jpg") else pixels), size

    monkeypatch.setattr(Exactly, "sized", failing)
    run(folder_of(tmp_path / "pictures", 5), tmp_path / "x.parquet")
    said = [(row["error"], row["reason"]) for row in rows(tmp_path / "x.parquet")]
    assert said == [
        ("memory", "there is not enough memory for it"),
        ("damaged", "a bug"),
        ("unreadable", "denied"),
        ("unfit", said[3][1]),
        (None, None),
    ]
    assert "(3, 7, 8) of it, but the model takes (3, 8, 8)" in said[3][1]


def tar_of(path: Path, count: int) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            content = sound(seed=number)
            about = tarfile.TarInfo(f"{number:02d}.jpg")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def test_members_of_tars_have_keys(run: Run, tmp_path: Path) -> None:
    sources = [tar_of(tmp_path / f"{name}.tar", 5) for name in "ab"]
    assert run(sources, tmp_path / "x.parquet").rows == 10
    found = rows(tmp_path / "x.parquet")
    assert [row["key"] for row in found] == 2 * ["00", "01", "02", "03", "04"]
    tar_of(sources[1], 6)
    with pytest.raises(ValueError, match=r"the source is not what it was .*b\.tar"):
        run(sources, tmp_path / "x.parquet", resume=True)
    run([sources[0], folder_of(tmp_path / "pictures", 2)], tmp_path / "y.parquet")
    assert rows(tmp_path / "y.parquet")[0]["path"] == "00"  # files among them have paths
    assert found[0]["width"] == 50


def test_a_tar_that_ends_early_keeps_what_came_before(run: Run, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", 9)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(sound(seed=7)) + 300])
    summary = run(path, tmp_path / "x.parquet")
    assert (summary.rows, summary.errors) == (8, 1)
    last = rows(tmp_path / "x.parquet")[-1]
    assert last["error"] == "unreadable"
    assert last["reason"].startswith(f"{path}: the tar ends early, in 07.jpg")


def test_rows_of_parquet(run: Run, tmp_path: Path) -> None:
    pictures = [{"bytes": sound(seed=number), "path": f"{number}.jpg"} for number in range(5)]
    pq.write_table(pa.table({"image": pictures}), tmp_path / "pictures.parquet")
    assert run(tmp_path / "pictures.parquet", tmp_path / "x.parquet").errors == 0
    assert len({row["path"] for row in rows(tmp_path / "x.parquet")}) == 5


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_an_object_store_gets_the_same_bytes(run: Run, tmp_path: Path, ending: str) -> None:
    import fsspec

    source = folder_of(tmp_path / "pictures", 10)
    run(source, tmp_path / f"x{ending}")
    url = f"memory://{uuid.uuid4()}/x{ending}"
    assert run(source, url).new_rows == 10
    files = fsspec.filesystem("memory")
    if ending == ".parquet":
        found = {one.rpartition("/")[2]: files.cat_file(one) for one in files.ls(url, detail=False) if "/part-" in one}
        assert found == {path.name: path.read_bytes() for path in (tmp_path / "x.parquet").glob("part-*")}
        files.rm_file(f"{url}/part-00001.parquet")
        assert run(source, url, resume=True).new_rows == 3
    else:
        assert files.cat_file(url) == (tmp_path / f"x{ending}").read_bytes()
        assert not list(files.find(url + ".parts"))
        with pytest.raises(ValueError, match="resume=True goes on with it"):
            run(source, url)
        (source / "11.jpg").write_bytes(sound(seed=11))
        assert run(source, url, resume=True).rows == 11
        run(source, tmp_path / f"x{ending}", resume=True)
        content = (tmp_path / f"x{ending}").read_bytes()
        assert files.cat_file(url) == content
        files.pipe_file(url, content.replace(b"11.jpg", b"10.jpg"))
        (source / "12.jpg").write_bytes(sound(seed=12))
        with pytest.raises(ValueError, match=r"this is not what was written, so rows cannot be added"):
            run(source, url, resume=True)
        assert not list(files.find(url + ".parts"))
    assert run(source, url, overwrite=True, top_k=1).new_rows in (10, 12)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_part_is_put_into_s3_once(
    run: Run, tmp_path: Path, bucket: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs")
    asked: list[tuple[str, str]] = []
    call = s3fs.S3FileSystem._call_s3

    async def watched(self: Any, method: str, *arguments: Any, **named: Any) -> Any:
        asked.append((method, named.get("Key", "")))
        return await call(self, method, *arguments, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", watched)
    source, url = folder_of(tmp_path / "pictures", 10), f"{bucket}/in/x{ending}"
    run(source, tmp_path / f"x{ending}")
    run(source, url)
    written = [(method, key) for method, key in asked if method.startswith(("put", "create", "upload", "copy"))]
    assert {method for method, _ in written} == {"put_object"}
    folder = "in/x.parquet" if ending == ".parquet" else "in/x.csv.parts"
    parts = [key for _, key in written if "/part-" in key]
    assert parts == [f"{folder}/part-{number:05d}{ending}" for number in range(4)]
    files = s3fs.S3FileSystem()
    if ending == ".csv":
        assert files.cat_file(url) == (tmp_path / "x.csv").read_bytes()
    else:
        assert pq.read_table(url.removeprefix("s3://"), filesystem=files).equals(pq.read_table(tmp_path / "x.parquet"))


def test_pictures_of_an_object_store(run: Run, tmp_path: Path) -> None:
    import fsspec

    files, place = fsspec.filesystem("memory"), uuid.uuid4()
    for number in range(5):
        files.pipe_file(f"/{place}/{number}.jpg", sound(seed=number))
    files.pipe_file(f"/{place}/4.jpg", b"")
    summary = run(f"memory://{place}", tmp_path / "x.parquet")
    assert (summary.rows, summary.errors) == (5, 1)


class TestVectors:
    def test_alone(self, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = folder_of(tmp_path / "pictures", 5)
        (source / "03.jpg").write_bytes(b"")
        summary = embed(source, tmp_path / "x.parquet", model=tiny_folder, batch_size=4, rows_per_part=3)
        assert (summary.rows, summary.errors) == (5, 1)
        found = pq.read_table(tmp_path / "x.parquet")
        assert found.column_names == ["path", "width", "height", "embedding", "error", "reason"]
        assert found.schema.field("embedding").type == pa.list_(pa.float32(), 4)
        assert b"vit_hybrid.problem_type" not in found.schema.metadata  # of which vectors say nothing
        made = Part(tmp_path / "x.parquet" / "part-00000.parquet").made
        assert (made.model, made.dimension, made.dtype) == (str(tiny_folder), 4, "float32")
        assert found["embedding"].to_pylist()[3] is None
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening("regression"))
        embed(source, tmp_path / "y.parquet", model=tiny_folder, batch_size=4, rows_per_part=3)
        assert pq.read_table(tmp_path / "y.parquet").equals(found)  # of values, too, there are none

    def test_of_a_model_that_has_moved(self, tmp_path: Path, tiny_folder: Path) -> None:
        source, moved = folder_of(tmp_path / "pictures", 5), tmp_path / "moved"
        options: dict[str, Any] = {"batch_size": 4, "rows_per_part": 3}
        embed(source, tmp_path / "x.parquet", model=tiny_folder, **options)
        part = tmp_path / "x.parquet" / "part-00001.parquet"
        before = part.read_bytes()
        part.unlink()
        shutil.copytree(tiny_folder, moved)
        assert embed(source, tmp_path / "x.parquet", model=moved, resume=True, **options).new_rows == 2
        assert part.read_bytes() == before  # all parts say that they are of one model

    def test_beside_labels(self, run: Run, tmp_path: Path, tiny_folder: Path) -> None:
        source = folder_of(tmp_path / "pictures", 5)
        run(source, tmp_path / "x.parquet", embeddings=True)
        run(source, tmp_path / "x.jsonl", embeddings=True)
        embed(source, tmp_path / "y.parquet", model=tiny_folder, batch_size=4)
        vectors = [row["embedding"] for row in rows(tmp_path / "y.parquet")]
        assert [row["embedding"] for row in rows(tmp_path / "x.parquet")] == vectors
        lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
        np.testing.assert_array_equal(np.float32([line["embedding"] for line in lines]), np.float32(vectors))
        assert rows(tmp_path / "x.parquet")[0]["labels"]

    def test_half_of_the_room_and_of_length_one(self, tmp_path: Path, tiny_folder: Path) -> None:
        source = folder_of(tmp_path / "pictures", 5)
        embed(source, tmp_path / "x.parquet", model=tiny_folder, dtype="float16", normalization="l2")
        found = pq.read_table(tmp_path / "x.parquet")["embedding"]
        assert found.type == pa.list_(pa.float16(), 4)
        np.testing.assert_allclose(np.linalg.norm(np.float32(found.to_pylist()), axis=1), 1, rtol=1e-3)

    def test_what_float16_cannot_hold_is_an_error_of_its_picture(
        self, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compute = fake_engine.Colors._compute
        large = np.float32([1, 1, 1, 1e6])  # a single one of its values
        monkeypatch.setattr(fake_engine.Colors, "_compute", lambda self, values: [large * compute(self, values)[0]])
        source = folder_of(tmp_path / "pictures", 2)
        assert embed(source, tmp_path / "x.parquet", model=tiny_folder, dtype="float16").errors == 2
        assert rows(tmp_path / "x.parquet")[0]["reason"] == "its vector has values that float16 cannot hold"

    def test_what_goes_on_calls_the_model_as_before(self, tmp_path: Path, tiny_folder: Path) -> None:
        source, out = folder_of(tmp_path / "pictures", 5), tmp_path / "x.parquet"
        first, second = (Path(shutil.copytree(tiny_folder, tmp_path / name)) for name in ("first", "second"))
        embed(source, out, model=first, batch_size=4, rows_per_part=3)
        before = (out / "part-00001.parquet").read_bytes()
        (out / "part-00001.parquet").unlink()
        assert embed(source, out, model=second, batch_size=4, rows_per_part=3, resume=True).new_rows == 2
        assert (out / "part-00001.parquet").read_bytes() == before

    def test_only_into_parquet(self, tmp_path: Path, tiny_folder: Path) -> None:
        with pytest.raises(ValueError, match=r"vectors go into parquet; expected a name that ends in \.parquet"):
            embed(tmp_path, tmp_path / "x.csv", model=tiny_folder)
        with pytest.raises(ValueError, match="workers is 0"):
            embed(tmp_path, tmp_path / "x.parquet", model=tiny_folder, workers=0)

    def test_without_pyarrow_the_extra_is_named(
        self, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vit_hybrid.predict.job.find_spec", lambda _: None)
        with pytest.raises(ValueError, match=r"writing parquet needs pyarrow.*vit-hybrid\[predict\]"):
            embed(tmp_path, tmp_path / "x.parquet", model=tiny_folder)
        assert predict(folder_of(tmp_path / "pictures", 2), tmp_path / "x.csv", model=tiny_folder).rows == 2
