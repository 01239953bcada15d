"""The exceptions that softadv raises on purpose."""

from __future__ import annotations


class SoftadvError(ValueError):
    """Something the caller can mend; the message is one line that names what and where.

    The command line prints the message without a traceback and exits with code 2.
    """


class SoftadvWarning(UserWarning):
    """Something that the caller should hear of, in one line; the command line prints it without a traceback."""


class NotFiniteError(SoftadvError):
    """A model's scores, or what follows from them, are NaN or infinite, so that there is no figure to give."""


class DivergedError(NotFiniteError):
    """Training has ended in NaN or infinity: the trial has failed. The command line exits with code 1."""

    def __init__(self, what: str, *, epoch: int, step: int | None = None, steps: int | None = None) -> None:
        """step: the first of the epoch's `steps` of which it is known, from 1; None: found when the epoch was over."""
        at = f"epoch {epoch}" + ("" if step is None else f", step {step} of {steps}")
        super().__init__(f"training diverged in {at}: {what}")
        self.epoch, self.step = epoch, step
