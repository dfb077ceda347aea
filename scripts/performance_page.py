"""Puts the tables of docs/results/*.json between the marks of docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarking.network_tables import network_tables, roofline_table
from benchmarking.part_tables import (
    attention_table,
    convolution_table,
    data_table,
    evaluation_table,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
# <!-- benchmark: FILE --> ... <!-- end -->, of a script of that name
MARKED = re.compile(r"(<!-- benchmark: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "Not measured yet.\n"
TABLES = {  # by the first word of the file's name
    "attention": attention_table,
    "benchmark": network_tables,
    "convolutions": convolution_table,
    "data": data_table,
    "evaluation": evaluation_table,
    "roofline": roofline_table,
}


def main() -> None:
    """Writes the page anew."""
    page = DOCS / "performance.md"
    page.write_text(filled(page.read_text(), DOCS / "results"))


def filled(page: str, results: Path) -> str:
    """The page with the tables of the files that its marks name."""

    def replace(found: re.Match) -> str:
        file = results / found[2]
        make = TABLES[file.name.split("_")[0]]
        text = make(json.loads(file.read_text())) if file.exists() else NOT_MEASURED
        return found[1] + text + found[3]

    return MARKED.sub(replace, page)


if __name__ == "__main__":
    main()
