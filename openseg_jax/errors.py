"""The one exception that users are meant to read."""


class UserError(Exception):
    """Bad input that the user can mend. The message says what is wrong, where, and the mend.

    The command line prints the message alone (a traceback only with `--verbose`) and exits
    with code 2.
    """
