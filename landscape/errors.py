"""The errors a user can mend."""


class LandscapeError(ValueError):
    """Bad input, said in one or two lines: what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 1; anything else that is raised is a defect of ours.
    """
