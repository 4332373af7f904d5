"""What a checkpoint that does not fit is told, and what becomes of one that is to take other images or classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vit_hybrid.checkpoints.adapting import adapt
from vit_hybrid.checkpoints.matching import NAMES_SHOWN, CheckpointError, refused, require_match
from vit_hybrid.files import replacing

EXPECTED = {"a": (2, 3), "b": (4,), "c": (None, 5)}


@pytest.mark.parametrize(
    ("approximate", "found"),
    [
        (True, []),
        (False, ["layer_norm_eps", "hidden_act"]),
        ("epsilons", ["layer_norm_eps", "hidden_act"]),
    ],
)
def test_other_numerics_are_written_where_all_that_differ_may(approximate: Any, found: list[str]) -> None:
    assert refused(["layer_norm_eps", "hidden_act"], approximate) == found
    assert refused(["layer_norm_eps", "group_norm_eps"], approximate) == (
        [] if approximate else ["layer_norm_eps", "group_norm_eps"]
    )


class TestMatching:
    def test_what_fits_passes(self) -> None:
        require_match(EXPECTED, {"b": (4,), "a": (2, 3), "c": (9, 5)}, "file")

    def test_one_message_lists_all_three(self) -> None:
        with pytest.raises(CheckpointError) as caught:
            require_match(EXPECTED, {"a": (3, 2), "c": (1, 5), "x": (7, 7)}, "w.npz", reason="no luck", advice="Go.")
        assert str(caught.value) == (
            "w.npz: no luck. Missing (1): b (4). Unexpected (1): x (7, 7). "
            "Misfitting (1): a is (3, 2), expected (2, 3). Go."
        )
        assert isinstance(caught.value, ValueError)
        assert (caught.value.missing, caught.value.unexpected, caught.value.misfitting) == (["b"], ["x"], ["a"])

    @pytest.mark.parametrize("shape", [(5,), (2, 3, 1), (2, 2), (0, 3)])
    def test_other_shapes_misfit(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(CheckpointError, match="Misfitting"):
            require_match({"a": (2, 3)}, {"a": shape}, "file")

    def test_an_unknown_side_is_never_0(self) -> None:
        with pytest.raises(CheckpointError, match=r"c is \(0, 5\), expected \(\?, 5\)"):
            require_match({"c": (None, 5)}, {"c": (0, 5)}, "file")

    def test_long_lists_are_cut_in_the_message_alone(self) -> None:
        names = [f"w{number}" for number in range(NAMES_SHOWN + 3)]
        with pytest.raises(CheckpointError) as caught:
            require_match(dict.fromkeys(names, (1,)), {}, "file")
        assert f"Missing ({NAMES_SHOWN + 3})" in str(caught.value)
        assert f"{names[NAMES_SHOWN - 1]} (1); and 3 more." in str(caught.value)
        assert names[NAMES_SHOWN] not in str(caught.value)
        assert caught.value.missing == names
        with pytest.raises(CheckpointError, match=rf"{names[NAMES_SHOWN - 1]} \(1\)\.$"):
            require_match(dict.fromkeys(names[:NAMES_SHOWN], (1,)), {}, "file")


class TestAdapting:
    def test_nothing_asked_nothing_changed(self, tiny_model: Any) -> None:
        before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
        assert adapt(tiny_model) is tiny_model
        assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())

    @pytest.mark.parametrize("positions", ["bilinear-jax", "bilinear", "bicubic"])
    def test_a_rectangle_and_another_head(self, tiny_model: Any, positions: str) -> None:
        class_position = tiny_model.vit.embeddings.position_embeddings[:, :1].clone()
        adapt(tiny_model, (40, 64), 5, positions, antialias=True)
        assert tiny_model.vit.embeddings.position_embeddings.shape == (1, 1 + 5 * 8, 16)
        assert torch.equal(tiny_model.vit.embeddings.position_embeddings[:, :1], class_position)
        assert list(tiny_model.config.image_size) == [40, 64]
        assert (tiny_model.config.num_labels, len(tiny_model.config.id2label)) == (5, 5)
        assert not tiny_model.classifier.weight.any()
        assert tiny_model(torch.zeros(1, 3, 40, 64)).logits.shape == (1, 5)

    def test_a_pair_of_equal_sides_is_one_number(self, tiny_model: Any) -> None:
        assert adapt(tiny_model, (64, 64)).config.image_size == 64

    def test_as_many_classes_as_before_are_new_too(self, tiny_model: Any, caplog: pytest.LogCaptureFixture) -> None:
        assert tiny_model.classifier.weight.any()
        adapt(tiny_model, num_labels=3)
        assert not tiny_model.classifier.weight.any()
        assert "3 classes" in caplog.text

    def test_unknown_ways_of_resizing_are_refused(self, tiny_model: Any) -> None:
        with pytest.raises(ValueError, match="nearest"):
            adapt(tiny_model, 64, positions="nearest")


class TestReplacing:
    def test_the_file_appears_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")
        with replacing(target) as temporary:
            temporary.write_text("new")
            assert target.read_text() == "old"
        assert target.read_text() == "new"
        assert list(tmp_path.iterdir()) == [target]

    def test_an_error_leaves_what_was_there(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")

        def write_half() -> None:
            with replacing(target) as temporary:
                temporary.write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_half()
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]
