"""Where the entries of a [B, K, J] matrix are real although prompts have different numbers of responses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sppo_lightning.errors import OracleError
from sppo_lightning.types import Candidates, PreferenceMatrix


def check_same_prompts(candidates: Candidates, opponents: Candidates | None) -> Candidates:
    """Returns the column responses (`candidates` itself in self-play).

    Raises:
        OracleError: the two do not answer the same prompts in the same order.
    """
    if opponents is None:
        return candidates
    ours = [prompt.prompt_id for prompt in candidates.prompts]
    theirs = [prompt.prompt_id for prompt in opponents.prompts]
    if ours != theirs:
        raise OracleError(
            f"Candidates and opponents must answer the same prompts in the same order: {len(ours)} and {len(theirs)} "
            f"prompts, of which {len(set(ours) & set(theirs))} are common"
        )
    return opponents


def judged_mask(candidates: Candidates, columns: Candidates) -> Tensor:
    """Returns bool [B, K, J]: True where both responses exist, K and J being the largest numbers of the batch."""
    rows_B = torch.tensor(candidates.num_candidates)
    columns_B = torch.tensor(columns.num_candidates)
    has_row_BK = torch.arange(int(rows_B.max())) < rows_B[:, None]
    has_column_BJ = torch.arange(int(columns_B.max())) < columns_B[:, None]
    return has_row_BK[:, :, None] & has_column_BJ[:, None, :]


def check_matrix(oracle: str, matrix: PreferenceMatrix, candidates: Candidates, opponents: Candidates | None) -> None:
    """Somebody else's class may not know the rules.

    Raises:
        OracleError: the verdicts are not about these responses: another shape or kind.
    """
    expected = (len(candidates), max(candidates.num_candidates), max((opponents or candidates).num_candidates))
    if tuple(matrix.probs_BKJ.shape) != expected or matrix.self_play != (opponents is None):
        raise OracleError(
            f"{oracle} returned preferences of shape {tuple(matrix.probs_BKJ.shape)} with "
            f"self_play={matrix.self_play}; for {expected[0]} prompts, {expected[1]} candidates and {expected[2]} "
            f"opponents it must be {expected} with self_play={opponents is None}"
        )


def pad(values_BK: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
    """Returns [B, K] with `fill` where a prompt has fewer than K values."""
    K = max(map(len, values_BK))
    return torch.tensor([[*values, *[fill] * (K - len(values))] for values in values_BK], dtype=dtype)
