"""Questions to judges as keys, and their answers as bytes: what the judgement cache holds."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import torch

from sppo_lightning.oracles.ragged import judged_mask, pad
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt

_FORMAT = 1  # another one, and nothing kept is found any more


def key(judge: str, prompt: Prompt, *texts: object) -> bytes:
    """The name under which an answer is kept: the judge's identity, the prompt and the texts.

    A judge may read all of a prompt but its id: a reference answer is part of the question.
    """
    content = [_FORMAT, judge, prompt.conversation, dict(prompt.metadata), *texts]
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=20).digest()


def packed(number: float | None) -> bytes | None:
    """A probability or a score; None: there is none, for good."""
    return None if number is None else struct.pack("<d", number)


def unpacked(answer: bytes | None) -> float | None:
    """What `packed` packed."""
    return None if answer is None else struct.unpack("<d", answer)[0]


def as_json(matrix: PreferenceMatrix, b: int, K: int, J: int) -> bytes | None:
    """One prompt's verdicts; None where there is none between two different responses."""
    assert matrix.judged_BKJ is not None
    judged_KJ, probs_KJ = matrix.judged_BKJ[b, :K, :J], matrix.probs_BKJ[b, :K, :J]
    others_KJ = ~torch.eye(K, J, dtype=torch.bool) if matrix.self_play else torch.ones(K, J, dtype=torch.bool)
    if not bool((judged_KJ & others_KJ).any()) and bool(others_KJ.any()):
        return None
    scores = None if matrix.scores_BK is None else matrix.scores_BK[b, :K].tolist()
    probs = [
        [prob if is_judged else None for prob, is_judged in zip(*row, strict=True)]
        for row in zip(probs_KJ.tolist(), judged_KJ.tolist(), strict=True)
    ]
    return json.dumps({"probs": probs, "scores": scores}).encode()


def from_json(
    answers: Sequence[bytes | None], candidates: Candidates, opponents: Candidates | None
) -> PreferenceMatrix:
    """What `as_json` made of each of these prompts, in one matrix again."""
    columns = opponents or candidates
    exists_BKJ = judged_mask(candidates, columns)
    probs_BKJ, judged_BKJ = torch.full(exists_BKJ.shape, 0.5), torch.zeros_like(exists_BKJ)
    scores: list[list[float]] = []
    has_scores = False
    for b, answer in enumerate(answers):
        K, J = candidates.num_candidates[b], columns.num_candidates[b]
        known: dict[str, Any] = {"probs": [[None] * J] * K, "scores": None} if answer is None else json.loads(answer)
        has_scores |= known["scores"] is not None
        scores.append(known["scores"] or [math.nan] * K)
        for i, row in enumerate(known["probs"]):
            for j, prob in enumerate(row):
                if prob is not None:
                    probs_BKJ[b, i, j], judged_BKJ[b, i, j] = prob, True
    return PreferenceMatrix(
        probs_BKJ=probs_BKJ,
        judged_BKJ=judged_BKJ,
        scores_BK=pad(scores, math.nan, torch.float32) if has_scores else None,
        self_play=opponents is None,
        prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
    )
