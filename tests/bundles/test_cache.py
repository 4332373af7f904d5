"""Where converted models are kept, and what becomes of it where there is no such place."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fresh_process
import pytest

from vit_hybrid.bundles import cache
from vit_hybrid.bundles.manifest import Bundle, write_manifest
from vit_hybrid.errors import EngineError
from vit_hybrid.outputs.problems import SINGLE_LABEL


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without HOME whom the system does not know."""
    for name in ("HOME", "XDG_CACHE_HOME", cache.CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: (_ for _ in ()).throw(KeyError(number)))


def test_without_a_home_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    homeless(monkeypatch)
    assert cache.find("key", "weights") is None
    with pytest.raises(cache.CacheUnusable, match=r"there is no home folder .*VIT_HYBRID_CACHE names another place"):
        cache.keep("key", "weights", lambda folder: None)


def test_a_named_folder_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    homeless(monkeypatch)
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "vit-hybrid"
    for unset in (lambda name: monkeypatch.delenv(name, raising=False), lambda name: monkeypatch.setenv(name, "")):
        unset(cache.CACHE_VARIABLE)
        unset("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.cache_folder() == tmp_path / ".cache" / "vit-hybrid"


def test_a_folder_may_take_its_place_for_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(cache.CACHE_VARIABLE, "~/kept")
    assert cache.cache_folder() == tmp_path / "home" / "kept"
    with suppress(ArithmeticError), cache.elsewhere(tmp_path / "a"):
        assert cache.cache_folder() == tmp_path / "a"
        with cache.elsewhere(tmp_path / "b"):
            assert cache.cache_folder() == tmp_path / "b"
        assert cache.cache_folder() == tmp_path / "a"
        raise ArithmeticError
    assert cache.cache_folder() == tmp_path / "home" / "kept"


def test_a_key_is_that_of_the_parts_in_any_order() -> None:
    parts = {"engine": "onnx", "dynamic": False}
    assert cache.key_of(parts) == cache.key_of(dict(reversed(parts.items())))
    assert len({cache.key_of(parts), cache.key_of({**parts, "dynamic": True}), cache.key_of({})}) == 3
    assert cache.key_of({"folder": Path("a")}) == cache.key_of({"folder": "a"})
    assert len(cache.key_of(parts)) == 32


def write(folder: Path, program: str = "<program/>") -> None:
    (folder / "program.xml").write_text(program)
    about = {"weights_sha256": "these"}
    write_manifest(
        Bundle("openvino", "f32", "program.xml", ("a", "b"), SINGLE_LABEL, 3, (8, 8), provenance=about), folder
    )


def test_a_sound_entry_stays_and_one_that_is_damaged_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    cache.keep("key", "these", write)
    program = tmp_path / "key" / "program.xml"
    kept = cache.keep("key", "these", lambda folder: write(folder, "<other/>"))
    assert (kept.folder, program.read_text()) == (tmp_path / "key", "<program/>")
    program.write_text("<progr")
    assert cache.find("key", "these") is None
    cache.keep("key", "these", lambda folder: write(folder, "<other/>"))
    assert program.read_text() == "<other/>"
    assert cache.find("key", "these") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_is_written_must_be_a_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(cache.CacheUnusable, match=f"cannot be written to \\({tmp_path}.*: there is no bundle.json in"):
        cache.keep("key", "these", lambda folder: (folder / "program.xml").write_text("<program/>"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(cache.CacheUnusable, match=f"^the cache folder {tmp_path}/file cannot .* \\(File exists\\)$"):
        cache.keep("key", "these", write)


def test_an_entry_is_for_its_weights_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))

    cache.keep("key", "these", write)
    found = cache.find("key", "these")
    assert found is not None
    assert found.folder == tmp_path / "key"
    assert cache.find("key", "others") is cache.find("none", "these") is None
    write_manifest(replace(found.bundle, provenance={}), found.folder)  # which does not say what it is from
    assert cache.find("key", "these") is None

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "read_bundle", refuse)
    assert cache.find("key", "these") is None


def test_a_user_whom_the_system_does_not_know_classifies(tiny_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    code = f"""
import os, pwd, sys
for name in ("HOME", "XDG_CACHE_HOME", "{cache.CACHE_VARIABLE}"):
    os.environ.pop(name, None)
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown
os.chdir({str(tmp_path)!r})
sys.argv = ["vit-hybrid", "classify", "photo.png", "--model", {str(tiny_folder)!r}, "--engine", "openvino", "--json"]
sys.stderr = sys.stdout
from vit_hybrid.cli.main import main
try: main()
except SystemExit as end: print("ended with", end.code)
"""
    lines = fresh_process.run(code).splitlines()
    assert [line for line in lines if line.startswith("vit-hybrid: ")] == [
        "vit-hybrid: there is no home folder to keep converted models in (VIT_HYBRID_CACHE names another place), so "
        "this model is converted anew at each start"
    ]
    assert lines[-1] == "ended with 0"
    assert '"predictions": [{"label": "LABEL_' in lines[-2]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_full_disk_is_said_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))

    def fill(folder: Path) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")  # as OpenVINO says it

    with pytest.raises(cache.CacheUnusable, match=r"cannot be written to \(the disk is full\)$"):
        cache.keep("a" * 32, "", fill)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [RuntimeError, EngineError, OSError])
def test_what_a_library_says_while_it_writes_is_told_in_one_line(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "new" / "cache"))

    def fail(folder: Path) -> None:
        (folder / "program.xml").touch()
        raise kind("Check failed at serialize.cpp:\n  no such stream")

    said = r"cache cannot be written to \(Check failed at serialize\.cpp: no such stream\)$"
    with pytest.raises(cache.CacheUnusable, match=said):
        cache.keep("key", "these", fail)
    assert not list((tmp_path / "new" / "cache").iterdir())
