"""What `vit-hybrid predict` and `evaluate` are held to: kills, memory, throughput, broken pictures, Ray. Prints a table
and JSON.

    python benchmarks/prediction.py all --photos shared/data/photos
    python benchmarks/prediction.py kills memory --small --photos shared/data/photos

- kills: runs that are killed (SIGKILL) at random moments, some within the renaming of a part, and one whose disk is
  full, then gone on with, until their parts are compared with those of an undisturbed run: the same bytes, and how many
  parts were written twice.
- memory: the most memory over 100,000 files by that over 1,000.
- throughput: pictures a second, with and without what is fitted to say how sure the model is (`--uncalibrated`), by
  those of decoding and of the engine measured apart, all taking turns in one process on the same cores; and what each
  takes of the processor's time. Decoding reads and prepares all files in threads; the engine runs over one batch again
  and again; what a run does beside these, from judging pictures to writing parts, counts against it. A ratio is the
  median of those of each turn.
- evaluation: scores of class folders read as a whole by one process, by two, and as a stream: how far the furthest of
  them lie apart; and the most memory of the stream over all by that over a tenth.
- resume: how long a finished run of ten million rows takes to find that there is nothing to do, and its memory; and how
  long it takes where the last part is missing, which has to be done again.
- errors: 1,000 pictures of which 50 are broken in ten ways; the others compared with a run over these alone; 30
  repaired.
- ray: pictures a second with Ray on this machine by those of a process without, taking turns, both from when the first
  worker is ready to the last row; and a run over three nodes on this machine, one of which is removed twice: the same
  bytes, and how long it took.

Pictures are links to copies of those in the folder `--photos`. Each measurement runs in processes of its own, in a
folder that is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

MEGABYTE = 10**6
KIBIBYTE = 1024
KILLS, RENAMING_KILLS = 20, 4
FOLDER_FILES = 1000
# (full, small)
SIZES = {
    "kills": (20_000, 600),
    "memory": (100_000, 2_000),
    "least memory": (1_000, 500),
    "throughput": (2_000, 150),
    "evaluation": (20_000, 100),
    "resume": (10_000_000, 200_000),
    "errors": (1_000, 200),
    "ray": (4_000, 200),
}
ROUNDS, TURNS = 3, 5
CLASSES = 5
# Rows of a part of the finished run, as ten seconds of 150 pictures have; rows of each parquet file of its source.
ROWS_A_PART, ROWS_A_FILE = 1_536, 1_000_000


def photos(folder: str) -> list[Path]:
    """The pictures to make links to."""
    found = sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.is_file()
    )
    if not found:
        sys.exit(f"{folder}: no pictures; --photos names a folder with some")
    return found


def linked(folder: Path, count: int, originals: Sequence[Path]) -> Path:
    """A folder with so many files, in folders of a thousand: each a link to a copy of one of the originals."""
    kept = folder.with_name(f".{folder.name}.originals")
    kept.mkdir(parents=True)
    copies = [Path(shutil.copy(path, kept / f"{number}{path.suffix.lower()}")) for number, path in enumerate(originals)]
    for number in range(count):
        original = copies[number % len(copies)]
        place = folder / f"{number // FOLDER_FILES:04d}" / f"{number:08d}{original.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, place)
    return folder


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "vit_hybrid", "predict", str(source), "--output", str(out), "--json", *options]


def timed(arguments: Sequence[str]) -> tuple[float, float, dict[str, Any]]:
    """Seconds, megabytes at most, and what it printed last, of a process."""
    began = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss * KIBIBYTE / MEGABYTE, json.loads(text.splitlines()[-1])


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def kills(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    source = linked(place / "pictures", count, photos(args.photos))
    settings = ["--rows-per-part", str(max(16, count // 60))]
    whole, *_ = timed(command(source, place / "whole.parquet", *settings))
    out = place / "x.parquet"
    again, most_again, ended, by = 0, 0, 0, {"random": 0, "renaming": 0, "full disk": 0}
    chance = random.Random(args.seed)
    # As if nothing had been done before, so that the kills are spread over the run and not at its end alone.
    share = whole / (KILLS + 1)
    for turn in range(KILLS + RENAMING_KILLS + 1):
        kind = "random" if turn < KILLS else "renaming" if turn < KILLS + RENAMING_KILLS else "full disk"
        before = {path.name: path.stat().st_ino for path in out.glob("part-*")}
        if kind == "random":
            process = subprocess.Popen(
                command(source, out, "--resume", *settings), stdout=subprocess.DEVNULL, start_new_session=True
            )
            try:
                process.wait(args.start + chance.uniform(0, 2 * share))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        else:
            how = str(chance.randrange(1, 4)) + ("" if kind == "renaming" else "f")
            process = subprocess.Popen(
                [sys.executable, __file__, "--child", how, *command(source, out, "--resume", *settings)[3:]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        by[kind] += process.wait() != 0
        ended += process.returncode == 0
        changed = sum((out / name).exists() and (out / name).stat().st_ino != inode for name, inode in before.items())
        again, most_again = again + changed, max(most_again, changed)
        if process.returncode == 0 and kind != "full disk":  # it came to its end: the next ones have parts to do
            for path in sorted(out.glob("part-*"))[::2]:
                path.unlink()
    timed(command(source, out, "--resume", *settings))
    return {
        "pictures": count,
        "killed": by,
        "ended before": ended,
        "parts": len(parts(out)),
        "same bytes": parts(out) == parts(place / "whole.parquet"),
        "parts written twice": again,
        "at most by one kill": most_again,
    }


def child(how: str, arguments: list[str]) -> None:
    """The command, which kills itself within the renaming of a part, or whose disk is full for a part (f)."""
    from vit_hybrid.cli.main import main
    from vit_hybrid.predict.places import LocalFolder

    left = int(how.rstrip("f"))
    rename, write = Path.replace, LocalFolder.write

    def renaming(self: Path, target: Any) -> Path:
        nonlocal left
        if Path(target).name.startswith("part-"):
            left -= 1
            if left == 0 and int(how) % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        result = rename(self, target)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def writing(self: LocalFolder, name: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, resource.RLIM_INFINITY))
        write(self, name, content)

    if how.endswith("f"):
        LocalFolder.write = writing  # type: ignore[method-assign]
    else:
        Path.replace = renaming  # type: ignore[method-assign]
    sys.argv = ["vit-hybrid", *arguments]
    main()


def memory(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    originals = photos(args.photos)
    found = {}
    for number in (SIZES["least memory"][args.small], count):
        source = linked(place / f"pictures {number}", number, originals)
        _, found[number], _ = timed(command(source, place / f"{number}.parquet"))
    least, most = found.values()
    return {
        "files": list(found),
        "megabytes": [round(one, 1) for one in found.values()],
        "ratio": round(most / least, 3),
    }


def evaluation(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Of labels that are drawn: it is about how they are counted."""
    from vit_hybrid.assets import BUILT_IN_FOLDER, BUILT_IN_MODEL

    names = list(json.loads((BUILT_IN_FOLDER / "config.json").read_text())["id2label"].values())[:CLASSES]
    originals = photos(args.photos)
    source = place / "classes"
    for number, name in enumerate(names):
        linked(
            source / name,
            count // len(names),
            originals[number % len(originals) :] + originals[: number % len(originals)],
        )
        shutil.rmtree(source / f".{name}.originals")
    start = [sys.executable, "-m", "vit_hybrid", "evaluate", BUILT_IN_MODEL]
    same = ["--json", "--threads", "1", "--batch-size", "16", "--engine", "torch"]
    ways = {
        "one process": [str(source)],
        "two": [str(source), "--workers", "2"],
        "stream": [str(source / "*" / "**" / "*")],
        "a tenth": [str(source / "*" / "**" / "*1.*")],
    }
    found = {name: timed([*start, *words, *same]) for name, words in ways.items()}
    sums = ("top1", "top5", "negative_log_likelihood", "expected_calibration_error")
    scores = [[found[name][2][one] for one in sums] for name in ("one process", "two", "stream")]
    apart = max(abs(one - other) for ours in scores for one, other in zip(ours, scores[0], strict=True))
    return {
        "pictures": [found[name][2]["images"] for name in ways],
        "same confusions": all(
            found[name][2]["confusion_matrix"] == found["two"][2]["confusion_matrix"]
            for name in ("one process", "stream")
        ),
        "scores apart": apart,
        "megabytes": [round(found[name][1], 1) for name in ways],
        "ratio of the stream's": round(found["stream"][1] / found["a tenth"][1], 3),
    }


def throughput(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own, which `rates` is."""
    source = linked(place / "pictures", count, photos(args.photos))
    _, _, found = timed([sys.executable, __file__, "--rates", str(source), str(place)])
    return found


def rates(source: Path, place: Path) -> None:
    import numpy as np

    from vit_hybrid import Predictor, predict
    from vit_hybrid.assets import BUILT_IN_MODEL
    from vit_hybrid.data.reading_ahead import prepared_ahead
    from vit_hybrid.engines.settling import settle
    from vit_hybrid.runtimes import usable_cores

    paths = sorted(str(path) for path in source.rglob("*") if path.is_file())
    threads = {"threads": usable_cores()}
    settled = settle(BUILT_IN_MODEL, threads, pictures=len(paths), steadily=True)  # as `predict` does
    predictor = Predictor.from_pretrained(batch_size=settled.batch_size, **{**settled.options(), **threads})
    streaming = predictor.streaming
    batch = np.stack([streaming.preparing(path) for path in paths[: predictor.batch_size]])

    def decode() -> None:
        for _ in prepared_ahead(streaming.preparing, paths, 2 * predictor.batch_size):
            pass

    def compute() -> None:
        for _ in range(0, len(paths), predictor.batch_size):
            predictor.engine.logits(batch)

    def whole(turn: int, uncalibrated: bool = False) -> Watch:
        watch = Watch()
        output = place / f"{turn}{'-uncalibrated' * uncalibrated}.parquet"
        predict(str(source), output, uncalibrated=uncalibrated, progress=watch)
        return watch

    # Of each turn, seconds and the processor's seconds.
    took: dict[str, list[tuple[float, float]]] = {"decode": [], "engine": [], "predict": [], "uncalibrated": []}
    for turn in range(TURNS + 1):  # the first warms up
        works: dict[str, Callable[[], Any]] = {
            "decode": decode,
            "engine": compute,
            "predict": partial(whole, turn),
            "uncalibrated": partial(whole, turn, uncalibrated=True),
        }
        for name, work in works.items():
            began, worked = time.monotonic(), time.process_time()
            watch = work()
            if watch is not None:  # which has loaded the model first
                began, worked = watch.began, watch.worked
            if turn:
                took[name].append((time.monotonic() - began, time.process_time() - worked))
    seconds = {name: [one for one, _ in all_of] for name, all_of in took.items()}
    both = [sum(one) for one in zip(seconds["decode"], seconds["engine"], strict=True)]
    ratios = {
        name: [one / predicted for one, predicted in zip(both, seconds[name], strict=True)]
        for name in ("predict", "uncalibrated")
    }
    apart = statistics.median(both)
    print(
        json.dumps(
            {
                "pictures": len(paths),
                **{
                    f"{name} a second": round(len(paths) / statistics.median(all_of), 1)
                    for name, all_of in seconds.items()
                },
                "apart a second": round(len(paths) / apart, 1),
                "processor ms a picture": {
                    name: round(1000 * statistics.median(one for _, one in all_of) / len(paths), 2)
                    for name, all_of in took.items()
                },
                "ratios": [round(ratio, 3) for ratio in ratios["predict"]],
                "ratio": round(statistics.median(ratios["predict"]), 3),
                "ratio uncalibrated": round(statistics.median(ratios["uncalibrated"]), 3),
            }
        )
    )


def resuming(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vit_hybrid.data.streams import open_stream
    from vit_hybrid.inference.shards import Receipt, Shard
    from vit_hybrid.predict.output import Output
    from vit_hybrid.predict.rows import part_name

    source, out, first = place / "table", place / "x.parquet", place / "first.parquet"
    source.mkdir()
    for number in range(max(1, count // ROWS_A_FILE)):
        rows = min(count, ROWS_A_FILE)
        column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([b"picture"]))
        pq.write_table(pa.table({"image": column.cast(pa.binary())}), source / f"{number:04d}.parquet")
    # What settings a run here has is taken from a small one.
    small = linked(place / "pictures", 16, photos(args.photos))
    timed(command(small, first))
    lines = [json.loads(line) for line in (first / "_manifest.jsonl").read_text().splitlines()]
    output = Output(str(out))
    output.begin()
    names = sorted(map(str, source.glob("*.parquet")))
    output.manifest.begin(lines[0]["asked"], names)
    output.manifest.state_facts(lines[1]["facts"])
    stream = open_stream(names)
    fsync, os.fsync = os.fsync, lambda _: None  # the lines are made up, and need not be on the disk
    for number, found in enumerate(stream.ranges(ROWS_A_PART)):
        output.manifest.settle(Shard(number, found.first, found.last, found.rows), found.seen, 150.0)
        output.manifest.finish(Receipt(number, found.rows, 0, 0, 10.0, 1, "0" * 64, "", "made up"))
        (out / part_name(number, ".parquet")).touch()
    output.manifest.close(stream.outline())
    os.fsync = fsync
    seconds, megabytes, said = timed(
        [sys.executable, "-m", "vit_hybrid", "predict", *names, "--output", str(out), "--json", "--resume"]
    )
    max(out.glob("part-*")).unlink()
    again, more, _ = timed(
        [sys.executable, "-m", "vit_hybrid", "predict", *names, "--output", str(out), "--json", "--resume"]
    )
    return {
        "rows": said["rows"],
        "parts": said["parts"],
        "seconds": round(seconds, 2),
        "megabytes": round(megabytes, 1),
        "with one part to do": {"seconds": round(again, 2), "megabytes": round(more, 1)},
    }


def errors(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    import pyarrow.parquet as pq
    from broken_pictures import break_picture

    def table(out: Path) -> dict[str, Any]:
        return {Path(row.pop("path")).name: row for row in pq.read_table(out).to_pylist()}

    source = linked(place / "pictures", count, photos(args.photos))
    files = sorted(path for path in source.rglob("*") if path.is_file())
    broken = random.Random(args.seed).sample(files, count // 20)
    whole = {path: path.read_bytes() for path in broken}
    for way, path in enumerate(broken):
        break_picture(path, way)
    _, _, first = timed(command(source, place / "x.parquet"))
    rows = table(place / "x.parquet")
    alone = place / "alone"
    for path in files:
        if path not in whole:
            target = alone / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    timed(command(alone, place / "alone.parquet"))
    others = table(place / "alone.parquet")
    for path in broken[: len(broken) * 3 // 5]:
        path.unlink()
        path.write_bytes(whole[path])
    _, _, second = timed(command(source, place / "x.parquet", "--retry-errors"))
    return {
        "pictures": count,
        "errors": first["errors"],
        "with a reason": sum(bool(rows[path.name]["reason"]) for path in broken),
        "kinds": sorted({rows[path.name]["error"] for path in broken}),
        "others bit-equal": all(rows[name] == row for name, row in others.items()),
        "errors after 3 of 5 were repaired": second["errors"],
    }


def on_ray(place: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """In processes of their own: `with_ray`, and `nodes`."""
    source = linked(place / "pictures", count, photos(args.photos))
    _, _, rates_of = timed([sys.executable, __file__, "--with-ray", str(source), str(place)])
    _, _, lost = timed([sys.executable, __file__, "--nodes", str(source), str(place)])
    return {"pictures": count, **rates_of, "a node removed twice": lost}


class Watch:
    """Notes when a worker was ready and how many rows there are; may do something then."""

    def __init__(self, then: Any = None) -> None:
        self.then = then

    def tell(self, text: str) -> None:
        pass

    def begin(self, *_: object) -> None:
        self.began, self.worked = time.monotonic(), time.process_time()

    def advance(self, rows: int, *_: object) -> None:
        self.ended = time.monotonic()
        if self.then is not None:
            self.then(rows)


def with_ray(source: Path, place: Path) -> None:
    from vit_hybrid import predict

    count = sum(path.is_file() for path in source.rglob("*"))
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for turn in range(ROUNDS):
        for name, options in (("without", {"workers": 1}), ("with", {"workers": 1, "ray": "local"})):
            watch = Watch()
            predict(str(source), place / f"{name}{turn}.parquet", progress=watch, **options)
            seconds[name].append(watch.ended - watch.began)
    rate = {name: count / statistics.median(took) for name, took in seconds.items()}
    told = {f"{name} a second": round(value, 1) for name, value in rate.items()}
    print(json.dumps({**told, "ratio": round(rate["with"] / rate["without"], 3)}))


def nodes(source: Path, place: Path) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    from ray.cluster_utils import Cluster

    from vit_hybrid import predict

    count = sum(path.is_file() for path in source.rglob("*"))
    options = {"rows_per_part": 16, "threads": 1}
    predict(str(source), place / "alone.parquet", **options)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    three = [cluster.add_node(num_cpus=1) for _ in range(3)]
    removed = 0

    def remove(rows: int) -> None:
        nonlocal removed
        if rows > count * (1 + removed) // 3 and removed < 2:
            cluster.remove_node(three.pop(), allow_graceful=False)
            three.append(cluster.add_node(num_cpus=1))
            removed += 1

    began = time.monotonic()
    summary = predict(str(source), place / "nodes.parquet", progress=Watch(remove), ray=cluster.address, **options)
    seconds = time.monotonic() - began
    cluster.shutdown()
    same = parts(place / "nodes.parquet") == parts(place / "alone.parquet")
    told = {"workers": summary.workers, "removed": removed, "rows": summary.rows, "same bytes": same}
    print(json.dumps({**told, "seconds": round(seconds, 1)}))


CHECKS = {
    **{"kills": kills, "memory": memory, "throughput": throughput, "evaluation": evaluation},
    **{"resume": resuming, "errors": errors, "ray": on_ray},
}
# What this file does in a process of its own.
CHILDREN = {"--rates": rates, "--with-ray": with_ray, "--nodes": nodes}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    if sys.argv[1:] and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="+", choices=["all", *CHECKS])
    parser.add_argument("--photos", required=True, metavar="DIR", help="a folder with photos")
    parser.add_argument("--small", action="store_true", help="over few pictures, to see that it runs")
    parser.add_argument("--place", metavar="DIR", help="where to write; by default where temporary files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=float, default=1.0, help="seconds until the command does its first picture")
    args = parser.parse_args()
    found = {}
    for name in CHECKS if "all" in args.checks else args.checks:
        with tempfile.TemporaryDirectory(dir=args.place) as place:
            found[name] = CHECKS[name](Path(place), SIZES[name][args.small], args)
        print(f"{name}:")
        for what, value in found[name].items():
            print(f"  {what:34} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
