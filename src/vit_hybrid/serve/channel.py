"""How the server and its workers talk: pickled messages over a pair of sockets. Standard library only."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any

LENGTH = struct.Struct("<I")
CHUNK = 1 << 16


def packed(message: tuple[Any, ...]) -> bytes:
    """A message as it goes over the socket."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(content)) + content


class Unpacking:
    """Makes messages again of what comes out of the socket, in whatever pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """The messages that are complete with these bytes."""
        self._rest += data
        while len(self._rest) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) < end:
                return
            message = pickle.loads(self._rest[LENGTH.size : end])
            del self._rest[:end]
            yield message


def received(connection: socket.socket) -> Iterator[tuple[Any, ...]]:
    """The messages that come out of a socket, waited for, until the other end is closed."""
    unpacking = Unpacking()
    while data := connection.recv(CHUNK):
        yield from unpacking.feed(data)


__all__ = ["Unpacking", "packed", "received"]
