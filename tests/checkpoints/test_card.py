"""The card that lies beside a model's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_hybrid.assets import BUILT_IN_FOLDER
from vit_hybrid.checkpoints.files import CARD_FILE, MOST_OF_A_CARD, read_card
from vit_hybrid.images.reading import ImageReadError, encoded


def test_what_a_card_says(tmp_path: Path) -> None:
    assert read_card(str(tmp_path)) is None
    card = tmp_path / CARD_FILE
    card.write_bytes(b"# It knows caf\xc3\xa9s, and \xff")
    assert read_card(str(tmp_path)) == "# It knows cafés, and \ufffd"
    assert read_card(str(card)) is None  # a model that is a file has no folder of its own
    card.write_text("")
    assert read_card(str(tmp_path)) is None
    card.write_text("#" + "x" * MOST_OF_A_CARD)
    assert read_card(str(tmp_path)) == "#" + "x" * (MOST_OF_A_CARD - 1)
    assert (read_card(str(BUILT_IN_FOLDER)) or "").startswith("---\n")


def test_a_picture_is_read_without_being_decoded(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"no picture")
    assert encoded(file) == b"no picture"
    assert encoded(file, most=2) == b"no"
    for path, words in ((tmp_path / "b.jpg", "no such file"), (tmp_path, "is a folder"), (Path("/dev/null"), "device")):
        with pytest.raises(ImageReadError, match=words) as error:
            encoded(path, "mine")
        assert error.value.name == "mine"
