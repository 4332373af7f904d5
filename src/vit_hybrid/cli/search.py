"""`vit-hybrid search`: which pictures are like these, and which are nearly the same?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import MODELS, AsJson, VectorOptions
from .output import ProgressBar, RecordPrinter, complain, new_table, titled
from .running import engine_arguments
from .session import EXIT_FAILED, loading
from .streams import files_first, write, write_json

if TYPE_CHECKING:
    from ..search import Approximate, Index
    from ..search.sheet import Sheet

DEFAULT_TOP_K = 10
HTML_SUFFIXES = (".html", ".htm")


def search(
    index: Annotated[
        str,
        typer.Argument(
            metavar="INDEX",
            help="A folder of parquet files that vit-hybrid embed, or predict --embeddings, wrote; or one such file.",
            show_default=False,
        ),
    ],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE",
            help="Image files; folders, searched through all levels for pictures; - for standard input.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"{MODELS}; or a bundle: the model that INDEX was made with.", show_default="by its name in INDEX"
        ),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, help="How many pictures of INDEX to give for each PICTURE.")
    ] = DEFAULT_TOP_K,
    duplicates: Annotated[
        float | None,
        typer.Option(
            metavar="THRESHOLD",
            help="List the pictures of INDEX that are nearly the same, in groups: each has a similarity of at least "
            "THRESHOLD, such as 0.95, to another of its group.",
            show_default=False,
        ),
    ] = None,
    through_index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="Search through a faiss index, built at the first use and kept beside INDEX: for millions of rows. It "
            "misses few; what it finds is exact.",
        ),
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also write a page with all pictures, small, to FILE.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    engine: VectorOptions = VectorOptions(),  # noqa: B008 - it is frozen
) -> None:
    """Find the pictures of INDEX that are like a PICTURE, nearest first, or those that are nearly the same.

    Similarity is the cosine of the angle between the vectors that the model makes of two pictures, at most 1. A picture
    that cannot be read gets one line that says why and the others are still searched for; the exit status is then 1.
    """
    if duplicates is None and not pictures:
        raise ValueError("no PICTURE to search for; name some, or list near-identical ones with --duplicates 0.95")
    if duplicates is not None:
        if pictures or model is not None:
            raise ValueError(
                "--duplicates compares the pictures of INDEX with each other; leave out PICTURE and --model"
            )
        if not 0 < duplicates <= 1:
            raise ValueError(f"--duplicates is {duplicates:g}; expected a similarity above 0 and at most 1")
    if html is not None and not html.lower().endswith(HTML_SUFFIXES):
        raise ValueError(f"--html is {html}; expected a name that ends in {HTML_SUFFIXES[0]}")
    from ..search import Index

    with _bar("Reading vectors") as progress:
        opened = Index(index, progress)
    if duplicates is not None:
        _list_duplicates(opened, duplicates, through_index, html, as_json)
    else:
        _answer(opened, pictures or [], model, top_k, through_index, html, as_json, engine)


def _answer(
    index: Index,
    pictures: list[str],
    model: str | None,
    top_k: int,
    through_index: bool,
    html: str | None,
    as_json: bool,
    engine: VectorOptions,
) -> None:
    from ..data import Passed
    from ..data.sources import STANDARD_INPUT, contents, expand
    from ..search import MANY_ROWS, Searcher

    passed = Passed()
    pairs = expand(pictures, passed)
    if not through_index and len(index) > MANY_ROWS:
        complain(f"{index.path}: {len(index):,} rows are compared with each query; --index makes this faster")
    searched = _approximate(index) if through_index else index
    name = model or index.made.model
    with loading(name) as tell:
        searcher = Searcher(searched, model, progress=tell, **engine_arguments(name, engine, tell))
    from_input: dict[str, bytes] = {}

    def sources() -> Iterator[tuple[str, Any]]:
        for path, source in contents(pairs):
            if isinstance(source, bytes):  # which cannot be read again for the page
                from_input[path] = source
            yield path, source

    # Standard input is read when its turn comes, and its turn is not to be waited for.
    ahead = len(pairs) > engine.batch_size and all(source != STANDARD_INPUT for _, source in pairs)
    records = searcher.stream(sources(), top_k, read_ahead=ahead)
    with (
        _files_first_if(html),
        _sheet(html, f"Pictures like these in {index.path}", from_input) as sheet,
        NeighborPrinter(as_json, [], len(pairs), "Searching") as printer,
    ):
        for record in records:
            printer.print(record)
            if sheet is not None and "neighbors" in record:
                sheet.add(record["path"], record["neighbors"])
    if passed:
        complain(passed.line())
    if printer.failures:
        raise typer.Exit(EXIT_FAILED)


class NeighborPrinter(RecordPrinter):
    """Prints the neighbors of each query as they come."""

    def shown(self, record: Any) -> str:
        """A query that was answered as a person sees it."""
        return _neighbors_table(record["path"], record["neighbors"])


def _list_duplicates(index: Index, threshold: float, through_index: bool, html: str | None, as_json: bool) -> None:
    from ..search import MOST_ROWS_OF_ALL_PAIRS, by_all_pairs
    from ..search.queries import duplicates_of

    if through_index or len(index) > MOST_ROWS_OF_ALL_PAIRS:
        approximate = _approximate(index)
        with _bar("Comparing") as progress:
            groups = approximate.duplicates(threshold, progress)
    else:
        with _bar("Comparing") as progress:
            groups = by_all_pairs(index, threshold, progress)
    with _files_first_if(html), _sheet(html, f"Nearly the same in {index.path}") as sheet:
        for record in duplicates_of(index, groups):
            if as_json:
                write_json(record)
            else:
                write(_neighbors_table(record["path"], record["duplicates"]))
            if sheet is not None:
                sheet.add(record["path"], record["duplicates"])
    if not as_json:
        pictures = sum(1 + len(group.others) for group in groups)
        within = f"{len(groups):,} group{'s' if len(groups) > 1 else ''}"
        found = f"{pictures:,} of {len(index):,} pictures in {within}" if groups else "no two pictures"
        complain(f"{found} with a similarity of at least {threshold:g}")


def _approximate(index: Index) -> Approximate:
    from ..search import Approximate

    with _bar("Building the index") as progress:
        opened = Approximate.of(index, progress)
    complain(f"{index.path}: its faiss index finds {opened.recall:.1%} of the ten nearest, measured when it was built")
    return opened


def _neighbors_table(title: str, neighbors: Iterable[Any]) -> str:
    rows = [(one["path"], f"{one['similarity']:.4f}") for one in neighbors]
    return titled(title, new_table(("picture", ">similarity"), rows))


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    """What to call with (done, all) while something goes on that may take long."""
    bar: ProgressBar | None = None
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal bar, before
        bar = bar or ProgressBar(total, doing)
        bar.advance(done - before)
        before = done

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def _files_first_if(html: str | None) -> AbstractContextManager[None]:
    """What lets a page be finished, where one was asked for."""
    return nullcontext() if html is None else files_first()


@contextmanager
def _sheet(path: str | None, title: str, contents: dict[str, bytes] | None = None) -> Iterator[Sheet | None]:
    """The page to write to, which is whole or not there; None where none was asked for."""
    if path is None:
        yield None
        return
    from ..files import replacing
    from ..search.sheet import Sheet

    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        sheet = Sheet(file, title, contents)
        yield sheet
        sheet.close()


__all__ = ["search"]
