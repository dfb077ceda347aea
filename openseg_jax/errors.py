"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input that the user can mend. The message says what is wrong, where, and the mend.

    The command line prints the message alone (a traceback only with `--verbose`) and exits
    with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names most like `name`, or with all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
