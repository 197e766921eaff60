"""What a parsed configuration may say: refusals before a class is built, and what may change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sppo_lightning.cli_types import accepts_null, imported, parameters, spoken
from sppo_lightning.errors import ConfigError

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
    "precision": "write model.dtype bfloat16: the frozen log-probabilities must be computed in the same arithmetic",
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
        *(
            f"data.init_args.judging.{name}"
            for name in (
                "block_pairs",
                "cache",
                "max_quarantined",
                "max_queries",
                "max_usd",
                "retry_failed",
                "usd_per_query",
            )
        ),
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
_MAX_SEED = 2**32 - 1  # numpy takes no more
_MAX_THREADS = 1024


def check(config: Mapping[str, Any], defaults: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Refuses what parses but cannot work, before a class is built.

    Args:
        config: the parsed configuration as plain dictionaries: `trainer`, `model`, `data`, `seed_everything`, ...
        defaults: the Trainer's defaults of the keys in `refused`.
        refused: settings of the Trainer's that cannot work with the loop, and what to write instead.

    Raises:
        ConfigError: names the key, and what to write instead.
    """
    if not isinstance(config["trainer"], dict):
        raise ConfigError(f"trainer: expected settings below it, such as accelerator: cpu, got {config['trainer']}")
    for key, instead in refused.items():
        if config["trainer"][key] != defaults[key]:
            raise ConfigError(f"trainer.{key} = {config['trainer'][key]} cannot work with self-play rounds: {instead}")
    _refuse_outside("seed_everything", config["seed_everything"], 0, _MAX_SEED)
    if config["cpu_threads"] is not None:
        _refuse_outside("cpu_threads", config["cpu_threads"], 1, _MAX_THREADS)
    if config["trainer"]["log_every_n_steps"] is not None:
        _refuse_outside("trainer.log_every_n_steps", config["trainer"]["log_every_n_steps"], 1)
    folder = config["trainer"]["default_root_dir"]
    if not folder or "\0" in str(folder):
        raise ConfigError(f"trainer.default_root_dir must name a folder for the run, got {folder!r}")
    for root in ("model", "data"):
        _refuse_nulls(root, config[root])
    _try_optimizer(config["model"]["init_args"].get("optimizer"))


def flatten(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted key, value); lists stay whole."""
    if isinstance(settings, dict) and settings:
        for key, entry in settings.items():
            yield from flatten(entry, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, settings


def _refuse_outside(key: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        raise ConfigError(
            f"{key} must be {f'at least {least}' if most is None else f'from {least} to {most}'}, got {value}"
        )


def _refuse_nulls(key: str, spec: Any) -> None:
    """The parser takes null for any argument of a class, whatever its type."""
    if isinstance(spec, list):
        for item in spec:
            _refuse_nulls(key, item)
    if not isinstance(spec, dict) or "class_path" not in spec:
        return
    types = parameters(imported(spec["class_path"]))
    for name, value in spec.get("init_args", {}).items():
        if value is None and not accepts_null(types.get(name)):
            raise ConfigError(f"{key}.{name}: expected {spoken(types[name])}, got null")
        _refuse_nulls(f"{key}.{name}", value)


def _try_optimizer(spec: Any) -> None:
    """Builds the optimiser over one number: its own checks of its arguments would come after the model is loaded."""
    if not isinstance(spec, dict):
        return
    try:
        imported(spec["class_path"])([torch.nn.Parameter(torch.zeros(1, 1))], **spec.get("init_args", {}))
    except (ValueError, TypeError) as error:
        name = spec["class_path"].rpartition(".")[2]
        raise ConfigError(f"model.optimizer: {name} refuses its arguments: {error}") from error
