"""Progress bars: live on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys

from tqdm import tqdm

SECONDS_IN_LOGS = 30  # between two lines


def progress(*items, **options) -> tqdm:
    """`tqdm(*items, **options)`, which redraws itself rarely where nobody sees it move."""
    interval = 0.5 if sys.stderr.isatty() else SECONDS_IN_LOGS
    return tqdm(*items, dynamic_ncols=True, mininterval=interval, **options)


def say(text: str) -> None:
    """Prints, on a terminal above the bar."""
    if sys.stderr.isatty():
        tqdm.write(text)
    else:
        print(text, flush=True)
