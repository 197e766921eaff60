"""The `fit` verb: LightningCLI in subclass mode, our classes as defaults, and the loop's rules enforced.

The verbs that measure, in `cli_verbs`, are subclasses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

# Short class names (`--model.objective DPO`) find what has been imported.
import sppo_lightning.callbacks
import sppo_lightning.engines
import sppo_lightning.objectives
import sppo_lightning.oracles
import sppo_lightning.training.reward_model  # noqa: F401
from sppo_lightning.cli_errors import CommandLine, explain
from sppo_lightning.cli_files import read_config_files
from sppo_lightning.cli_help import USAGE
from sppo_lightning.cli_quiet import quieten
from sppo_lightning.cli_settings import MAY_CHANGE, REFUSED, check, flatten
from sppo_lightning.cli_types import parameters
from sppo_lightning.errors import ConfigError, SPPOError
from sppo_lightning.io.files import atomic_write
from sppo_lightning.io.secrets import mask_secrets
from sppo_lightning.training.checkpoint import AtomicCheckpointIO
from sppo_lightning.training.data import RunPaused, SelfPlayDataModule
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.training.tracking import RunLogger

DEFAULT_CALLBACKS = (
    "RoundProgress",
    "RoundMetrics",
    "HeldOutEvaluation",
    "Gaps",
    "JudgeInsight",
    "TextSigns",
    "TokenRatios",
    "SampleTable",
    "ModelCard",
    "RunReport",
    "RunSummary",
)


class SelfPlayCLI(LightningCLI):
    """Parses, checks before anything expensive, takes the run folder, and fits."""

    run: RunFolder
    extra_keys: ClassVar[dict[str, Any]] = {}  # key -> type, of a verb's own arguments
    model_kind: ClassVar[type[pl.LightningModule]] = PolicyModule
    data_kind: ClassVar[type[pl.LightningDataModule]] = SelfPlayDataModule
    refused: ClassVar[Mapping[str, str]] = REFUSED
    default_callbacks: ClassVar[Sequence[str]] = [f"sppo_lightning.callbacks.{name}" for name in DEFAULT_CALLBACKS]

    def __init__(self, **kwargs: Any) -> None:
        """Runs the whole command, and lets go of the run folder however it ends."""
        with ExitStack() as self._on_end:
            super().__init__(**kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed; Lightning's own also takes true and false, with which no run could go on."""
        parser.add_argument("--seed_everything", type=int, default=42, help="the seed of everything")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our defaults, and two settings of the process."""
        parser.add_argument(
            "--cpu_threads",
            type=int | None,
            default=None,
            help="threads of each CPU operation; not set: torch's choice",
        )
        parser.set_defaults(
            {
                "model": {"class_path": f"{self.model_kind.__module__}.{self.model_kind.__name__}"},
                "data": {"class_path": f"{self.data_kind.__module__}.{self.data_kind.__name__}"},
                "trainer.default_root_dir": "runs/sppo",
                "trainer.devices": 1,
                "trainer.enable_progress_bar": False,
                "trainer.enable_model_summary": False,
                "trainer.log_every_n_steps": 1,
                "trainer.callbacks": [{"class_path": path} for path in self.default_callbacks],
            }
        )
        parser.link_arguments("seed_everything", "data.init_args.seed")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit`; its checkpoint is the run folder's own."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses what `main` was given, which is not always `sys.argv`, and refuses what cannot work."""
        if "--help" in args or "-h" in args:  # the parser's own help leaves the arguments of these two out
            for root in ("model", "data"):
                with suppress(SystemExit):
                    parser.parse_args([args[0], f"--{root}.help"])
                print()
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ConfigError(explain(error, self._command_line(args))) from None
        verb = self.config.subcommand
        defaults = {key: self._parser(verb).get_default(f"trainer.{key}") for key in self.refused}
        check(self.config[verb].as_dict(), defaults, self.refused)

    def before_instantiate_classes(self) -> None:
        """Takes the run folder and compares the settings with those it was started with."""
        config = self.config[self.subcommand]
        if config.cpu_threads is not None:
            torch.set_num_threads(config.cpu_threads)
        self.run = RunFolder(config.trainer.default_root_dir)
        self._on_end.callback(self.run.release)
        self.run.lock()
        model, data = config.model.init_args, config.data.init_args
        may_change = MAY_CHANGE
        if model.get("reset_optimizer") == "never" and model.get("lr_schedule") != "constant":
            may_change = may_change - {"data.init_args.num_rounds"}  # the rate falls over the whole run
        self.run.fix_settings(dict(flatten(self._resolved)), may_change)
        trained, asked = self.run.rounds_trained, data.get("num_rounds", 0)
        if self.run.state.get("finished_rounds", 0) >= max(asked, trained, 1):
            self.stop_finished(trained)
        if asked < trained and self.run.has_begun:
            raise ConfigError(
                f"data.num_rounds = {asked}, but {self.run} has trained {trained} rounds already; give at least that"
            )

    def stop_finished(self, trained: int) -> None:
        """Ends the command: all of the run's rounds are trained."""
        print(f"{self.run} is finished: {trained} rounds are trained and exported. Nothing to do.")
        print(f"For more rounds: --data.num_rounds {trained + 1}; for a new run: --trainer.default_root_dir DIR")
        sys.exit(0)

    def instantiate_classes(self) -> None:
        """Builds what the configuration names; what a constructor refuses is said in the constructor's words."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            raise _refusal(error) from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that cannot be configured into breaking the loop."""
        config = self.config_init[self.subcommand].trainer
        try:
            return super().instantiate_trainer(
                logger=self._logger(config.logger),
                plugins=[*(config.plugins or []), AtomicCheckpointIO()],
                max_epochs=self.num_epochs(self.model, self.datamodule),
                reload_dataloaders_every_n_epochs=1,
                use_distributed_sampler=False,
                enable_checkpointing=False,
                **kwargs,
            )
        except SPPOError:
            raise
        except (ValueError, MisconfigurationException) as error:
            reason = " ".join(str(error).split()).rstrip(".!")
            raise ConfigError(f"trainer: {reason}. Check {self._chosen_for_trainer()}") from error

    def announcement(self, model: Any, data: Any) -> str:
        """What is about to be done, in half a line."""
        return (
            f"{type(model.objective).__name__} from {model.policy_source}, judged by {data.oracle.name} "
            f"(seed {data.seed}, {self.trainer.strategy.root_device.type})"
        )

    def num_epochs(self, model: Any, data: Any) -> int:
        """Lightning epochs of the whole run."""
        rounds = data.num_rounds - data.first_round
        return rounds * model.schedule.epochs_in_round(data.epochs_per_round)

    def fit(self, model: Any, datamodule: Any) -> None:
        """Goes on from the run folder's checkpoint if there is one."""
        self._save_config()
        begins = "goes on" if self.run.last_checkpoint.is_file() else "begins"
        rounds = f"{datamodule.num_rounds} rounds" if datamodule.num_rounds > 1 else "1 round"
        print(f"{self.run} {begins}: {rounds} of {self.announcement(model, datamodule)}", flush=True)
        checkpoint = self.run.last_checkpoint
        try:
            self.trainer.fit(
                model,
                datamodule=datamodule,
                ckpt_path=checkpoint if checkpoint.is_file() else None,
                weights_only=True,
            )
        except RunPaused as pause:
            print(f"{pause}. The same command goes on.")
            return
        except MisconfigurationException as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        except SystemExit as ending:  # how Lightning ends on Ctrl-C, with code 1, and on SIGTERM, with code 0
            print("interrupted; the same command goes on", file=sys.stderr)
            sys.exit(143 if isinstance(ending, SIGTERMException) else 130)
        if model.rounds_finished >= datamodule.num_rounds:
            self.run.update(finished_rounds=model.rounds_finished)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _logger(self, configured: Any) -> Any:
        """Ours unless another one, or none, is asked for; a restart goes on in the same MLflow run."""
        if configured not in (None, True):
            return configured
        logger = RunLogger(self.run.path, run_id=self.run.state.get("mlflow_run_id"))
        if logger.experiment:  # makes the run, so that its id is on disk before anything is logged
            self.run.update(mlflow_run_id=logger.run_id)
        return logger

    @cached_property
    def _resolved(self) -> dict[str, Any]:
        """The resolved configuration without the secrets in it."""
        text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        return mask_secrets(yaml.safe_load(text))

    def _save_config(self) -> None:
        """Writes config.yaml into the run folder and, if there is MLflow, into the run."""
        text = yaml.safe_dump(self._resolved, sort_keys=False, allow_unicode=True)
        with atomic_write(self.run.path / "config.yaml", kind="config") as temporary:
            temporary.write_text(text, encoding="utf-8")
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_text(text, "config.yaml")
                logger.log_hyperparams(
                    {key: value for key, value in flatten(self._resolved) if value is not None and _is_fixed(key)}
                )

    def _chosen_for_trainer(self) -> str:
        """The Trainer's plain settings that are not its defaults: an error is about one of them."""
        config, parser = self.config[self.subcommand].trainer, self._parser(self.subcommand)
        chosen = {key: config[key] for key in vars(config) if config[key] != parser.get_default(f"trainer.{key}")}
        plain = {key: value for key, value in chosen.items() if isinstance(value, str | int | float)}
        return ", ".join(
            f"trainer.{key}={value}" for key, value in plain.items() if key not in ("default_root_dir", "logger")
        )

    def _command_line(self, args: list[str]) -> CommandLine:
        sections = {"trainer": Trainer, "model": self.model_kind, "data": self.data_kind}
        values = {"seed_everything": int, "cpu_threads": int | None, **self.extra_keys}
        known_keys = [f"{section}.{name}" for section, owner in sections.items() for name in parameters(owner)]
        return CommandLine(
            verb=args[0],
            argv=args[1:],
            files=read_config_files(args[1:]),
            roots=sections | values,
            known_keys=[*known_keys, *values, "config", "print_config", "from", "help"],
        )


def _is_fixed(key: str) -> bool:
    """Whether a setting decides what a run computes: MLflow takes a parameter once, and these are worth comparing."""
    return not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _refusal(error: BaseException) -> BaseException:
    """What a constructor raised, out of the exceptions that jsonargparse wraps around it."""
    while error.__cause__ is not None and not isinstance(error, SPPOError):
        error = error.__cause__
    if isinstance(error, SPPOError) or not isinstance(error, ValueError | MisconfigurationException):
        return error
    return ConfigError(f"a class of the configuration refuses its arguments: {' '.join(str(error).split())}")


def main(verb: str, argv: list[str], command: Callable[..., SelfPlayCLI] | None = None) -> int:
    """Runs a Trainer verb.

    Args:
        verb: "fit", "validate", "test" or "predict".
        argv: its arguments, as `cli_files.rewrite` spells them.
        command: a verb's own way of running it. Not set: the verb's class.

    Raises:
        SPPOError: in words for the person at the terminal.
    """
    quieten()
    # In full: an abbreviation would be a second name for a key, and a misspelling could be one.
    parser_kwargs: dict[str, Any] = {"prog": "python -m sppo_lightning", "exit_on_error": False, "allow_abbrev": False}
    usage = {"usage": USAGE.format(verb=verb), "description": "The Trainer's keys:"}
    kind = command or _command(verb, argv)
    kind(
        model_class=getattr(kind, "model_kind", PolicyModule),
        datamodule_class=getattr(kind, "data_kind", SelfPlayDataModule),
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_kwargs={**parser_kwargs, verb: {**parser_kwargs, **usage}},
        args=[verb, *argv],
    )
    return 0


def _command(verb: str, argv: list[str]) -> type[SelfPlayCLI]:
    # Each of these modules has subclasses of this one's.
    from sppo_lightning.cli_control import ControlCLI, is_control

    control = is_control(argv)
    if verb == "fit":
        return ControlCLI if control else SelfPlayCLI
    if control:
        raise ConfigError(
            f"{verb} measures language models; of a run on a control task, fit measures every exported policy itself: "
            "see eval/ and report.html in its folder"
        )
    from sppo_lightning.cli_verbs import VERBS

    return VERBS[verb]
