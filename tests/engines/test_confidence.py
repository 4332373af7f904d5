"""The confidence beside a model's weights comes with the engine that runs it, and with a bundle."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_confidence import calibrated_copy, fitted

from vit_hybrid import Predictor, engines
from vit_hybrid.checkpoints import opening
from vit_hybrid.checkpoints.calibrated import place_of, write_calibrated
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.checkpoints.kinds import Own
from vit_hybrid.engines.ways import Way
from vit_hybrid.export import export
from vit_hybrid.files import MARK
from vit_hybrid.inference import predictor as predictor_module
from vit_hybrid.outputs import confidence
from vit_hybrid.outputs.confidence import Judgment
from vit_hybrid.outputs.problems import labels_of
from vit_hybrid.outputs.ranking import OutputRecord
from vit_hybrid.outputs.strangers import pixel_statistics


@pytest.fixture
def calibrated(tiny_folder: Path, tmp_path: Path) -> Path:
    return calibrated_copy(tiny_folder, tmp_path / "calibrated")


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_features_come_only_where_it_needs_them(engine: str, calibrated: Path, tiny_folder: Path) -> None:
    loaded = engines.load(calibrated, engine=engine, device="cpu", output="auto")
    assert loaded.spec.confidence is not None
    assert loaded.spec.output == "all"
    plain = engines.load(tiny_folder, engine=engine, device="cpu", output="auto")
    assert (plain.spec.confidence, plain.spec.output) == (None, "logits")
    asked = engines.load(calibrated, engine=engine, device="cpu")
    assert asked.spec.output == "logits"
    assert asked.spec.confidence is not None
    assert not asked.spec.confidence.needs_features
    if engine == "torch":  # which converts nothing for it
        both = engines.load(calibrated, engine=engine, device="cpu", output="both")  # of which the token is no part
        assert both.spec.confidence is not None
        assert not both.spec.confidence.needs_features
    unread = engines.load(calibrated, engine=engine, device="cpu", output="auto", confidence=False)
    assert (unread.spec.confidence, unread.spec.output) == (None, "logits")
    confidence.write(fitted(calibrated, with_strangers=False), calibrated)
    without = engines.load(calibrated, engine=engine, device="cpu", output="auto")
    assert without.spec.confidence is not None
    assert without.spec.output == "logits"


def test_torch_gives_features_in_the_pass_of_the_logits(tiny_model: Any) -> None:
    """The backbone runs once for each batch, and so does every layer, whatever is given."""
    calls: list[str] = []
    parts = {"backbone": tiny_model.vit.embeddings.patch_embeddings.backbone, "head": tiny_model.classifier}
    parts |= {f"layer {number}": layer for number, layer in enumerate(tiny_model.vit.encoder.layer)}
    pixels = np.zeros((3, 3, 32, 32), np.float32)
    counts = {}
    for output in ("logits", "all"):
        engine = engines.load(tiny_model, engine="torch", device="cpu", output=output)
        hooks = [part.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, part in parts.items()]
        engine.run(pixels)
        counts[output] = sorted(calls)
        calls.clear()
        for hook in hooks:
            hook.remove()
    assert {"backbone", "head", "layer 0"} <= set(counts["logits"])
    assert counts["all"] == counts["logits"]
    assert len(counts["all"]) == len(set(counts["all"]))


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_programs_that_give_features_have_no_second_pass(
    engine: str, calibrated: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """They hold as many convolutions and products as those of the logits alone."""
    found, outputs = [], []
    for number, model in enumerate((tiny_folder, calibrated)):
        features = model == calibrated and engine == "onnx"  # which changes nothing where all is given
        outputs.append(export(model, tmp_path / f"bundle-{number}", engine=engine, features=features).output)
        assert (tmp_path / f"bundle-{number}" / "confidence.json").is_file() is (model == calibrated)
        found.append(heavy_operations(engine, tmp_path / f"bundle-{number}"))
    assert outputs == ["logits", "all"]
    plain, with_features = found
    assert plain["convolutions"] >= 7
    assert plain["products"] >= 12
    assert with_features == plain


def heavy_operations(engine: str, folder: Path) -> dict[str, int]:
    """How many convolutions and matrix products a program has."""
    if engine == "openvino":
        import openvino

        kinds = [node.get_type_name() for node in openvino.Core().read_model(next(folder.glob("*.xml"))).get_ops()]
    else:
        import onnx

        kinds = [node.op_type for node in onnx.load(next(folder.glob("*.onnx"))).graph.node]
    return {
        "convolutions": sum("Conv" in kind for kind in kinds),
        "products": sum(kind in ("MatMul", "Gemm", "FullyConnected") for kind in kinds),
    }


@pytest.mark.parametrize("with_strangers", [True, False])
def test_of_several_pictures_each_is_told_what_it_is_alone(calibrated: Path, with_strangers: bool) -> None:
    confidence.write(fitted(calibrated, with_strangers), calibrated)
    predictor = Predictor.from_pretrained(calibrated, engine="torch", device="cpu")
    pixels = np.random.default_rng(1).normal(size=(7, 3, 32, 32)).astype(np.float32)
    outputs = predictor.engine.run(pixels)  # type: ignore[attr-defined]  # one that was loaded by name
    records = [OutputRecord(path=str(number), logits=logits) for number, logits in enumerate(outputs.logits)]
    if with_strangers:
        for record, token, statistics in zip(records, outputs.token, pixel_statistics(pixels), strict=True):
            record["token"], record["statistics"] = token, statistics
    tops = [None, 1, 2, 3, None, 2, 1]
    for several in (records, records[3:], records[:1], []):
        found = predictor.said_of_each(several, tops[: len(several)], 0.8, 0.3)
        assert found == [
            predictor.said(one, top_k, 0.8, 0.3) for one, top_k in zip(several, tops[: len(several)], strict=True)
        ]
    assert with_strangers == ("familiarity" in predictor.said(records[0]))


def test_false_alarms_are_below_the_share_that_was_asked_for(tiny_folder: Path) -> None:
    predictor = Predictor.from_pretrained(tiny_folder, engine="torch", device="cpu")
    found = OutputRecord(path="a.jpg", logits=np.zeros(3, np.float32))
    for familiarity, is_none in ((0.049, True), (0.05, False), (0.051, False)):
        judged: Any = SimpleNamespace(
            judge=lambda *_, share=familiarity: [Judgment((2, 0), share)], calibrated=lambda logits: logits
        )
        predictor.confidence = judged
        said = predictor.said(found, top_k=1, coverage=0.8, false_alarms=0.05)
        assert (said["none_of_these"], said["familiarity"]) == (is_none, familiarity)
        assert (said["set"], said["coverage"]) == (["LABEL_2", "LABEL_0"], 0.8)


@pytest.mark.parametrize(
    ("fitted_in", "runs_in", "said"),
    [
        (("f32", None), ("f32", None), None),
        (("f32", 2), ("f32", 2), None),
        (("f32", None), ("bf16", None), "fitted in f32, and this runs in bf16; calibrate"),
        (("f32", 2), ("f32", None), "fitted in f32 with 2 tokens merged per layer, and this runs in f32; calibrate"),
        (("int8", 1), ("int8", 3), "in int8 with 1 tokens merged per layer, and this runs in int8 with 3 tokens"),
    ],
)
def test_what_computes_otherwise_than_when_it_was_fitted_is_told(
    fitted_in: tuple[str, int | None], runs_in: tuple[str, int | None], said: str | None
) -> None:
    found: Any = SimpleNamespace(precision=fitted_in[0], token_merging=fitted_in[1])
    engine: Any = SimpleNamespace(precision=runs_in[0], spec=SimpleNamespace(token_merging=runs_in[1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor_module._warn_of_another_precision("model", found, engine)
    assert [said in str(warning.message) for warning in caught if said] == [True] * (said is not None)
    assert len(caught) == (said is not None)


def test_of_other_labels(calibrated: Path) -> None:
    confidence.write(fitted(calibrated, labels=("x", "y", "z")), calibrated)
    with pytest.raises(ModelLoadError, match="for other labels"):
        engines.load(calibrated, engine="torch", device="cpu", output="auto")


def test_a_bundle_carries_it(calibrated: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(calibrated, bundle, engine="torch")
    loaded = engines.load(bundle, output="auto")
    assert loaded.spec.output == "all"
    assert loaded.spec.confidence is not None
    threads = torch.get_num_threads()
    assert engines.load(bundle, threads=threads).way == Way("torch", "f32", threads=threads)
    expected = confidence.read(calibrated)
    np.testing.assert_array_equal(loaded.spec.confidence.sets["lac"].scores, expected.sets["lac"].scores)
    pixels = np.random.default_rng(0).normal(size=(2, 3, *loaded.spec.image_size)).astype(np.float32)
    found = loaded.run(pixels)
    assert found.token is not None


def test_written_beside_the_weights_or_with_a_copy(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text("its card")
    (folder / "notes.txt").write_text("somebody's")
    source, found = opening.open(folder), fitted(folder)
    assert write_calibrated(source, found) == folder
    assert source.confidence() is not None
    assert write_calibrated(source, found, tmp_path / "copy") == tmp_path / "copy"
    assert place_of(source, "") is None  # which names a place, and not the one beside the weights
    left = {path.name for path in folder.iterdir()} - {path.name for path in (tmp_path / "copy").iterdir()}
    assert (left, (tmp_path / "copy" / "README.md").read_text()) == ({"notes.txt"}, "its card")
    assert (tmp_path / "copy" / MARK).is_file()
    copy = opening.open(tmp_path / "copy")
    assert copy.confidence() is not None
    assert copy.provenance()["weights_sha256"] == source.provenance()["weights_sha256"]
    with pytest.raises(FileExistsError):
        write_calibrated(source, found, tmp_path / "copy")


def test_a_copy_of_a_model_in_shards_has_all_of_them(tiny_model: Any, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder, max_shard_size="20KB")
    shutil.copy(tiny_folder / "preprocessor_config.json", folder)
    names = {path.name for path in folder.iterdir()}
    assert len(names) > 4
    source = opening.open(folder)
    write_calibrated(source, fitted(tiny_folder), tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} >= names
    copy = opening.open(tmp_path / "copy")
    assert copy.provenance()["weights_sha256"] == source.provenance()["weights_sha256"]
    assert copy.confidence() is not None


def test_a_file_of_another_code_base_becomes_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    from vit_hybrid.checkpoints import timm

    model = opening.open(tiny_folder).classifier()
    timm.save(model, tmp_path / "model.pth", approximate=True)
    source = opening.open(tmp_path / "model.pth")
    with pytest.raises(ModelLoadError, match="with --output"):
        place_of(source, None)
    write_calibrated(source, fitted(tiny_folder), tmp_path / "copy")
    copy = opening.open(tmp_path / "copy")
    assert copy.confidence() is not None  # whose checksum is that of the folder's weights
    assert copy.preprocessing == source.preprocessing is not None
    loaded = engines.load(tmp_path / "copy", engine="torch", device="cpu")
    assert loaded.spec.labels == labels_of(copy.config)


@pytest.mark.parametrize("name", ["vit-hybrid-tiny-imagenet"])
def test_nothing_is_written_into_the_package(name: str) -> None:
    with pytest.raises(ModelLoadError, match="no folder of yours"):
        place_of(opening.open(name), None)
    with pytest.raises(ModelLoadError, match=r"^owner/name: there is no folder of yours .* with --output\.$"):
        place_of(Own("owner/name", "owner/name", {}), None)  # which lies on the hub
