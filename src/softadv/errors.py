"""The one exception softadv raises on purpose."""


class SoftadvError(ValueError):
    """Something the caller can mend; the message is one line that names what and where.

    The command line prints the message without a traceback and exits with code 2.
    """


class SoftadvWarning(UserWarning):
    """Something that the caller should hear of, in one line; the command line prints it without a traceback."""
