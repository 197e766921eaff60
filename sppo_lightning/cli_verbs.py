"""`validate`, `test` and `predict`: the Trainer's verbs that measure a policy, with the keys of `fit` and a few more.

They build the model and the data that a configuration names, a subclass of the user's included, and read the run
folder. They never start, lock or change a run, so a finished or running one may be measured, and the settings may
differ from those it was started with: another judge is `--data.oracle CLASS`, another temperature
`--data.engine.temperature 0.7`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from sppo_lightning.cli import SelfPlayCLI
from sppo_lightning.cli_files import read_config_files
from sppo_lightning.commands.alpaca_eval import test
from sppo_lightning.commands.measuring import Measuring, judge_name
from sppo_lightning.commands.predict import predict
from sppo_lightning.commands.validate import validate
from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import Member
from sppo_lightning.evaluation.responses import HELD_OUT
from sppo_lightning.io.benchmarks import BenchmarkFormat
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.training.data import SelfPlayDataModule
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policy import StoredPolicy, load_tokenizer
from sppo_lightning.training.progress import StageProgress
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.types import PolicyHandle

_ROOT = "trainer.default_root_dir"
_SUFFIXES = {"alpaca_eval": "json", "arena_hard": "jsonl", "mt_bench": "jsonl", "jsonl": "jsonl"}


class MeasuringCLI(SelfPlayCLI):
    """Parses and builds as `fit` does, then measures instead of training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of `fit`, and whose policy is measured."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--policy",
            type=str | None,
            default=None,
            help="start, round_003 or mixture of the run, a policy's folder, a hub id, or a mixture.json; not set: the "
            "run's newest policy",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Also finds the run: a run folder's own config.yaml names the folder it lies in, wherever that was moved."""
        super().parse_arguments(parser, args)
        named_here = any(word.partition("=")[0] == f"--{_ROOT}" for word in args)
        homes = [Path(file.path).parent for file in read_config_files(args[1:])]
        homes = [home for home in homes if home.joinpath("run.json").is_file()]
        if homes and not named_here:
            self.config[self.config.subcommand][_ROOT] = str(homes[-1])

    def before_instantiate_classes(self) -> None:
        """Takes no lock, and compares nothing with what the run was started with."""
        config = self.config[self.subcommand]
        if config.cpu_threads is not None:
            torch.set_num_threads(config.cpu_threads)
        self.run = RunFolder(config.trainer.default_root_dir)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer for its device: no logger and no callback, which would write into the run."""
        return LightningCLI.instantiate_trainer(self, logger=False, callbacks=[], enable_checkpointing=False, **kwargs)

    def setting(self, model: PolicyModule, data: SelfPlayDataModule, beside: str | None) -> Measuring:
        """What the work functions take.

        Args:
            model: built from the configuration.
            data: built from the configuration.
            beside: the output, for what is kept where there is no run.

        Raises:
            ConfigError: there is neither a run nor an output.
            RunFolderError: the run's run.json is damaged.
        """
        self.trainer.strategy.connect(model)
        model.trainer = data.trainer = self.trainer
        data.progress = StageProgress()
        begun = bool(self.run.state)
        if not begun and beside is None:
            raise ConfigError(
                f"{self.run}: there is no run in this folder. Name one: --config runs/NAME/config.yaml, or "
                "--trainer.default_root_dir runs/NAME"
            )
        return Measuring(
            run=self.run.path if begun else None,
            folder=self.run.path / "eval" if begun else Path(f"{beside}.parts"),
            start=model.policy_source,
            engine=data.engine,
            oracle=data.judging.keep(
                data.oracle, self.run.path if begun else Path(f"{beside}.parts"), "held-out", data.progress
            ),
            judge=judge_name(data.oracle, self._resolved["data"]["init_args"]["oracle"]),
            open_policy=PolicyShelf(model, self.trainer.strategy.root_device),
            seed=data.seed,
            max_prompt_tokens=data.max_prompt_tokens,
            progress=data.progress,
        )


class ValidateCLI(MeasuringCLI):
    """Win rates on held-out prompts."""

    extra_keys: ClassVar[dict[str, Any]] = {
        "policy": str | None,
        "against": list[str],
        "prompts": str | None,
        "num_samples": int,
        "output": str | None,
    }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of `validate`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--against",
            type=str,
            nargs="+",
            default=[],
            help="start, previous, all (the run's others), or whatever --policy may be; not set: start previous",
        )
        parser.add_argument(
            "--prompts", type=str | None, default=None, help="a file of prompts; not set: the run's held-out prompts"
        )
        parser.add_argument("--num_samples", type=int, default=4, help="responses of each policy to each prompt")
        parser.add_argument("--output", type=str | None, default=None, help="a json file; not set: eval/validate/")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`validate`, without the Trainer's own arguments."""
        return {"validate": {"model", "dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only"}}

    def validate(self, model: PolicyModule, datamodule: SelfPlayDataModule) -> None:
        """See `commands.validate`."""
        config = self.config[self.subcommand]
        setting = self.setting(model, datamodule, config.output)
        validate(
            setting,
            policy=config.policy,
            against=config.against,
            prompts=read_prompts(config.prompts) if config.prompts else datamodule.held_out_prompts,
            label=Path(config.prompts).stem if config.prompts else HELD_OUT,
            num_samples=config.num_samples,
            output=config.output,
        )


class PredictCLI(MeasuringCLI):
    """Answers to a file of prompts."""

    extra_keys: ClassVar[dict[str, Any]] = {
        "policy": str | None,
        "prompts": str,
        "format": BenchmarkFormat,
        "best_of": int,
        "name": str | None,
        "output": str | None,
    }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of `predict`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--prompts", type=str, required=True, help="the prompts, or a benchmark's questions")
        parser.add_argument(
            "--format",
            type=BenchmarkFormat,
            default="jsonl",
            help=f"whose questions and answers: {', '.join(get_args(BenchmarkFormat))}",
        )
        parser.add_argument(
            "--best_of", type=int, default=1, help="sample so many responses and keep the one data.oracle prefers"
        )
        parser.add_argument(
            "--name", type=str | None, default=None, help="what the answers call the policy; not set: RUN-POLICY"
        )
        parser.add_argument("--output", type=str | None, default=None, help="the answer file; not set: eval/predict/")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`predict`, without the Trainer's own arguments."""
        skip = {"model", "dataloaders", "datamodule", "return_predictions", "ckpt_path", "weights_only"}
        return {"predict": skip}

    def predict(self, model: PolicyModule, datamodule: SelfPlayDataModule) -> None:
        """See `commands.predict`."""
        config = self.config[self.subcommand]
        setting = self.setting(model, datamodule, config.output)
        policy = config.policy or setting.newest()
        name = f"{Path(policy).stem}-{Path(config.prompts).stem}-{config.format}-best_of_{config.best_of}"
        predict(
            setting,
            policy=policy,
            prompts=config.prompts,
            format=config.format,
            best_of=config.best_of,
            name=config.name,
            output=config.output or str(setting.folder / "predict" / f"{name}.{_SUFFIXES[config.format]}"),
        )


class TestCLI(MeasuringCLI):
    """AlpacaEval with the configuration's judge."""

    __test__ = False  # pytest takes the name for a test's
    extra_keys: ClassVar[dict[str, Any]] = {
        "policy": str | None,
        "prompts": str,
        "baseline": str | None,
        "instruction_difficulty": str | None,
        "gamed_baseline": str | None,
        "name": str | None,
        "output": str | None,
    }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of `test`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--prompts", type=str, required=True, help="AlpacaEval's questions, alpaca_eval.json")
        parser.add_argument(
            "--baseline",
            type=str | None,
            default=None,
            help="a baseline's model_outputs.json; not set: the outputs that stand beside the questions",
        )
        parser.add_argument(
            "--instruction_difficulty", type=str | None, default=None, help="instruction_difficulty.csv"
        )
        parser.add_argument("--gamed_baseline", type=str | None, default=None, help="df_gamed.csv")
        parser.add_argument(
            "--name", type=str | None, default=None, help="what the answers call the policy; not set: RUN-POLICY"
        )
        parser.add_argument("--output", type=str | None, default=None, help="a folder; not set: eval/test/POLICY-FILE")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`test`, without the Trainer's own arguments."""
        return {"test": {"model", "dataloaders", "ckpt_path", "verbose", "datamodule", "weights_only"}}

    def test(self, model: PolicyModule, datamodule: SelfPlayDataModule) -> None:
        """See `commands.test`."""
        config = self.config[self.subcommand]
        setting = self.setting(model, datamodule, config.output)
        policy = config.policy or setting.newest()
        test(
            setting,
            policy=policy,
            prompts=config.prompts,
            baseline=config.baseline,
            instruction_difficulty=config.instruction_difficulty,
            gamed_baseline=config.gamed_baseline,
            name=config.name,
            output=config.output or str(setting.folder / "test" / f"{Path(policy).stem}-{Path(config.prompts).stem}"),
        )


class PolicyShelf:
    """The policies that are measured: one in memory at a time, each with its own tokenizer.

    Args:
        model: says how policies are loaded; its tokenizer is that of the run's policies.
        device: where they answer.
    """

    def __init__(self, model: PolicyModule, device: torch.device) -> None:
        self._model, self._device = model, device
        self._policies: dict[Member, StoredPolicy] = {}

    def __call__(self, member: Member) -> PolicyHandle:
        """A member, loaded when its weights are asked for; lets go of all others."""
        if member not in self._policies:
            run = self._model.run_folder.path
            inside = Path(member.source).resolve().is_relative_to((run / "exports").resolve())
            own = inside or member.source == self._model.policy_source
            trust = self._model.trust_remote_code
            tokenizer = self._model.tokenizer if own else load_tokenizer(member.source, trust)
            self._policies[member] = StoredPolicy(
                member.name, member.source, tokenizer, self._model.policy_dtype, self._device, trust
            )
        for other, policy in self._policies.items():
            if other != member:
                policy.close()
        return self._policies[member]


VERBS: dict[str, type[SelfPlayCLI]] = {"validate": ValidateCLI, "test": TestCLI, "predict": PredictCLI}
