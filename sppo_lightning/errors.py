"""Errors written for the person at the terminal: what is wrong, where, and what to do.

`python -m sppo_lightning` prints the message of any of these as one paragraph without a traceback and exits with
`exit_code`. Raise them for the user's input and for the state of the disk; our own mistakes stay `assert`s.
"""


class SPPOError(Exception):
    """Base of every error this package raises on purpose.

    The message's first line names the file, line or configuration key and says what to do.
    """

    exit_code = 2
    heading = "error"  # what stands before the message


class ConfigError(SPPOError, ValueError):
    """A setting that cannot work: a wrong value, two settings that contradict each other, an unknown name."""


class DataError(SPPOError, ValueError):
    """A file of the user's that cannot be read as what it should be: prompts, preferences, votes."""


class OracleError(SPPOError, ValueError):
    """A preference oracle that answered with something that is not a preference: NaN, P > 1, the wrong shape."""


class EngineError(SPPOError, RuntimeError):
    """A generation engine that failed or answered with something that is not K responses a prompt."""


class RunFolderError(SPPOError, RuntimeError):
    """A run folder whose state forbids going on: locked, changed settings, a damaged or missing file."""


class BudgetError(SPPOError, RuntimeError):
    """A judge would cost more than the limit allows. What was judged is kept, and a higher limit goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later
    heading = "stopped before the budget is exceeded"


class WaitingForLabels(SPPOError):  # noqa: N818 - not an error
    """The run cannot go on before people have compared some responses; with their labels the same command does."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later
    heading = "waiting for labels"
