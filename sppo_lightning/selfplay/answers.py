"""What an engine or an oracle returned is about what it was asked: somebody else's class may not know the rules."""

from __future__ import annotations

from collections.abc import Sequence

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import EngineError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_matrix
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


def check_responses(
    engine: Engine,
    candidates: Candidates,
    prompts: Sequence[Prompt],
    prompt_token_ids: Sequence[Sequence[int]],
    count: int,
) -> None:
    """These prompts, this many responses to each, these prompt tokens.

    Args:
        engine: who answered.
        candidates: the answer.
        prompts: the prompts asked.
        prompt_token_ids: as the policy's chat template gives them.
        count: responses asked for, a prompt.

    Raises:
        EngineError: names the first prompt that is wrong.
    """
    name = type(engine).__name__
    if len(candidates) != len(prompts):
        raise EngineError(f"{name} returned responses for {len(candidates)} prompts, {len(prompts)} were asked")
    for prompt, asked, seen, number in zip(
        prompts, prompt_token_ids, candidates.prompt_token_ids, candidates.num_candidates, strict=True
    ):
        if number != count:
            raise EngineError(
                f"{name} returned {number} responses for prompt {prompt.prompt_id}, {count} were asked for"
            )
        if list(asked) != list(seen):
            raise EngineError(
                f"{name} saw other tokens for prompt {prompt.prompt_id} than the policy's chat template gives; it must "
                "use the policy's own tokenizer"
            )


def check_verdicts(
    oracle: PreferenceOracle, matrix: PreferenceMatrix, candidates: Candidates, opponents: Candidates | None
) -> None:
    """A verdict for every pair of these responses.

    Args:
        oracle: who judged.
        matrix: the verdicts.
        candidates: the rows.
        opponents: the columns; None in self-play.

    Raises:
        OracleError: the matrix has another shape or kind.
    """
    check_matrix(oracle.name, matrix, candidates, opponents)
