from __future__ import annotations

from types import SimpleNamespace

import tiny_hybrid

from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL, labels_of, problem_type_of


def test_labels_stand_in_the_order_of_the_logits() -> None:
    config = tiny_hybrid.tiny_config(id2label={2: "c", 0: "a", 1: "b"}, label2id={"a": 0, "b": 1, "c": 2})
    assert labels_of(config) == ("a", "b", "c")
    assert labels_of(tiny_hybrid.tiny_config(num_labels=2)) == ("LABEL_0", "LABEL_1")
    assert labels_of(tiny_hybrid.tiny_config(num_labels=0)) == ()
    assert labels_of(SimpleNamespace(id2label=None, num_labels=2)) == ("LABEL_0", "LABEL_1")
    assert labels_of(SimpleNamespace(id2label={1: 7}, num_labels=2)) == ("LABEL_0", "7")


def test_one_output_is_a_value_unless_the_configuration_says_otherwise() -> None:
    assert problem_type_of(tiny_hybrid.tiny_config(num_labels=1)) == REGRESSION
    assert problem_type_of(tiny_hybrid.tiny_config(num_labels=3)) == SINGLE_LABEL
    assert problem_type_of(tiny_hybrid.tiny_config(num_labels=1, problem_type=MULTI_LABEL)) == MULTI_LABEL
