"""LabeledPictures: selecting, labels in another order, threads and processes, what cannot be read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from labeled_files import (
    class_folders,
    csv_file,
    encoded,
    json_lines,
    level_of,
    levels_of,
    parquet,
    pictures_beside,
    put,
    refused,
    structs,
)
from PIL import Image

from vit_hybrid.data import (
    SINGLE_LABEL,
    DataError,
    LabeledPictures,
    Unreadable,
    find_unreadable,
    read_labeled,
    read_splits,
)
from vit_hybrid.data.pictures import Files, PictureSources
from vit_hybrid.data.targets import UnexpectedLabels
from vit_hybrid.images.reading import ImageReadError


def test_labels_in_the_order_of_a_model(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=1, dog=2))
    other = pictures.with_labels(["eel", "dog", "cat"])
    assert (other.labels, other.targets.tolist()) == (("eel", "dog", "cat"), [2, 1, 1])
    assert other.class_counts().tolist() == [0, 2, 1]
    assert read_labeled(tmp_path, labels=["eel", "dog", "cat"]).targets.tolist() == [2, 1, 1]
    assert pictures.targets.tolist() == [0, 1, 1]
    assert pictures.with_labels(pictures.labels) is pictures
    assert "not among the 2 expected ones (cat, eel): dog" in refused(pictures.with_labels, ["cat", "eel"])
    assert pictures.select([0]).with_labels(["cat"]).targets.tolist() == [0]  # no picture of a dog is left
    assert "more than once: cat" in refused(pictures.with_labels, ["cat", "cat", "dog"])


def test_several_labels_and_values_in_the_order_of_a_model(tmp_path: Path) -> None:
    several = read_labeled(json_lines(tmp_path / "a.jsonl", [["a", "b"], ["b"]]))
    assert several.with_labels(["b", "c", "a"]).targets.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert "not among the 1 expected ones (b): a" in refused(several.with_labels, ["b"])
    at_once = read_labeled(tmp_path / "a.jsonl", labels=["b", "c", "a"])
    assert (at_once.labels, at_once.targets.tolist()) == (("b", "c", "a"), [[1, 0, 1], [1, 0, 0]])
    json_lines(tmp_path / "c.jsonl", [["a", "b"], ["b"], ["c"]])
    moved_on = read_labeled(tmp_path / "c.jsonl", labels=["c", "a", "b"])
    assert moved_on.targets.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]
    swapped = read_labeled(json_lines(tmp_path / "d.jsonl", [[0.5, 1], [2, 3]]), labels=["label_1", "label_0"])
    assert swapped.targets.tolist() == [[1, 0.5], [3, 2]]
    values = read_labeled(json_lines(tmp_path / "b.jsonl", [[0.5, 1], [2, 3]]))
    assert values.with_labels(["label_1", "label_0"]).targets.tolist() == [[1, 0.5], [3, 2]]
    renamed = values.with_labels(["x", "y"])
    assert (renamed.labels, renamed.targets.tolist()) == (("x", "y"), [[0.5, 1], [2, 3]])
    half = values.with_labels(["label_1", "y"])  # of which one name is another's, so that no name says a place
    assert (half.labels, half.targets.tolist()) == (("label_1", "y"), [[0.5, 1], [2, 3]])
    assert "2 values a picture (label_0, label_1), expected 1" in refused(values.with_labels, ["x"])


def test_numbers_are_indices_only_where_they_fit(tmp_path: Path) -> None:
    pictures = read_labeled(csv_file(tmp_path / "a.csv", [0, 2, 0]))
    assert pictures.with_labels(["a", "b", "c"]).targets.tolist() == [0, 2, 0]
    assert pictures.with_labels(["2", "0"]).targets.tolist() == [1, 0, 1]
    assert "not among the 2 expected ones (a, b): 0, 2" in refused(pictures.with_labels, ["a", "b"])


def test_selecting_by_index_and_by_mask(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=2, dog=2))
    assert levels_of(pictures.select([3, 0, 3])) == [3, 0, 3]
    assert levels_of(pictures.select(np.array([True, False, False, True]))) == [0, 3]
    assert levels_of(pictures.select([1, 2, 3]).select([2, 0])) == [3, 1]
    empty = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(pictures.select([])))))
    assert (len(empty), empty.class_counts().tolist()) == (0, [0, 0])
    with pytest.raises(IndexError):
        pictures.picture(4)
    assert [int(target) for _, target in pictures] == [0, 0, 1, 1]


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    put(tmp_path / "cat" / "a.png", encoded(1, (4, 3), exif=exif))
    put(tmp_path / "dog" / "a.png", encoded(1, (4, 3)))
    pictures = read_labeled(tmp_path)
    assert [picture.size for picture, _ in pictures] == [(3, 4), (4, 3)]


def test_unreadable_pictures_are_found_with_their_reason(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=60, dog=60)
    put(tmp_path / "cat" / "5.png", b"")
    put(tmp_path / "dog" / "59.png", encoded(1, (200, 200))[:-40])
    put(tmp_path / "dog" / "6.png", b"not a picture")
    pictures = read_labeled(tmp_path)
    calls: list[tuple[int, int]] = []
    found = find_unreadable(pictures, lambda done, of: calls.append((done, of)))
    assert all(reason.startswith(f"{pictures.name(index)}: ") for index, reason in found)
    reasons = dict(os.path.relpath(reason, tmp_path).split(": ") for _, reason in found)
    assert list(reasons) == ["cat/5.png", "dog/59.png", "dog/6.png"]
    assert reasons["cat/5.png"] == "is empty"
    assert reasons["dog/6.png"] == "is not a picture in a format that Pillow reads"
    assert reasons["dog/59.png"].startswith("is truncated or damaged")
    assert calls == [(32, 120), (64, 120), (96, 120), (120, 120)]
    assert find_unreadable(pictures.select([])) == []

    def refuse(picture: Image.Image) -> None:
        raise ValueError("is of no use")

    assert find_unreadable(pictures.select([0]), check=refuse) == [(0, f"{pictures.name(0)}: is of no use")]


@pytest.mark.parametrize("count", [1, 33, 64])  # of tasks of 32
def test_the_last_picture_is_looked_at_too(count: int, tmp_path: Path) -> None:
    folder = class_folders(tmp_path, cat=count)
    pictures = read_labeled(folder)
    last = pictures.name(count - 1)
    Path(last).write_bytes(b"")
    assert find_unreadable(pictures) == [(count - 1, f"{last}: is empty")]


def test_a_selection_and_other_labels_keep_what_is_known_of_all(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=1, dog=1), max_pixels=5)
    pictures.notes = ("odd",)
    for other in (pictures.select([1]), pictures.with_labels(["dog", "cat"]), pictures.without(["cat"])):
        assert (other.max_pixels, other.origin, other.notes) == (5, pictures.origin, ("odd",))
        assert other.passed is pictures.passed
        assert all("has more pixels than the 5 allowed" in reason for _, reason in find_unreadable(other))
        assert len(find_unreadable(other)) == len(other)


def test_an_interrupted_search_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_hybrid.data.pictures.usable_cores", lambda: 1)
    pictures = read_labeled(class_folders(tmp_path, cat=100, dog=100))
    looked_at: list[Image.Image] = []
    go_on = threading.Event()

    def look(picture: Image.Image) -> None:
        looked_at.append(picture)
        if len(looked_at) > 32:
            go_on.wait(timeout=60)

    def interrupt(done: int, of: int) -> None:
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_unreadable(pictures, interrupt, look)
    assert len(looked_at) <= 64  # of the task that was done, and of the one that had begun


def test_threads_and_processes_share_pictures(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(40), "label": [0, 1] * 20}, row_group_size=7)
    pictures = read_labeled(path)
    with ThreadPoolExecutor(8) as executor:
        levels = list(executor.map(lambda index: level_of(pictures.picture(index % 40)), range(400)))
    assert levels == list(range(40)) * 10

    # A process that starts afresh needs neither pyarrow nor torch to decode what it was sent.
    saved = put(tmp_path / "pictures.pickle", pickle.dumps(pictures.select(range(30, 40))))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        f"pictures = pickle.loads(Path({str(saved)!r}).read_bytes())\n"
        "print([pictures.picture(i).getpixel((0, 0)) for i in range(len(pictures))], pictures.name(0))\n"
        "print({'torch', 'transformers', 'pyarrow'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [f"{list(range(30, 40))} a.parquet[30]", "set()"]


def test_what_is_sent_to_a_process_is_no_larger_than_the_selection(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(200), "label": [0, 1] * 100}, row_group_size=10)
    pictures = read_labeled(path)
    content = sum(len(encoded(level)) for level in range(200))
    assert content < len(pickle.dumps(pictures)) < 1.5 * content + 6000
    assert len(pickle.dumps(pictures.select([1, 2]))) < 3000
    assert len(pickle.dumps(pictures.select([1] * 250))) < 3000 + 250 * 16  # of which there is one


def test_errors_survive_pickling(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=1, dog=1))
    with pytest.raises(DataError) as caught:
        pictures.with_labels(["cat"])
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (type(caught.value), str(caught.value))


# --- What is said of them ---------------------------------------------------------------------------------------------


def test_classes_counts_and_where_they_were_found(tmp_path: Path) -> None:
    folders = read_labeled(class_folders(tmp_path / "f", cat=1, dog=2))
    assert folders.described() == f"3 pictures of 2 classes from the folders in {tmp_path}/f: cat 1, dog 2"
    assert folders.select([0]).described() == f"1 picture of 2 classes from the folders in {tmp_path}/f: cat 1, dog 0"
    assert folders.with_labels(["eel", "dog", "cat"]).described().endswith(": eel 0, dog 2, cat 1")
    several = read_labeled(json_lines(tmp_path / "a.jsonl", [["a", "b"], ["b"]]))
    assert several.described() == f"2 pictures of 2 labels from column 'label' of {tmp_path}/a.jsonl: a 1, b 2"
    values = read_labeled(json_lines(tmp_path / "b.jsonl", [0.5, 2]))
    assert values.described() == f"2 pictures with values of label, from column 'label' of {tmp_path}/b.jsonl"
    path = put(tmp_path / "c.csv", "path,x,y\npictures/0.png,0,1\npictures/1.png,1,1\n")
    assert f"from columns 'x', 'y' of {tmp_path}/c.csv: x 1, y 2" in read_labeled(path, label_column="x,y").described()


def test_both_parts_of_a_split_are_described(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=2)
    class_folders(tmp_path / "val", cat=1, dog=0)
    assert read_splits(tmp_path).described() == (
        f"training on 4 pictures of 2 classes from the folders in {tmp_path}/train: cat 2, dog 2",
        f"validating with 1 picture of 2 classes from the folders in {tmp_path}/val: cat 1, dog 0",
    )


def test_many_classes_and_places_are_a_short_line(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        class_folders(tmp_path / split, **{f"{'class' * 20}{number:04}": 1 + number % 2 for number in range(30)})
    line = read_labeled(tmp_path).described()
    assert len(line) < 500
    assert line.endswith("and 24 more; 3 to 6 pictures each")
    assert f" and the folders in {tmp_path}/train and 1 more place: " in line


def test_of_many_places_two_are_named_and_the_others_counted(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part in "abcd":
        pq.write_table(pa.table({"image": [b"", b""], "label": ["x", "y"]}), tmp_path / f"{part}.parquet")
    line = read_labeled(tmp_path).described()
    assert f"/a.parquet and column 'label' of {tmp_path}/b.parquet and 2 more places: " in line


def test_the_first_pictures_that_cannot_be_read_are_told_and_then_their_number() -> None:
    few = Unreadable(9)
    assert [few.add(f"{number}.png: is empty") for number in range(5)] == [
        f"{number}.png: is empty" for number in range(5)
    ]
    assert few.rest() is None
    many = Unreadable(1000)
    told = [many.add(f"a: {number}.png: no such file") for number in range(700)]
    assert [line for line in told if line] == [f"a: {number}.png: no such file" for number in range(5)]
    assert many.rest() == "700 of 1,000 pictures cannot be read, all because: no such file"
    many.add("b.png: is empty")
    assert many.rest() == "701 of 1,000 pictures cannot be read, 700 because: no such file"
    assert many.count == 701


def test_pipes_that_a_table_names_are_not_waited_for(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder").mkdir()
    path = put(tmp_path / "a.csv", f"path,label\n{names[0]},a\nfolder,a\n")
    assert find_unreadable(read_labeled(path)) == [(1, f"{tmp_path}/folder: is a folder, not a picture")]
    path = put(tmp_path / "a.csv", f"path,label\n{names[0]},a\npipe.png,b\n/dev/zero,a\n")
    read = read_labeled(path)
    reason = "is a pipe, socket or device, not a picture"
    assert find_unreadable(read) == [(1, f"{tmp_path}/pipe.png: {reason}"), (2, f"/dev/zero: {reason}")]
    sources = PictureSources(read)
    assert sources[0] == (read.name(0), read.name(0))
    assert [name for name, _ in sources] == [read.name(index) for index in range(3)]
    for beyond in (3, -1):
        with pytest.raises(IndexError):
            sources[beyond]
    assert str(sources[1][1]) == f"{tmp_path}/pipe.png: {reason}"
    with pytest.raises(ImageReadError):
        read.source(1)


def test_of_many_classes_the_first_are_described_and_the_range_of_all() -> None:
    counts = [1, 9, *[4] * 11]
    targets = np.repeat(np.arange(13), counts)
    store = Files.of("", (f"{number}.png" for number in range(len(targets))))
    found = LabeledPictures(store, SINGLE_LABEL, [f"c{number}" for number in range(13)], targets, origin="x")
    assert (found.labels[:2], found.notes, bool(found.passed)) == (("c0", "c1"), (), False)
    assert found.described() == (
        "54 pictures of 13 classes from x: c0 1, c1 9, c2 4, c3 4, c4 4, c5 4, and 7 more; 1 to 9 pictures each"
    )
    assert found.without(["c1"]).described().endswith(": c0 1, " + ", ".join(f"c{number} 4" for number in range(2, 13)))
    assert found.select(targets < 2).with_labels(["c0", "c1"]).described() == (
        "10 pictures of 2 classes from x: c0 1, c1 9"
    )


def test_large_numbers_are_told_with_commas() -> None:
    counts = [1_200, 0, *[1] * 1_398]
    targets = np.repeat(np.arange(1_400), counts)
    store = Files.of("", ("0.png" for _ in targets))
    found = LabeledPictures(store, SINGLE_LABEL, [f"c{number}" for number in range(1_400)], targets)
    assert found.described() == (
        "2,598 pictures of 1,400 classes from memory: c0 1,200, c1 0, c2 1, c3 1, c4 1, c5 1, and 1,394 more; 0 to "
        "1,200 pictures each"
    )
    long = LabeledPictures(store, SINGLE_LABEL, ["a" * 24, "b" * 25], targets % 2, origin="x")
    assert long.described().endswith(f": {'a' * 24} 1,899, {'b' * 10} ... {'b' * 9} 699")
    assert repr(found) == "<LabeledPictures: 2598 pictures, single_label_classification, 1400 labels>"


def test_bare_numbers_are_positions_of_labels_once(tmp_path: Path) -> None:
    numbers = read_labeled(csv_file(tmp_path / "a.csv", [0, 1, 2, 1]))
    named = numbers.with_labels(["cat", "dog", "eel"])
    assert (named.labels, named.targets.tolist()) == (("cat", "dog", "eel"), [0, 1, 2, 1])
    with pytest.raises(UnexpectedLabels) as caught:
        named.with_labels(["cat", "fox", "gnu"])
    assert caught.value.labels == ("dog", "eel")
    with pytest.raises(UnexpectedLabels):  # of which the others are no longer all
        numbers.without(["1"]).with_labels(["cat", "dog", "eel"])
