"""`python -m sppo_lightning`: finds the verb, and turns our errors into one readable paragraph.

Help and the light verbs answer before Lightning is imported, which takes seconds.
"""

from __future__ import annotations

import importlib
import sys

from sppo_lightning import __version__
from sppo_lightning.errors import ConfigError, SPPOError

LIGHT_VERBS = {"lab": "sppo_lightning.commands.lab"}
TRAINER_VERBS = ("fit",)

HELP = """\
Align a language model by self-play against general preferences.

usage: python -m sppo_lightning VERB [--config FILE ...] [--KEY VALUE ...]

verbs:
  fit    play rounds: sample, judge, train, export the next policy; the same command goes on after a kill
  lab    play preference games whose answer is known, with the exact update of every method

start here:
  python -m sppo_lightning fit --config configs/quickstart.yaml
  python -m sppo_lightning fit --config configs/quickstart.yaml --data.prompts my_prompts.jsonl
  python -m sppo_lightning fit --help            the keys people change, then all of them
  python -m sppo_lightning fit --print_config    every setting with its default

Several --config are merged, later ones win; a --KEY VALUE wins over files. A configuration names classes that are
then run: a config is code, so run only those you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: the arguments behind the program's name; `sys.argv`'s if not given.

    Returns:
        the exit code: 0, or that of the error printed to stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"sppo_lightning {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    try:
        if verb in LIGHT_VERBS:
            return importlib.import_module(LIGHT_VERBS[verb]).main(rest)
        if verb in TRAINER_VERBS:
            from sppo_lightning.cli import main as trainer_main

            return trainer_main(verb, rest)
        raise ConfigError(
            f"{verb!r} is not a verb of sppo_lightning; there are {', '.join((*TRAINER_VERBS, *LIGHT_VERBS))}. "
            "See python -m sppo_lightning --help"
        )
    except SPPOError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
