"""Messages between the server and its workers, and the memory that they share."""

from __future__ import annotations

import os
import socket
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vit_hybrid.serve.channel import Unpacking, packed, received
from vit_hybrid.serve.memory import Places, shared_memory

messages = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=300) | st.integers()), max_size=5)


@hypothesis.given(messages, st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(sent: list[tuple[Any, ...]], data: Any) -> None:
    stream = b"".join(packed(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    unpacking = Unpacking()
    found = [
        message
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for message in unpacking.feed(stream[start:end])
    ]
    assert found == sent


def test_they_end_with_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(packed(("a", 1)) + packed(("b",)))
        ours.close()
        assert list(received(theirs)) == [("a", 1), ("b",)]


def test_two_that_map_the_memory_see_the_same() -> None:
    descriptor = shared_memory()
    here = Places(descriptor, 3, (2, 4, 4))
    there = Places(os.dup(descriptor), 3, (2, 4, 4))
    os.close(descriptor)
    here.pixels[1] = 0.25
    assert there.pixels.shape == (3, 2, 4, 4)
    np.testing.assert_array_equal(there.pixels.sum((1, 2, 3)), [0, 8, 0])


def test_memory_grows_to_what_it_is_to_hold() -> None:
    descriptor = shared_memory()
    few, many = (Places(descriptor, count, (1, 2, 2)) for count in (1, 5))
    os.close(descriptor)
    many.pixels[:] = 0.5
    assert (few.pixels.sum(), many.pixels.sum()) == (2, 10)


def test_where_there_is_no_such_memory_a_file_without_a_name_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = shared_memory()
    assert os.fstat(descriptor).st_nlink == 0
    Places(descriptor, 1, (1, 1, 1)).pixels[:] = 1
    os.close(descriptor)


def test_a_batch_has_its_pictures_in_the_order_that_was_asked_for() -> None:
    descriptor = shared_memory()
    places = Places(descriptor, 4, (1, 1, 1))
    os.close(descriptor)
    places.pixels[:, 0, 0, 0] = [0, 1, 2, 3]
    for asked in ([2, 0, 3], [1, 2], [3], [3, 2, 1, 0], [0, 2, 1, 3]):
        assert places.batch(asked)[:, 0, 0, 0].tolist() == asked
