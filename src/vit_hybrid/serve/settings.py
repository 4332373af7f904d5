"""What can be set of the server, and what it is where nobody sets it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

# How many batches wait for each engine before requests are refused: whoever is let in is answered within two batches
# that wait, the one that runs, and its own.
BATCHES_WAITING = 2
MEGABYTE = 1 << 20
# Decoded, 50 million pixels are 150 megabytes, and several threads decode.
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Settings:
    """How the server listens, what it takes, and how it ends.

    Attributes:
        host: The address to listen on.
        port: The port; 0 for any that is free.
        workers: Processes that run the model, an engine each.
        max_wait_ms: Milliseconds that an idle engine waits for a batch to fill.
        max_queue: Pictures that wait at once, with those whose answers are written while their engine is at the next
            batch; None for two batches for each worker.
        max_body_mb: Megabytes (1024 x 1024 bytes) of one request's body.
        max_buffered_mb: Megabytes of the bodies of all requests together.
        max_files: Pictures in one request.
        deadline: Seconds from a request's last header to its answer.
        header_timeout: Seconds in which a request's headers have to come.
        body_timeout: Seconds in which its body has to come, and the answer has to be taken.
        idle_timeout: Seconds that a connection may stay open between two requests.
        max_connections: Connections that are open at once.
        batch_timeout: Seconds after which an engine that has not answered is held to be stuck.
        api_key_file: The file of the keys that requests need; None where they need none.
        quota: Pictures that each key may send in a minute, where its line says nothing else; None for any number.
        cors_origins: Origins whose pages may read the answers.
        drain_delay: Seconds that requests are still taken after SIGTERM, while `/readyz` fails already.
        grace: Seconds that what was accepted has to be finished in after that.
        access_log_rate: Lines a second of the access log, for each kind of outcome.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_wait_ms: float = 0.0
    max_queue: int | None = None
    max_body_mb: float = 20.0
    max_buffered_mb: float = 256.0
    max_files: int = 16
    deadline: float = 30.0
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 60.0
    max_connections: int = 1024
    batch_timeout: float = 120.0
    api_key_file: str | None = None
    quota: int | None = None
    cors_origins: tuple[str, ...] = ()
    drain_delay: float = 5.0
    grace: float = 20.0
    access_log_rate: int = 10

    @property
    def max_body(self) -> int:
        """Bytes of one request's body."""
        return int(self.max_body_mb * MEGABYTE)

    @property
    def max_buffered(self) -> int:
        """Bytes of the bodies of all requests together."""
        return int(self.max_buffered_mb * MEGABYTE)

    def queue_for(self, max_batch: int) -> int:
        """Pictures that wait at once."""
        return BATCHES_WAITING * max_batch * self.workers if self.max_queue is None else self.max_queue


__all__ = ["BATCHES_WAITING", "MAX_PIXELS", "Settings"]
