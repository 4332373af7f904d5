"""The file of keys, and quotas by a clock of our own."""

from __future__ import annotations

import hmac
import math
import os
from pathlib import Path

import pytest

from vit_hybrid.serve.keys import SHORTEST_KEY, Keys, opened_keys

ANN, BOB = "key-number-one-of-ann", "key-number-two-of-bob"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\nann {ANN} quota=60\nbob {BOB} admin # a remark\n")
    return path


def test_the_file_may_lie_at_home(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no shell says what ~ is, as in what configures Ray."""
    monkeypatch.setenv("HOME", str(file.parent))
    keys = opened_keys("~/keys", None)
    assert keys is not None
    assert keys.find(ANN.encode()) is not None
    file.write_text(f"bob {BOB}\n")
    assert keys.refresh()


def test_whose_key_it_is(file: Path) -> None:
    keys = Keys(str(file), quota=7)
    ann, bob = keys.find(ANN.encode()), keys.find(BOB.encode())
    assert ann is not None
    assert bob is not None
    assert (ann.name, ann.quota, ann.is_admin) == ("ann", 60, False)
    assert (bob.name, bob.quota, bob.is_admin) == ("bob", 7, True)
    assert keys.find(b"") is keys.find(ANN[:-1].encode()) is keys.find(b"ann") is None


def test_all_keys_are_compared_in_constant_time_whoever_asks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, compared = Keys(str(file)), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    for given in (ANN, BOB, "another-key-of-one"):
        compared.clear()
        keys.find(given.encode())
        assert len(compared) == 2


def test_a_quota_fills_up_as_time_goes_on(file: Path) -> None:
    ann = Keys(str(file)).find(ANN.encode())
    assert ann is not None
    assert ann.wait_for(60, now=1000) == 0
    ann.take(60)
    assert ann.wait_for(1, now=1000) == pytest.approx(1)
    assert ann.wait_for(30, now=1010) == pytest.approx(20)
    assert ann.wait_for(10, now=1010) == 0
    assert ann.wait_for(60, now=5000) == 0  # and no more than a minute's
    ann.take(59)
    assert ann.wait_for(2, now=5000) == pytest.approx(1)
    assert math.isinf(ann.wait_for(61, now=5000))
    bob = Keys(str(file)).find(BOB.encode())
    assert bob is not None
    bob.take(10**6)
    assert bob.wait_for(10**6, now=5000) == 0  # who has no quota
    other = Keys(str(file), quota=10).find(BOB.encode())
    assert other is not None
    assert other.wait_for(10, now=1000) == 0
    other.take(10)
    assert other.wait_for(1, now=1000) == pytest.approx(6)
    assert other.wait_for(5, now=1012) == pytest.approx(18)  # two are there again


def test_a_file_that_changes_is_read_again_and_quotas_go_on(file: Path) -> None:
    keys = Keys(str(file))
    ann = keys.find(ANN.encode())
    assert ann is not None
    ann.wait_for(60, now=1000)
    ann.take(60)
    assert not keys.refresh()
    file.write_text(f"anna {ANN} quota=60\n")
    assert keys.refresh()
    anna = keys.find(ANN.encode())
    assert anna is not None
    assert anna.name == "anna"
    assert anna.wait_for(1, now=1000) == pytest.approx(1)
    assert keys.find(BOB.encode()) is None


def test_another_key_of_the_same_length_is_read_too(file: Path) -> None:
    keys, size = Keys(str(file)), file.stat().st_size
    file.write_text(file.read_text().replace(ANN, ANN[::-1]))
    os.utime(file, ns=(1, 1))
    assert file.stat().st_size == size
    assert keys.refresh()
    assert (keys.find(ANN.encode()), keys.find(ANN[::-1].encode()) is None) == (None, False)
    assert not keys.refresh()


def test_a_file_that_takes_the_place_of_one_as_old_and_as_large_is_read_too(file: Path, tmp_path: Path) -> None:
    """Through a link, too, behind which Kubernetes changes its secrets."""
    link = tmp_path / "link"
    link.symlink_to(file)
    keys, linked = Keys(str(file)), Keys(str(link))
    before, other = file.stat(), tmp_path / "other"
    other.write_text(file.read_text().replace(ANN, ANN[::-1]))
    os.utime(other, ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.replace(other, file)
    for one in (keys, linked):
        assert one.refresh()
        assert one.find(ANN[::-1].encode()) is not None


def test_a_file_that_is_away_for_a_while_leaves_the_keys_as_they_were(file: Path) -> None:
    keys, content = Keys(str(file)), file.read_text()
    file.unlink()
    with pytest.raises(FileNotFoundError):
        keys.refresh()
    assert not keys.refresh()  # of which it is said once
    assert keys.find(ANN.encode()) is not None
    file.write_text(content.replace(BOB, BOB[::-1]))
    assert keys.refresh()
    assert keys.find(BOB[::-1].encode()) is not None


def test_a_file_that_is_no_text_is_told_by_its_name(file: Path) -> None:
    file.write_bytes(f"zo\u00e9 {ANN}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"keys is no text in UTF-8; a line is: NAME KEY"):
        opened_keys(str(file), None)
    for mark in ("", "\ufeff", "\ufeff# ours\n"):
        file.write_text(f"{mark}zo\u00e9 {ANN}\n", encoding="utf-8")
        found = opened_keys(str(file), 8)
        assert found is not None
        zoe = found.find(ANN.encode())
        assert zoe is not None
        assert (zoe.name, zoe.quota) == ("zo\u00e9", 8)


def test_a_key_has_sixteen_characters_or_more(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann {'k' * SHORTEST_KEY}\n")
    assert Keys(str(path)).find(b"k" * 16) is not None
    path.write_text(f"ann {'k' * (SHORTEST_KEY - 1)}\n")
    with pytest.raises(ValueError, match="line 1 has no key of 16 characters or more"):
        Keys(str(path))
    path.write_text(f"ann {ANN} quota=5 admin\nbob {BOB} admin quota=6 # admin\n")
    both = [Keys(str(path), quota=7).find(key.encode()) for key in (ANN, BOB)]
    assert [(key.quota, key.is_admin) for key in both if key is not None] == [(5, True), (6, True)]
    path.write_text(f"# ours\nann {ANN}\n\nbob {BOB} quota=1.5\n")
    with pytest.raises(ValueError, match="line 4 has a word that is neither a quota nor admin"):
        Keys(str(path))


@pytest.mark.parametrize("content", ["", "ann\n", "ann short\n", f"ann {ANN} quota=0\n", f"ann {ANN} boss\n"])
def test_a_file_that_is_none_leaves_the_keys_as_they_were(file: Path, content: str) -> None:
    keys = Keys(str(file))
    file.write_text(content)
    with pytest.raises(ValueError, match="NAME KEY") as told:
        keys.refresh()
    assert ANN not in str(told.value)
    assert not keys.refresh()  # of which it is said once
    assert keys.find(ANN.encode()) is not None


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert opened_keys(None, None) is None
    with pytest.raises(ValueError, match="No such file"):
        opened_keys(str(tmp_path / "missing"), None)
