"""The server as people run it: a process that answers over the loopback as `classify` does."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from serving import Answer, multipart, photo, running

from vit_hybrid import Predictor, engines
from vit_hybrid.engines.ways import Way

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")


def probabilities(answer: Answer) -> list[dict[str, float]]:
    assert answer.status == 200, answer
    return [{one["label"]: one["probability"] for one in picture["predictions"]} for picture in answer.json["pictures"]]


def test_answers_as_classify_does_whoever_shares_the_batch(tiny_folder: Path) -> None:
    pictures = [photo(seed) for seed in range(12)]
    predictor = Predictor.from_pretrained(tiny_folder, engine="torch", device="cpu")
    expected = [{one["label"]: one["probability"] for one in predictor(picture)} for picture in pictures]
    found: dict[int, dict[str, float]] = {}

    with running(str(tiny_folder), "--engine", "torch", "--device", "cpu", "--threads", "1") as server:

        def ask(position: int) -> None:
            [found[position]] = probabilities(server.post("/v1/classify", pictures[position]))

        together = probabilities(server.post("/v1/classify", *multipart(pictures)))
        threads = [threading.Thread(target=ask, args=(position,)) for position in range(len(pictures))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        card = server.get("/v1/model").json
        assert card["name"] == tiny_folder.name
        assert card["way"].pop("name") == Way(**card["way"]).name
        vectors = [one["embedding"] for one in server.post("/v1/embed", *multipart(pictures)).json["pictures"]]
    engine = engines.load(tiny_folder, engine="torch", device="cpu", output="features")
    features = engine.run(np.stack([predictor.streaming.preparing(picture) for picture in pictures])).features
    np.testing.assert_allclose(vectors, features, atol=1e-5)
    for position, one in enumerate(expected):
        assert together[position] == pytest.approx(one, abs=1e-5)
        assert found[position] == pytest.approx(one, abs=1e-5)
