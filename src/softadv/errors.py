"""The exceptions that softadv raises on purpose."""

from __future__ import annotations


class SoftadvError(ValueError):
    """An error that the caller can fix; the message is one line that names what and where.

    The command line prints the message without a traceback and exits with code 2.
    """


class SoftadvWarning(UserWarning):
    """A one-line warning; the command line prints it without a traceback."""


class NotFiniteError(SoftadvError):
    """A model's scores, or values computed from them, are NaN or infinite, so that no result can be given."""


class DivergedError(NotFiniteError):
    """Training has ended in NaN or infinity: the trial has failed. The command line exits with code 1."""

    def __init__(self, what: str, *, epoch: int, step: int | None = None, steps: int | None = None) -> None:
        """step: the first step with such a value, from 1, out of `steps`; None if it was only found after the epoch."""
        at = f"epoch {epoch}" + ("" if step is None else f", step {step} of {steps}")
        super().__init__(f"training diverged in {at}: {what}")
        self.epoch, self.step = epoch, step
