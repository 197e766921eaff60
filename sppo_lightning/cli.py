"""The `fit` verb: LightningCLI in subclass mode, our classes as defaults, and the loop's rules enforced."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Short class names (`--model.objective DPO`) find what has been imported.
import sppo_lightning.callbacks
import sppo_lightning.engines
import sppo_lightning.objectives
import sppo_lightning.oracles
from sppo_lightning.errors import ConfigError
from sppo_lightning.io.files import atomic_write
from sppo_lightning.training.checkpoint import AtomicCheckpointIO
from sppo_lightning.training.data import RunPaused, SelfPlayDataModule
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.training.tracking import RunLogger
from sppo_lightning.training.tracking_uri import redact

# The Trainer's settings that cannot work with this loop, and what to write instead.
REFUSED = {
    "max_epochs": "write data.num_rounds and data.epochs_per_round",
    "max_steps": "write data.num_rounds and data.epochs_per_round",
    "min_epochs": "write data.num_rounds",
    "min_steps": "write data.num_rounds",
    "max_time": "stop the run when you like: the same command goes on",
    "accumulate_grad_batches": "write data.global_batch_prompts (the step) and data.max_pack_tokens (the memory)",
    "gradient_clip_val": "write model.max_grad_norm",
    "gradient_clip_algorithm": "write model.max_grad_norm",
    "reload_dataloaders_every_n_epochs": "leave it out: rounds are loaded as they are played",
    "use_distributed_sampler": "leave it out: each step is split over the processes already",
    "enable_checkpointing": "write model.checkpoint_every_n_steps",
    "limit_train_batches": "write data.prompts_per_round",
    "overfit_batches": "write data.prompts_per_round",
    "fast_dev_run": "write data.num_rounds 1 and data.prompts_per_round 4",
    "strategy": "leave it out: a run is one process for now",
    "num_nodes": "leave it out: a run is one process for now",
    "devices": "leave it out: a run is one process for now",
}
# Settings that do not decide what a run computes; every other one is fixed when the run starts.
MAY_CHANGE = frozenset(
    {
        "cpu_threads",
        "data.init_args.num_rounds",
        "data.init_args.stop_after",
        "model.init_args.checkpoint_every_n_steps",
        "trainer.callbacks",
        "trainer.default_root_dir",
        "trainer.enable_progress_bar",
        "trainer.enable_model_summary",
        "trainer.log_every_n_steps",
        "trainer.logger",
        "trainer.profiler",
    }
)
DEFAULT_CALLBACKS = ("RoundProgress", "RoundMetrics", "HeldOutEvaluation", "SampleTable", "ModelCard", "RunSummary")
FIT_KEYS = """\
The keys people change (all of them follow):

  --data.prompts FILE              prompts: .jsonl, .json, .txt, .csv, .parquet, a folder, or a hub dataset
  --model.policy FOLDER_OR_ID      the start policy
  --data.oracle CLASS              who judges                      --data.oracle.KEY VALUE for its arguments
  --model.objective CLASS          SPPO, DPO, ...                  --model.objective.eta 1000
  --data.engine CLASS              who generates                   --data.engine.max_new_tokens 512
  --data.num_rounds N              rounds
  --data.num_candidates K          responses for each prompt
  --data.prompts_per_round N       fresh prompts each round (not set: all prompts each round)
  --data.epochs_per_round N        passes over a round
  --data.global_batch_prompts N    prompts in one optimiser step
  --data.pairing CLASS             BestWorst or All
  --model.optimizer CLASS          --model.optimizer.lr 5e-7
  --data.max_pack_tokens N         tokens through the model at once: lower it when memory is short
  --trainer.default_root_dir DIR   the run's folder
  --seed_everything N              the seed of everything
  --from RUN@round_001             begin at a round of another run and share its generated and judged files

"""


class SelfPlayCLI(LightningCLI):
    """Parses, checks before anything expensive, takes the run folder, and fits."""

    run: RunFolder

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
                "model": {"class_path": "sppo_lightning.training.module.PolicyModule"},
                "data": {"class_path": "sppo_lightning.training.data.SelfPlayDataModule"},
                "trainer.default_root_dir": "runs/sppo",
                "trainer.devices": 1,
                "trainer.enable_progress_bar": False,
                "trainer.enable_model_summary": False,
                "trainer.log_every_n_steps": 1,
                "trainer.callbacks": [{"class_path": f"sppo_lightning.callbacks.{name}"} for name in DEFAULT_CALLBACKS],
            }
        )
        parser.link_arguments("seed_everything", "data.init_args.seed")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit`; its checkpoint is the run folder's own."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses what `main` was given, which is not always `sys.argv`."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Everything that can be refused before a class is built is refused here."""
        config = self.config[self.subcommand]
        parser = self._parser(self.subcommand)
        for key, instead in REFUSED.items():
            if config.trainer[key] != parser.get_default(f"trainer.{key}"):
                raise ConfigError(f"trainer.{key} = {config.trainer[key]} cannot work with self-play rounds: {instead}")
        if config.cpu_threads is not None:
            torch.set_num_threads(config.cpu_threads)
        self.run = RunFolder(config.trainer.default_root_dir)
        self.run.lock()
        settings = self._settings()
        self.run.fix_settings(settings, MAY_CHANGE)
        num_rounds = config.data.init_args.get("num_rounds", 0)
        if num_rounds and self.run.state.get("finished_rounds", 0) >= num_rounds:
            print(f"{self.run} is finished: {num_rounds} rounds are trained and exported. Nothing to do.")
            print(f"For more rounds: --data.num_rounds {num_rounds + 1}; for a new run: --trainer.default_root_dir DIR")
            sys.exit(0)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that cannot be configured into breaking the loop."""
        assert isinstance(self.model, PolicyModule)
        assert isinstance(self.datamodule, SelfPlayDataModule)
        config = self.config_init[self.subcommand].trainer
        rounds = self.datamodule.num_rounds - self.datamodule.first_round
        return super().instantiate_trainer(
            logger=self._logger(config.logger),
            plugins=[*(config.plugins or []), AtomicCheckpointIO()],
            max_epochs=rounds * self.model.schedule.epochs_in_round(self.datamodule.epochs_per_round),
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            **kwargs,
        )

    def fit(self, model: PolicyModule, datamodule: SelfPlayDataModule) -> None:
        """Goes on from the run folder's checkpoint if there is one."""
        self._save_config()
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

    def _dumped(self) -> str:
        """The resolved configuration as YAML, passwords in addresses masked."""
        text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        return redact(text)

    def _settings(self) -> dict[str, Any]:
        """The resolved configuration, flat: dotted key -> value."""
        return dict(_flatten(yaml.safe_load(self._dumped())))

    def _save_config(self) -> None:
        """Writes config.yaml into the run folder and, if there is MLflow, into the run."""
        path = self.run.path / "config.yaml"
        with atomic_write(path, kind="config") as temporary:
            temporary.write_text(self._dumped(), encoding="utf-8")
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_text(path.read_text(encoding="utf-8"), "config.yaml")


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, entry in value.items() for pair in _flatten(entry, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]


def main(verb: str, argv: list[str]) -> int:
    """Runs a Trainer verb.

    Args:
        verb: "fit".
        argv: its arguments.

    Raises:
        SPPOError: in words for the person at the terminal.
    """
    if "--help" in argv or "-h" in argv:
        print(FIT_KEYS)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()  # our own bars say what is going on
    try:
        SelfPlayCLI(
            PolicyModule,
            SelfPlayDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False, verb: {"exit_on_error": False}},
            args=[verb, *_rewrite(argv)],
        )
    except ArgumentError as error:
        raise ConfigError(_readable(str(error))) from None
    return 0


def _rewrite(argv: list[str]) -> list[str]:
    """`--from` is short for `--data.fork_from`, and `configs/...` is found in the package when it is not here."""
    rewritten: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if name == "--from":
            word = f"--data.fork_from{equals}{value}"
        if rewritten and rewritten[-1] in ("--config", "-c"):
            word = resolve_config(word)
        elif name in ("--config", "-c") and equals:
            word = f"{name}={resolve_config(value)}"
        rewritten.append(word)
    return rewritten


def resolve_config(word: str) -> str:
    """`configs/...` as it stands here or, where there is none, in the package."""
    parts = Path(word).parts
    package = Path(sppo_lightning.__file__).parent
    for root in (package, package.parent):  # in the wheel the configurations lie inside, in a checkout beside
        if parts and parts[0] == "configs" and not Path(word).exists() and root.joinpath(word).is_file():
            return str(root.joinpath(word))
    return word


def _readable(message: str) -> str:
    """Jsonargparse's message without the leading boilerplate."""
    return " ".join(message.split())
