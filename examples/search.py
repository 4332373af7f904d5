"""Embeds the pictures of a folder and shows, for some of them or others, what they look like.

    python examples/search.py PICTURES QUERY... [--index vectors.parquet] [--top-k 5]

It goes on where the index is there already: pictures that were embedded before are not read again.
"""

from __future__ import annotations

import argparse

from vit_hybrid import predict
from vit_hybrid.search import Index, Searcher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="a folder of pictures, searched through all levels")
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="a picture")
    parser.add_argument("--index", default="vectors.parquet", help="where the vectors are kept")
    parser.add_argument("--top-k", type=int, default=5, help="how many pictures to show for each")
    arguments = parser.parse_args()

    predict.embed(arguments.pictures, arguments.index, resume=True)
    searcher = Searcher(Index(arguments.index))
    for record in searcher.stream(arguments.queries, arguments.top_k):
        if "error" in record:
            print(record["error"])
            continue
        print(record["path"])
        for neighbor in record["neighbors"]:
            print(f"  {neighbor['similarity']:.3f}  {neighbor['path']}")


if __name__ == "__main__":
    main()
