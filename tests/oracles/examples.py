"""How the contract test builds each oracle, and responses to judge. A new oracle needs one line in EXAMPLES."""

import functools
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sppo_lightning.oracles
from sppo_lightning.errors import WaitingForLabels
from sppo_lightning.io.labels import LabelFolder
from sppo_lightning.oracles import (
    Constrained,
    Constraint,
    Ensemble,
    Forbidden,
    Function,
    GeneralPreference,
    Human,
    Intransitive,
    LLMBlender,
    LLMJudge,
    MatrixFunction,
    Noisy,
    PairRM,
    PreferenceOracle,
    RewardModel,
    ScoreToPreference,
    Shuffled,
    StyleGame,
    TargetLength,
    Verifier,
)
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.oracles.round_judge import RoundJudge
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import Candidates, Prompt, SamplingConfig

from .judge_models import shared
from .scripted_server import ScriptedServer, longer

# Class name -> a function of an empty folder that returns an oracle which needs no network and no weights.
EXAMPLES: dict[str, Callable[[Path], PreferenceOracle]] = {
    "StyleGame": lambda folder: StyleGame(),
    "ScoreToPreference": lambda folder: ScoreToPreference(TargetLength(20), scale=0.1),
    "Shuffled": lambda folder: Shuffled(StyleGame(), seed=3),
    "Verifier": lambda folder: Verifier(match="regex"),
    "Constrained": lambda folder: Constrained(StyleGame(), [Constraint(Forbidden("kettle"))]),
    "Ensemble": lambda folder: Ensemble({"style": StyleGame(), "length": ScoreToPreference(TargetLength(20), 0.1)}),
    "Function": lambda folder: Function(user_file(folder, "prefer")),
    "Human": lambda folder: Obedient(str(folder), max_pairs=10**6),
    "Intransitive": lambda folder: Intransitive(StyleGame(), strength=0.5),
    "GeneralPreference": lambda folder: GeneralPreference(shared("gpm"), max_tokens=64, device="cpu"),
    "LLMBlender": lambda folder: llm_blender(shared("blender")),
    "LLMJudge": lambda folder: LLMJudge("judge", chat_server().url, logprobs=False),
    "MatrixFunction": lambda folder: MatrixFunction(user_file(folder, "judge")),
    "PairRM": lambda folder: PairRM(shared("pairrm"), device="cpu"),
    "RewardModel": lambda folder: RewardModel(shared("classifier"), max_tokens=64, device="cpu"),
    "Noisy": lambda folder: Noisy(StyleGame(), flip=0.3, temperature=2.0),
    "KeptMatrices": lambda folder: kept(MatrixFunction(user_file(folder, "judge")), folder),
    "KeptPairs": lambda folder: kept(Function(user_file(folder, "prefer")), folder),
    "RoundJudge": lambda folder: RoundJudge(StyleGame(), [], seed=1),
}


def kept(oracle: PreferenceOracle, folder: Path) -> PreferenceOracle:
    return Judging(cache=str(folder / "judgements.db")).keep(oracle, folder / "run", "contract", NullProgress())


def llm_blender(model: str) -> PreferenceOracle:
    if importlib.util.find_spec("llm_blender") is None:
        pytest.skip("needs the extra `judge`: llm-blender is not installed")
    return LLMBlender(model, device="cpu")


@functools.cache
def chat_server() -> ScriptedServer:
    """One server on 127.0.0.1 for the whole session; it ends with the process."""
    return ScriptedServer(longer)


USER_FILE = """
def prefer(pairs):
    return [0.5 + 0.4 * (len(pair.first) - len(pair.second)) / (len(pair.first) + len(pair.second)) for pair in pairs]


def judge(prompt, rows, columns):
    return [[0.5 + 0.1 * ((len(r) > len(c)) - (len(r) < len(c))) for c in columns] for r in rows]
"""


def user_file(folder: Path, function: str) -> str:
    (folder / "my_judge.py").write_text(USER_FILE)
    return f"{folder / 'my_judge.py'}:{function}"


class Obedient(Human):
    """People who label whatever they are asked about, at once, and like the longer text."""

    def compare(self, candidates, opponents=None):
        for _ in range(2):
            try:
                return super().compare(candidates, opponents)
            except WaitingForLabels:
                folder = LabelFolder(self.folder)
                for pair in folder.tasks().keys() - folder.labels().keys():
                    task = folder.tasks()[pair]
                    difference = len(repr(task.first)) - len(repr(task.second))
                    folder.answer(pair, "first" if difference > 0 else "second" if difference else "tie")
        raise AssertionError("asked again for what has a label")


# Oracles whose verdict on a response depends, on purpose, on its place among the candidates.
NOT_EQUIVARIANT = {"Shuffled"}


def concrete_oracles() -> list[type[PreferenceOracle]]:
    for module in pkgutil.walk_packages(sppo_lightning.oracles.__path__, "sppo_lightning.oracles."):
        importlib.import_module(module.name)
    pending, found = [PreferenceOracle], set()
    while pending:
        for subclass in pending.pop().__subclasses__():
            pending.append(subclass)
            if not inspect.isabstract(subclass) and subclass.__module__.startswith("sppo_lightning."):
                found.add(subclass)
    return sorted(found, key=lambda oracle: oracle.__name__)


def candidates(texts_by_prompt: dict[str, list[str]], **metadata: object) -> Candidates:
    """Responses by prompt text; their token ids are their UTF-8 bytes."""
    metadata = metadata or {"answer": "Briefly, .*"}
    prompts = [
        Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": text},), metadata=metadata)
        for b, text in enumerate(texts_by_prompt)
    ]
    texts = list(texts_by_prompt.values())
    return Candidates(
        prompts=prompts,
        prompt_token_ids=[list(prompt.text.encode()) for prompt in prompts],
        token_ids=[[list(text.encode()) for text in row] for row in texts],
        texts=texts,
        finish_reasons=[["stop"] * len(row) for row in texts],
        policy="start",
        sampling=SamplingConfig(),
    )
