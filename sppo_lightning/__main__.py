"""`python -m sppo_lightning`: finds the verb, and turns our errors into one readable paragraph.

Help, the light verbs and a configuration file that cannot be read answer before Lightning is imported.
"""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches

from sppo_lightning import __version__
from sppo_lightning.cli_files import read_config_files, resolve_configs, rewrite
from sppo_lightning.cli_help import HELP, KEYS
from sppo_lightning.errors import ConfigError, SPPOError

VERBS = {
    "fit": "play rounds: sample, judge, train, export the next policy; the same command goes on after a kill",
    "validate": "win rates of a policy against others on held-out prompts",
    "test": "AlpacaEval with your judge or from annotation files; the lm-eval harness for the alignment tax",
    "predict": "a policy's answers to a file of prompts, best of n, in AlpacaEval's, Arena-Hard's or MT-Bench's layout",
    "exploit": "how far can a policy be beaten? trains a best reply against it and measures that on held-out prompts",
    "audit": "can a judge be trusted? cycles beyond vote noise, position and length bias, calibration, rival answers",
    "label": "people as the judge: compare the pairs of responses that a run waits for, on a page of this machine",
    "doctor": "what this machine has, which engines and oracles work here, and what to install for the rest",
    "report": "one run, or several side by side, as one self-contained HTML page",
    "lab": "play preference games whose answer is known, with the exact update of every method",
}
"""What each verb does. Those in `cli_help.KEYS` are the Trainer's, each other the module of its name in `commands`."""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: the arguments behind the program's name; `sys.argv`'s if not given.

    Returns:
        the exit code: 0, or that of the error printed to stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(HELP.format(verbs="\n".join(f"  {verb:{width}}  {does}" for verb, does in VERBS.items())), end="")
        return 0
    if argv[0] == "--version":
        print(f"sppo_lightning {__version__}")
        return 0
    try:
        return _run(argv[0], argv[1:])
    except SPPOError as error:
        print(f"{error.heading}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _run(verb: str, argv: list[str]) -> int:
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}."
        raise ConfigError(f"{verb!r} is not a verb of sppo_lightning; {hint} See python -m sppo_lightning --help")
    argv = resolve_configs(argv)
    if verb not in KEYS or (verb == "test" and _needs_no_config(argv)):
        return importlib.import_module(f"sppo_lightning.commands.{verb}").main(argv)
    if "--help" in argv or "-h" in argv:
        print(KEYS[verb], flush=True)
    argv = rewrite(argv)
    read_config_files(argv)  # what is wrong with them is said at once
    from sppo_lightning.cli import main as trainer_main

    return trainer_main(verb, argv)


def _needs_no_config(argv: list[str]) -> bool:
    """Whether `test` is asked for figures of a file, or for the harness: see `commands.test`."""
    return any(word.partition("=")[0] in ("--annotations", "--lm_eval") for word in argv)


if __name__ == "__main__":
    sys.exit(main())
