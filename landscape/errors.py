"""The errors a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LandscapeError(ValueError):
    """Bad input, said in one or two lines: what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 1; anything else that is raised is a defect of ours.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'resnet32'?"``, or ``""`` when nothing known resembles ``word``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
