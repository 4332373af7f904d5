"""What several processes of a run tell each other; how they train together is tried in test_distributed.py."""

from __future__ import annotations

from typing import Any

import pytest
from torch import distributed

from vit_hybrid.train import processes
from vit_hybrid.train.processes import PeerLost


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), PeerLost),
        (distributed.DistNetworkError("the connection was reset"), PeerLost),
        (ValueError("of another kind"), ValueError),
    ],
)
def test_only_errors_of_the_connection_say_that_another_process_has_ended(
    error: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr("accelerate.PartialState", lambda **how: None)

    def fail() -> Any:
        with processes.joined(True):
            raise error

    with pytest.raises(told) as caught:
        fail()
    assert type(caught.value) is told
    assert (caught.value is error) == (told is not PeerLost)
