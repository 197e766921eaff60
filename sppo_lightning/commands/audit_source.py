"""Where the verdicts come from: a file of votes, a judged round, or a judge asked now about a round's responses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sppo_lightning.cli_files import read_config_files
from sppo_lightning.errors import ConfigError
from sppo_lightning.io.votes import Comparison, Votes, VotesBuilder
from sppo_lightning.io.votes_npz import read_votes_npz
from sppo_lightning.io.votes_table import read_votes_table

if TYPE_CHECKING:  # torch would take a second that a file of votes does not need
    import pyarrow as pa

    from sppo_lightning.commands.audit_section import ProgressBar
    from sppo_lightning.oracles.base import PreferenceOracle
    from sppo_lightning.selfplay.store import RoundFolder
    from sppo_lightning.types import Candidates, PreferenceMatrix

TABLES = (".parquet", ".jsonl", ".json", ".csv")
_CONFIGS = (".yaml", ".yml")
_PROMPTS_A_CALL = 32


def read_votes(source: str, round_source: str | None, oracle: str | None, progress: ProgressBar) -> Votes:
    """Reads, or asks for, the verdicts to audit.

    Args:
        source: a file of votes; a round, as a folder or as RUN@round_000; or a .yaml whose `data.oracle` is the judge.
        round_source: with a .yaml, the round whose responses it judges; the newest of its own run if not given.
        oracle: with a round that several oracles judged, the one to audit.
        progress: tells the person who waits.

    Raises:
        ConfigError: there is no such input, or it needs another argument.
        DataError: it cannot be read as what it should be.
    """
    suffix = Path(source).suffix.lower()
    if suffix in _CONFIGS:
        if oracle is not None:
            raise ConfigError(f"audit: --oracle goes with a round; {source} names its judge itself")
        settings = _settings(source)
        folder = _newest_round(source, settings) if round_source is None else _round(round_source)
        return _judged_now(source, settings, folder, progress)
    if round_source is not None:
        raise ConfigError(f"audit: --round goes with a configuration that names a judge, not with {source}")
    if Path(source).is_dir() or re.search(r"@round_\d+$", source):
        return _judged_before(_round(source), oracle)
    if oracle is not None:
        raise ConfigError(f"audit: --oracle goes with a round, not with {source}")
    if not Path(source).is_file():
        raise ConfigError(f"audit: there is no file or round {source}")
    if suffix == ".npz":
        return read_votes_npz(Path(source))
    if suffix in TABLES:
        return read_votes_table(Path(source))
    raise ConfigError(
        f"audit: {source}: the suffix {suffix!r} is not one of {', '.join((*TABLES, '.npz', *_CONFIGS))}, and it is no "
        "round's folder"
    )


def _round(source: str) -> RoundFolder:
    from sppo_lightning.selfplay.store import RoundFolder

    match = re.fullmatch(r"(.+)@round_(\d+)", source)
    path = Path(match[1], "rounds", f"round_{int(match[2]):03d}") if match else Path(source)
    complete = sorted(path.glob("rounds/round_*/manifest.json"))
    if complete:
        rounds = ", ".join(f"{source}@{manifest.parent.name}" for manifest in complete)
        raise ConfigError(f"audit: {source} is a run; say which of its rounds: {rounds}")
    folder = RoundFolder(path)
    if not folder.is_committed:
        raise ConfigError(f"audit: {path} is not a complete round (it has no manifest.json)")
    return folder


def _settings(config: str) -> dict[str, Any]:
    read_config_files(["--config", config])  # what is wrong with the file is said in its words
    return yaml.safe_load(Path(config).read_text(encoding="utf-8-sig"))


def _newest_round(config: str, settings: dict[str, Any]) -> RoundFolder:
    trainer = settings.get("trainer")
    run = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    complete = sorted(Path(run).glob("rounds/round_*/manifest.json")) if run else []
    if not complete:
        raise ConfigError(
            f"audit: {config} names a judge, but its run {run or '(trainer.default_root_dir)'} has no complete round "
            "yet; say whose responses it is to compare, such as --round runs/quickstart@round_000"
        )
    return _round(str(complete[-1].parent))


def _judged_before(folder: RoundFolder, oracle: str | None) -> Votes:
    from sppo_lightning.io import carriers

    judges = sorted(path.parent.name for path in folder.path.glob("preferences/*/self"))
    if oracle is not None and oracle not in judges:
        raise ConfigError(f"audit: {folder} has no verdicts of {oracle}; it has those of {', '.join(judges) or 'none'}")
    if len(judges) != 1 and oracle is None:
        raise ConfigError(
            f"audit: {folder} has the verdicts of {', '.join(judges) or 'no oracle'} on its own responses; choose one "
            "with --oracle NAME"
        )
    stage = f"preferences/{oracle or judges[0]}/self"
    matrix = carriers.preferences_from(_all_chunks(folder, stage), self_play=True)
    return _votes(f"{folder}, {oracle or judges[0]}", _candidates(folder), [matrix])


def _judged_now(config: str, settings: dict[str, Any], folder: RoundFolder, progress: ProgressBar) -> Votes:
    oracle = _oracle(config, settings)
    candidates = _candidates(folder)
    batches = [slice(start, start + _PROMPTS_A_CALL) for start in range(0, len(candidates), _PROMPTS_A_CALL)]
    try:
        matrices = [oracle.compare(candidates.at(batch)) for batch in progress(batches, f"{oracle.name} judges")]
    finally:
        oracle.close()
    return _votes(f"{oracle.name} of {config} on {folder}", candidates, matrices)


def _oracle(config: str, settings: dict[str, Any]) -> PreferenceOracle:
    """Builds `data.oracle` as the Trainer's command line does, and nothing else of the configuration."""
    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    import sppo_lightning.oracles  # noqa: F401 - short class names find what has been imported
    from sppo_lightning.oracles.base import PreferenceOracle

    data = settings.get("data") or {}
    spec = (data.get("init_args") or data).get("oracle") if isinstance(data, dict) else None
    if spec is None:
        raise ConfigError(f"audit: {config} names no judge; write its class below data, oracle, class_path")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--oracle", type=PreferenceOracle)
    try:
        parsed: Namespace = parser.parse_object({"oracle": spec})
        return parser.instantiate_classes(parsed).oracle
    except ArgumentError as error:
        raise ConfigError(f"audit: {config}: data.oracle: {' '.join(str(error).split())}") from error


def _all_chunks(folder: RoundFolder, stage: str) -> pa.Table:
    return folder.read_stage(stage, len(list((folder.path / stage).glob("*.parquet"))))


def _candidates(folder: RoundFolder) -> Candidates:
    from sppo_lightning.io import carriers
    from sppo_lightning.types import SamplingConfig

    prompts, prompt_token_ids = carriers.prompts_from(folder.read_prompts())
    return carriers.candidates_from(
        _all_chunks(folder, "candidates"),
        prompts,
        prompt_token_ids,
        policy=folder.manifest["policy"],
        sampling=SamplingConfig(),  # how they were drawn is no judge's business
    )


def _votes(source: str, candidates: Candidates, matrices: Iterable[PreferenceMatrix]) -> Votes:
    """One comparison a pair, with the oracle's probability; lengths in response tokens."""
    builder = VotesBuilder(source, length_unit="response tokens")
    b = 0
    for matrix in matrices:
        assert matrix.judged_BKJ is not None
        for probs_KK, judged_KK in zip(matrix.probs_BKJ.tolist(), matrix.judged_BKJ.tolist(), strict=True):
            prompt_id, tokens_K = candidates.prompts[b].prompt_id, candidates.token_ids[b]
            for i in range(len(tokens_K)):
                for j in range(i + 1, len(tokens_K)):
                    if not judged_KK[i][j]:
                        builder.leave_out("that the oracle did not judge (pairs)")
                        continue
                    builder.add(
                        f"{source}, prompt {prompt_id!r}, pair ({i}, {j})",
                        Comparison(
                            prompt_id=prompt_id,
                            first=str(i),
                            second=str(j),
                            prob_first=probs_KK[i][j],
                            first_length=float(len(tokens_K[i])),
                            second_length=float(len(tokens_K[j])),
                        ),
                    )
            b += 1
    return builder.build(
        order_known=False, remarks=("an oracle's preferences are averaged over both orders of presentation",)
    )
