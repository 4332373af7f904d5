"""Who takes part: engines of this package in a precision each, and the libraries that it is measured against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runtimes import ENGINES, PEER_PRECISIONS, PRECISIONS, RUNTIMES

ATTENTIONS = ("eager", "sdpa")
# Rates of matrix products are measured in f32 and bf16; a precision is held against the rate that it names here.
RATE_OF = {precision: "f32" if precision == "f32" else "bf16" for precision in PRECISIONS}

PEER_FILE = Path(__file__).with_name("peer.py")
PROBE_LIMIT = 60.0  # seconds
# What a peer is called on the command line, the library it is, and which releases of it have the model.
PEERS = {
    "legacy": ("transformers", "4.", "transformers 4.49 (any 4.x that has ViTHybrid)"),
    "timm": ("timm", "1.", "timm 1.x"),
}


@dataclass(frozen=True)
class Peer:
    """A library to be measured against, in an environment of its own.

    Attributes:
        kind: `"legacy"` or `"timm"`.
        python: The environment's interpreter.
        versions: Of that Python and the libraries in it that matter.
    """

    kind: str
    python: str
    versions: Mapping[str, str] = field(hash=False)

    @property
    def title(self) -> str:
        """The library with its version."""
        library, _, _ = PEERS[self.kind]
        return f"{library} {self.versions[library]}"


@dataclass(frozen=True)
class Contender:
    """One that takes turns.

    Attributes:
        engine: An engine of this package; None for a peer.
        precision: One of `runtimes.PRECISIONS`.
        attention: `"eager"` or `"sdpa"`; None where there is no choice, or it is left to the engine.
        compiled: Whether `torch.compile` goes over the model.
        token_merging: How many tokens each layer merges away; None for none.
        peer: The library, where it is one.
    """

    engine: str | None
    precision: str
    attention: str | None = None
    compiled: bool = False
    token_merging: int | None = None
    peer: Peer | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        title = self.peer.title if self.peer is not None else self.engine
        words = " ".join(word for word in (title, self.precision, self.attention) if word)
        extras = [
            *(["compiled"] if self.compiled else []),
            *([f"merging {self.token_merging}"] * bool(self.token_merging)),
        ]
        return ", ".join([words, *extras])

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to the model that changes what it computes or how."""
        return not self.compiled and self.token_merging is None

    def described(self) -> dict[str, Any]:
        """The fields for a report."""
        return {
            "name": self.name,
            "engine": self.peer.title if self.peer is not None else self.engine,
            "precision": self.precision,
            "attention": self.attention,
            "compiled": self.compiled,
            "token_merging": self.token_merging,
            "is_peer": self.peer is not None,
        }


def installed_engines() -> tuple[str, ...]:
    """The engines whose libraries are here."""
    return tuple(engine for engine in ENGINES if RUNTIMES[engine].is_installed())


def line_up(
    engines: Iterable[str],
    precisions: Iterable[str],
    attentions: Iterable[str],
    compiled: bool,
    token_merging: Iterable[int],
    peers: Iterable[Peer],
) -> list[Contender]:
    """All contenders in the order of their turns: each engine in each precision, and the peers last.

    torch runs with each attention; compiled, and with tokens merged, with the one that its engine picks. Peers run in
    those of the precisions that they have, and float32 in any case.
    """
    precisions, attentions, token_merging = list(precisions), list(attentions), list(token_merging)

    def own() -> Iterator[Contender]:
        for engine in engines:
            for precision in precisions:
                # torch has no int8, and to say so once is enough.
                has_choice = engine == "torch" and precision in RUNTIMES[engine].precisions
                choices = attentions if has_choice else [None]
                yield from (Contender(engine, precision, attention) for attention in choices)
                if compiled and has_choice:
                    yield Contender(engine, precision, compiled=True)
                for count in token_merging if engine != "torch" or has_choice else ():
                    yield Contender(engine, precision, token_merging=count)

    against = [
        Contender(None, precision, "sdpa", peer=peer)
        for peer in peers
        for precision in PEER_PRECISIONS
        if precision == "f32" or precision in precisions
    ]
    return list(dict.fromkeys([*own(), *against]))


def find_peer(text: str) -> Peer:
    """The peer of `legacy=PYTHON` or `timm=PYTHON`, once it is sure that this Python has the library.

    Raises:
        ValueError: If it is nothing of the kind, or the library is not there.
    """
    kind, equals, python = text.partition("=")
    if kind not in PEERS or not equals or not python:
        raise ValueError(f"--peers {text}: expected legacy=PYTHON or timm=PYTHON, PYTHON being the interpreter there")
    library, release, expected = PEERS[kind]
    python = os.path.expanduser(python)
    try:
        done = subprocess.run(
            [python, str(PEER_FILE), "--versions"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT,
            env=_without_our_settings(),
            check=True,
        )
        found = json.loads(done.stdout)
        versions = {str(name): str(version) for name, version in found.items()}
    except OSError as error:
        raise ValueError(f"--peers {text}: {python} cannot be started: {error.strerror}") from error
    except (subprocess.SubprocessError, ValueError, AttributeError) as error:
        raise ValueError(f"--peers {text}: {python} is no Python 3.9 or newer that answers") from error
    if library not in versions:
        raise ValueError(f"--peers {text}: that Python has no {library}; expected {expected}")
    if not versions[library].startswith(release):
        raise ValueError(f"--peers {text}: that Python has {library} {versions[library]}; expected {expected}")
    if "torch" not in versions:
        raise ValueError(f"--peers {text}: that Python has {library}, but no torch, which it needs")
    return Peer(kind, python, versions)


def command(contender: Contender) -> list[str]:
    """What its process is started as."""
    if contender.peer is not None:
        return [contender.peer.python, str(PEER_FILE)]
    return worker_command()


def worker_command() -> list[str]:
    """What a process of this package is started as; `-P` keeps it from importing what lies in the current folder."""
    return [sys.executable, "-P", "-m", "vit_hybrid.benchmark.worker"]


def _without_our_settings() -> dict[str, str]:
    from .processes import environment

    return environment(1, foreign=True)


__all__ = [
    "ATTENTIONS",
    "PEERS",
    "RATE_OF",
    "Contender",
    "Peer",
    "command",
    "find_peer",
    "installed_engines",
    "line_up",
    "worker_command",
]
