"""What a recipe's fields become of a model and of what trains it, without a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_training import ARCHITECTURE, FIELDS, make_pictures

from vit_hybrid.data import read_splits
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.train import starting
from vit_hybrid.train.recipe import Recipe, build_recipe
from vit_hybrid.train.starting import starting_model, starting_trainer

RATES = {"dropout": 0.1, "attention_dropout": 0.2, "drop_path": 0.3}


@pytest.mark.parametrize("is_saved", [False, True])
def test_each_rate_is_that_of_its_own_part(is_saved: bool, tiny_folder: Path, tmp_path: Path) -> None:
    start: dict[str, Any] = {"architecture": None, "model": str(tiny_folder)} if is_saved else {}
    recipe = build_recipe({**FIELDS, **start, **RATES})
    pictures = read_splits(make_pictures(tmp_path, 2, 1)).train
    model, *_ = starting_model(recipe, pictures, lambda line: None)
    layer = model.vit.encoder.layer[-1]
    assert model.vit.embeddings.dropout.p == layer.output.dropout.p == layer.attention.output.dropout.p == 0.1
    assert layer.attention.attention.dropout_prob == 0.2
    assert layer.drop_path_rate == pytest.approx(0.3)


class Enough(Exception):
    pass


def test_what_is_done_to_batches_is_what_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def take(**fields: Any) -> Any:
        given.update(fields)
        raise Enough

    fields: dict[str, Any] = {"color": 0.3, "randaugment_layers": 2, "randaugment_magnitude": 7.0, "erase": 0.4}
    fields |= {"erase_scale": (0.05, 0.2), "mixup": 0.6, "cutmix": 0.7}
    monkeypatch.setattr(starting, "BatchAugmentation", take)
    split = read_splits(make_pictures(tmp_path, 2, 1))
    run: Any = SimpleNamespace(recipe=Recipe(architecture=ARCHITECTURE, **fields))
    nothing: Any = None
    how = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 1 / 128}
    for is_normalized in (True, False):
        preprocessing = Preprocessing.from_dict({**how, "do_normalize": is_normalized, "do_rescale": is_normalized})
        with pytest.raises(Enough):
            starting_trainer(run, split, nothing, nothing, preprocessing, nothing, None)
        of_levels = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1 / 128) if is_normalized else (0.0, 1.0, 1.0)
        assert (given["mean"], given["std"], given["rescale_factor"]) == of_levels
    assert {name: given[name] for name in fields} == fields
    assert (given["num_labels"], given["problem_type"]) == (3, "single_label_classification")
