"""How fast an index is searched, and how many of the nearest its faiss index finds.

    python benchmarks/search.py [--rows 100000] [--dimension 768] [--drawn 1000000] [--noise 0.3] [--graph]

First, a query's product over `--rows` random vectors of `--dimension`, mapped and warm, alone and as `Index.nearest`
has it. Then an index of `--drawn` vectors around real embeddings, which the model in the package makes of CIFAR-10's
test pictures (`cifar10/test.parquet` in the folder named by VIT_HYBRID_DATA, `../shared/data` where that is not set).
Each drawn vector is one of these, chosen at random and scaled to length 1, with Gaussian noise of length `--noise`
added. The recall at 10 is told as it is measured when the faiss index is built, of rows of the index as queries, and of
a thousand new vectors drawn likewise; a search by `--graph` (HNSW over vectors in 8 bits) is built and measured beside
it. Building is told in processor time, which others on the machine do not lengthen; the machine's load stands with the
rest. Prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.inference.features import Extractor
from vit_hybrid.outputs import vectors
from vit_hybrid.outputs.vectors import Making
from vit_hybrid.search import Approximate, Index, Neighbor
from vit_hybrid.search.approximate import CANDIDATES

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
TOP_K = 10
ROWS_A_PART = 50_000
TIMED_QUERIES = 51
RECALL_QUERIES = 1000
# Of the graph: links of a row, rows looked at while it is built, and while it is searched.
LINKS, BUILDING = 32, 100
LOOKED_AT = (16, 32, 64, 128, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="vectors of the exact search")
    parser.add_argument("--dimension", type=int, default=768, help="of these")
    parser.add_argument("--drawn", type=int, default=1_000_000, help="vectors around real embeddings; 0 for none")
    parser.add_argument(
        "--noise", type=float, default=0.3, help="length of the noise that is added, as it is on average"
    )
    parser.add_argument("--pictures", type=int, default=10_000, help="of CIFAR-10's, to embed")
    parser.add_argument("--graph", action="store_true", help="build a graph (HNSW) too")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        report["exact"] = exact(Path(folder) / "exact", arguments.rows, arguments.dimension)
        if arguments.drawn:
            centers = embeddings(arguments.pictures)
            report["approximate"] = approximate(Path(folder) / "drawn", centers, arguments)
    print(json.dumps(report))


def exact(folder: Path, rows: int, dimension: int) -> dict[str, Any]:
    """Times of a query over random vectors."""
    random = np.random.default_rng(0)
    write(folder, rows, dimension, lambda number: random.standard_normal((number, dimension), np.float32))
    index = Index(folder)
    query = random.standard_normal((1, dimension), np.float32)
    unit = index.as_queries(query)[0]
    found = {
        "product": median_ms(lambda: index.vectors @ unit),
        "nearest": median_ms(lambda: index.nearest(query, TOP_K)),
    }
    print(f"{rows:,} vectors of {dimension}, {load()}")
    print(f"  a query's product, median of {TIMED_QUERIES}   {found['product']:8.1f} ms")
    print(f"  the {TOP_K} nearest, exactly              {found['nearest']:8.1f} ms")
    return {"rows": rows, "dimension": dimension, **{f"{name}_ms": value for name, value in found.items()}}


def embeddings(number: int) -> np.ndarray:
    """(N, D) of length 1: what the model in the package makes of CIFAR-10's test pictures."""
    import pyarrow.parquet as pq

    extractor = Extractor.from_pretrained(BUILT_IN_MODEL)
    column = pq.read_table(DATA / "cifar10" / "test.parquet", columns=["image"]).column(0).slice(0, number)
    return vectors.normalized(extractor([picture["bytes"] for picture in column.to_pylist()]))


def approximate(folder: Path, centers: np.ndarray, arguments: argparse.Namespace) -> dict[str, Any]:
    """Recall, sizes and times of the faiss index."""
    random = np.random.default_rng(1)
    dimension = centers.shape[1]

    def draw(number: int) -> np.ndarray:
        noise = random.standard_normal((number, dimension), np.float32) * (arguments.noise / np.sqrt(dimension))
        return centers[random.integers(0, len(centers), number)] + noise

    write(folder, arguments.drawn, dimension, draw)
    index, laying = timed(lambda: Index(folder))
    queries = draw(RECALL_QUERIES)
    expected, exactly = timed(lambda: index.nearest(queries, TOP_K))
    started = time.process_time()
    built = Approximate.of(index)
    building = time.process_time() - started
    loaded, loading = timed(lambda: Approximate.of(index))
    found, through = timed(lambda: loaded.nearest(queries, TOP_K))
    one = median_ms(lambda: loaded.nearest(queries[:1], TOP_K))
    report = {
        "rows": arguments.drawn,
        "dimension": dimension,
        "around": len(centers),
        "noise": arguments.noise,
        "laying_s": laying,
        "exact_ms_a_query": exactly * 1000 / RECALL_QUERIES,
        "cells": built.cells,
        "looked_at": built.looked_at,
        "building_processor_s": building,
        "loading_s": loading,
        "mb": (folder / "_neighbors.faiss").stat().st_size / 1e6,
        "recall_told": built.recall,
        "recall_of_new_queries": recall(expected, found),
        "ms_a_query": through * 1000 / RECALL_QUERIES,
        "ms_one_query": one,
    }
    print(f"{arguments.drawn:,} vectors of {dimension} around {len(centers):,}, noise {arguments.noise}, {load()}")
    print(f"  laid beside the index in {laying:.0f} s, faiss index of {report['mb']:.0f} MB built")
    print(f"  in {building:.0f} s of processor time, its measuring included")
    print(
        f"  {built.looked_at} of {built.cells} cells looked at, recall at {TOP_K} {built.recall:.4f} when it was built"
    )
    print(f"  recall at {TOP_K} of {RECALL_QUERIES} new queries   {report['recall_of_new_queries']:.4f}")
    for name, of in (("exact_ms_a_query", "exactly"), ("ms_a_query", "through it"), ("ms_one_query", "alone")):
        print(f"  a query, {of:12s}           {report[name]:8.2f} ms")
    if arguments.graph:
        report["graph"] = graph(index, queries, expected)
    return report


def graph(index: Index, queries: np.ndarray, expected: list[list[Neighbor]]) -> list[dict[str, float]]:
    """Recall and times of a graph over the same vectors, in as many bits and ranked likewise."""
    import faiss

    started = time.process_time()
    kind = faiss.ScalarQuantizer.QT_8bit
    hnsw = faiss.IndexHNSWSQ(index.made.dimension, kind, LINKS, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction = BUILDING
    hnsw.train(index.vectors[:ROWS_A_PART])
    for start in range(0, len(index), ROWS_A_PART):
        hnsw.add(index.vectors[start : start + ROWS_A_PART])
    building = time.process_time() - started
    megabytes = len(faiss.serialize_index(hnsw)) / 1e6
    print(f"  a graph of {megabytes:.0f} MB built in {building:.0f} s of processor time, {load()}")
    units, rows = index.as_queries(queries), []
    for looked_at in LOOKED_AT:
        hnsw.hnsw.efSearch = looked_at
        started = time.perf_counter()
        _, candidates = hnsw.search(units, TOP_K * CANDIDATES)
        found = [index.ranked(unit, some, TOP_K) for unit, some in zip(units, candidates, strict=True)]
        milliseconds = (time.perf_counter() - started) * 1000 / len(units)
        rows.append({"looked_at": looked_at, "recall": recall(expected, found), "ms_a_query": milliseconds})
        print(f"    {looked_at:4d} looked at: recall {rows[-1]['recall']:.4f}, {milliseconds:8.2f} ms a query")
    return [{"building_processor_s": building, "mb": megabytes}, *rows]


def write(folder: Path, rows: int, dimension: int, draw: Callable[[int], np.ndarray]) -> None:
    """An index as `embed` writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = Making(BUILT_IN_MODEL, "", "", dimension)
    folder.mkdir()
    for number, start in enumerate(range(0, rows, ROWS_A_PART)):
        drawn = draw(min(ROWS_A_PART, rows - start))
        names = pa.array([f"{row}.jpg" for row in range(start, start + len(drawn))])
        table = pa.table([names, vectors.column([*drawn], made)], schema=vectors.schema(made))
        pq.write_table(table, folder / f"part-{number:05d}.parquet")


def recall(expected: list[list[Neighbor]], found: list[list[Neighbor]]) -> float:
    """The share of the true nearest that was found."""
    together = [
        len({one.row for one in true} & {one.row for one in others}) / len(true)
        for true, others in zip(expected, found, strict=True)
    ]
    return float(np.mean(together))


def median_ms(function: Callable[[], Any]) -> float:
    """Of `TIMED_QUERIES` calls behind one that is not timed."""
    function()
    return float(np.median([timed(function)[1] for _ in range(TIMED_QUERIES)])) * 1000


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function gives, and how many seconds it takes."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def load() -> str:
    """How busy the machine is."""
    return f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
