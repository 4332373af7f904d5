"""What a run has settled, line by line: its settings, each shard before its first picture, what became of it.

Lines are only ever added. A line that a killed process left half written is the last one, and is cut off by the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.streams import Outline, Place
from ..errors import shown
from ..inference.shards import Receipt, Shard
from .lines import Lines

FORMAT = "vit-hybrid prediction"
FORMAT_VERSION = 1


class ManifestError(ValueError):
    """A manifest that is not there, damaged or of another kind; the message is one line."""


@dataclass
class Done:
    """What the manifest keeps of a receipt while a run goes on.

    Attributes:
        rows: Pictures.
        errors: How many could not be read.
        bytes: The size of the part.
        sha256: Its checksum.
    """

    rows: int
    errors: int
    bytes: int
    sha256: str


@dataclass
class State:
    """What the lines say together.

    Attributes:
        asked: What the run was asked to do.
        facts: What its workers state, empty while none has.
        names: Its sources.
        shards: All that are settled; `shards[number]`.
        done: What became of them, by number.
        again: The numbers of those whose failed rows were begun anew, and of which nothing came yet.
        outline: The source as far as it was looked into.
        rate: Pictures a second that a worker does, as was last measured; 0 where it was not.
        is_whole: Whether the source was gone through to its end.
        is_joined: Whether the parts have become one file.
    """

    asked: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    shards: list[Shard] = field(default_factory=list)
    done: dict[int, Done] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    outline: Outline = field(default_factory=dict)
    rate: float = 0.0
    is_whole: bool = False
    is_joined: bool = False

    @property
    def rows(self) -> int:
        """Pictures that are done."""
        return sum(one.rows for one in self.done.values())

    @property
    def errors(self) -> int:
        """Those of them that could not be read."""
        return sum(one.errors for one in self.done.values())


class Manifest:
    """The manifest of a run.

    Args:
        lines: Where it is kept.

    Attributes:
        state: What it says.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.state = State()

    def is_there(self) -> bool:
        """Whether there is one."""
        return self._lines.is_there()

    def read(self) -> State:
        """What it says.

        Raises:
            ManifestError: It is damaged, of another kind, or of a later version.
        """
        self.state = State()
        for number, line in enumerate(self._lines.read(), start=1):
            try:
                self._take(json.loads(line))
            except ManifestError:
                raise
            except (KeyError, TypeError, ValueError) as error:
                raise ManifestError(
                    f"{shown(self._lines.name)}: this is damaged in line {number}, so nobody can say what was done; "
                    "write to another place, or anew."
                ) from error
        return self.state

    def begin(self, asked: Mapping[str, Any], names: Sequence[str]) -> None:
        """Writes the first line: what is asked for, and the sources."""
        self._add({"format": FORMAT, "format_version": FORMAT_VERSION, "asked": dict(asked), "sources": list(names)})

    def state_facts(self, facts: Mapping[str, Any]) -> None:
        """Keeps what the workers state."""
        self._add({"facts": dict(facts)})

    def settle(self, shard: Shard, seen: Outline, rate: float) -> None:
        """Fixes a shard, before its first picture, with the rate by which its size was chosen."""
        line = {"shard": shard.number, "first": shard.first, "last": shard.last, "count": shard.count}
        self._add({**line, "seen": seen, "rate": round(rate, 3)})

    def begin_again(self, number: int) -> None:
        """Keeps that the part of a shard may from now on be another than its receipt says."""
        if number not in self.state.again:
            self._add({"again": number})

    def finish(self, receipt: Receipt) -> None:
        """Keeps what became of a shard."""
        said = asdict(receipt)
        self._add({"done": said.pop("shard"), **said, "seconds": round(receipt.seconds, 3)})

    def close(self, outline: Outline) -> None:
        """Keeps that the source was gone through to its end, and what it was like then."""
        known = self.state.outline
        self._add({"end": True, "seen": {name: value for name, value in outline.items() if known.get(name) != value}})

    def join(self, is_joined: bool) -> None:
        """Keeps that the parts have become one file, or are parts again."""
        self._add({"joined": is_joined})

    def stamps(self) -> dict[int, str]:
        """What the files of each shard's pictures were like, `Receipt.stamps` by number."""
        lines = map(json.loads, self._lines.read())
        return {line["done"]: line["stamps"] for line in lines if "done" in line}

    def remove(self) -> None:
        """Takes it away."""
        self._lines.remove()

    def _add(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line, separators=(",", ":"))
        self._lines.add(content.encode() + b"\n")
        self._take(json.loads(content))

    def _take(self, line: dict[str, Any]) -> None:
        state = self.state
        if "asked" in line:
            if (line["format"], line["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ManifestError(
                    f"{shown(self._lines.name)}: this is of another format than this release reads; go on with the "
                    "release that wrote it, or write to another place."
                )
            state.asked, state.names = line["asked"], tuple(line["sources"])
        elif "facts" in line:
            state.facts = line["facts"]
        elif "shard" in line:
            if line["shard"] != len(state.shards):
                raise ValueError("a shard is missing")
            state.shards.append(Shard(line["shard"], Place(*line["first"]), Place(*line["last"]), line["count"]))
            state.outline.update(line["seen"])
            state.rate, state.is_whole = line["rate"], False
        elif "done" in line:
            state.done[line["done"]] = Done(line["rows"], line["errors"], line["bytes"], line["sha256"])
            state.again.discard(line["done"])
        elif "again" in line:
            state.again.add(line["again"])
        elif "end" in line:
            state.outline.update(line["seen"])
            state.is_whole = True
        elif "joined" in line:
            state.is_joined = line["joined"]
        else:
            raise ValueError("a line says nothing that is known")


__all__ = ["Done", "Manifest", "ManifestError", "State"]
