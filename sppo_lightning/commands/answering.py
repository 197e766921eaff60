"""Answers to a benchmark's questions: sampled, and of several the best as a judge sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sppo_lightning.commands.measuring import Measuring, digest
from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import Contestant
from sppo_lightning.io.benchmarks import Question, next_prompt
from sppo_lightning.io.benchmarks_answers import Answer
from sppo_lightning.io.chat import check_prompt_lengths
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The response that was taken of those to one prompt.

    Attributes:
        candidate: its index.
        text: what it says.
        num_tokens: how long it is.
        win_rate: P(it beats another of the responses), averaged; None where there was no choice or no verdict.
    """

    candidate: int
    text: str
    num_tokens: int
    win_rate: float | None


def answer(questions: Sequence[Question], contestant: Contestant, setting: Measuring, best_of: int = 1) -> list[Answer]:
    """Answers every turn of every question.

    With `best_of` n, n responses are sampled and the one with the highest win rate over the others is taken, as in the
    best-of-16 of SPPO's Table 1 (arXiv 2405.00675) with PairRM as the judge. The next turn follows the one taken.

    Args:
        questions: from `io.benchmarks.read_questions`.
        contestant: who answers.
        setting: engine, judge, and where responses are kept. A second call samples and judges nothing again.
        best_of: n, at least 1.

    Raises:
        ConfigError: `best_of` below 1.
        DataError: a prompt is too long.
        EngineError, OracleError: generation or judging failed; what is whole is kept.
    """
    if best_of < 1:
        raise ConfigError(f"--best_of must be at least 1, got {best_of}")
    chosen: list[list[Choice]] = [[] for _ in questions]
    for turn in range(1 + max(len(question.later_turns) for question in questions)):
        asked = [i for i, question in enumerate(questions) if turn <= len(question.later_turns)]
        prompts = [next_prompt(questions[i], tuple(choice.text for choice in chosen[i])) for i in asked]
        label = "questions" if turn == 0 else f"questions_turn_{turn + 1}"
        for i, choice in zip(asked, _answers(prompts, label, contestant, setting, best_of), strict=True):
            chosen[i].append(choice)
    return [
        Answer(
            question=question,
            texts=tuple(choice.text for choice in choices),
            num_tokens=tuple(choice.num_tokens for choice in choices),
            notes=_notes(choices[0], best_of, setting),
        )
        for question, choices in zip(questions, chosen, strict=True)
    ]


def _notes(choice: Choice, best_of: int, setting: Measuring) -> dict[str, Any]:
    if best_of == 1:
        return {}
    # Verdicts are 32-bit numbers: further digits are noise.
    win_rate = None if choice.win_rate is None else round(choice.win_rate, 6)
    return {"best_of": best_of, "win_rate": win_rate, "judge": setting.oracle.name}


def _answers(
    prompts: Sequence[Prompt], label: str, contestant: Contestant, setting: Measuring, best_of: int
) -> list[Choice]:
    tokenizers = {id(t): t for t in (setting.open_policy(member).tokenizer for member, _ in contestant.members)}
    for tokenizer in tokenizers.values():
        check_prompt_lengths(prompts, tokenizer, setting.max_prompt_tokens)
    if best_of > 1:
        setting.oracle.check_prompts(prompts)
    bank = setting.bank(prompts, label)
    candidates = bank.responses(contestant, best_of)
    verdicts = None
    if best_of > 1:
        who = [[member.name, weight] for member, weight in contestant.members]
        verdicts = setting.judged(f"{bank.key}-best_of_{best_of}-{digest(who)}", candidates)
    return [_choice(candidates, b, verdicts) for b in range(len(candidates))]


def _choice(candidates: Candidates, b: int, verdicts: PreferenceMatrix | None) -> Choice:
    """The response with the highest mean win rate over the others; the first of equals or where nothing was judged."""
    best, win_rate = 0, None
    if verdicts is not None:
        assert verdicts.judged_BKJ is not None
        judged_KK = verdicts.judged_BKJ[b] & ~torch.eye(verdicts.judged_BKJ.shape[1], dtype=torch.bool)
        count_K = judged_KK.sum(1)
        if bool(count_K.any()):
            total_K = torch.where(judged_KK, verdicts.probs_BKJ[b].double(), 0.0).sum(1)
            win_rate_K = torch.where(count_K > 0, total_K / count_K.clamp(min=1), -1.0)
            best = int(win_rate_K.argmax())
            win_rate = float(win_rate_K[best])
    return Choice(
        candidate=best,
        text=candidates.texts[b][best],
        num_tokens=len(candidates.token_ids[b][best]),
        win_rate=win_rate,
    )
