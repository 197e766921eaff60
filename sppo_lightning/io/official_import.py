"""Reads preference data under the column names of SPPO's official datasets; `io.official` says what they mean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppo_lightning.errors import DataError, OracleError
from sppo_lightning.io.prompt_rows import ends_with_answer, read_row
from sppo_lightning.io.sources import source_rows
from sppo_lightning.types import PreferenceMatrix, Prompt, Targets


@dataclass(frozen=True, kw_only=True)
class OfficialData:
    """What an official file says, keyed by prompt: B prompts, K responses each.

    Attributes:
        prompts: the B prompts.
        texts: [B][K] the responses; K may differ.
        matrix: [B, K, K]; what the file does not say is not judged.
        targets: B, the file's pairs, of weight 1, and win rates, NaN where the file does not say. A prompt of a file
            without pairs has no rows and pairs.
    """

    prompts: list[Prompt]
    texts: list[list[str]]
    matrix: PreferenceMatrix
    targets: list[Targets]


@dataclass
class _Entry:
    """What is known of one prompt; rows are added to it one by one."""

    where: str
    prompt: Prompt
    texts: list[str]
    probs_KK: Tensor
    judged_KK: Tensor
    win_rates: list[float]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    pair_probs: list[float] = field(default_factory=list)

    def targets(self) -> Targets:
        rows = tuple(sorted({index for pair in self.pairs for index in pair}))
        return Targets(
            win_rate_K=torch.tensor(self.win_rates),
            rows=rows,
            row_weights=(1.0,) * len(rows),
            pairs=tuple(self.pairs),
            pair_probs=tuple(self.pair_probs),
            pair_weights=(1.0,) * len(self.pairs),
        )


def read_official(source: str | Path | Sequence[Any]) -> OfficialData:
    """Reads what `io.official.write_official` wrote, or either of the two official files.

    A row has `chosen`, `rejected` and `chosen_probs`, or `responses` (or `generate_0`, `generate_1`, ... as lists of
    messages) and `probability`, or all of them. Rows of one prompt are put together: with responses they must agree in
    them and give several pairs; without, each brings two responses that were judged against each other alone. A pair
    of one response with itself, the official scripts' tie, is left out.

    Args:
        source: see `io.sources.source_rows`.

    Returns:
        The prompts in the order of their first rows.

    Raises:
        DataError: names the row and column.
    """
    entries: dict[str, _Entry] = {}
    for where, row in source_rows(source):
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a row must be an object with columns, not {type(row).__name__}")
        columns = {name: value for name, value in row.items() if value is not None}
        entry = _read_entry(columns, where)
        known = entries.setdefault(entry.prompt.prompt_id, entry)
        if known is entry:
            continue
        if _has_responses(columns):
            _add_pair_of_same(known, entry)
        else:
            _add_responses(known, entry)
    K = max(len(entry.texts) for entry in entries.values())
    probs_BKK = torch.full((len(entries), K, K), 0.5)
    judged_BKK = torch.zeros(len(entries), K, K, dtype=torch.bool)
    for b, entry in enumerate(entries.values()):
        n = len(entry.texts)
        probs_BKK[b, :n, :n], judged_BKK[b, :n, :n] = entry.probs_KK, entry.judged_KK
    return OfficialData(
        prompts=[entry.prompt for entry in entries.values()],
        texts=[entry.texts for entry in entries.values()],
        matrix=PreferenceMatrix(probs_BKJ=probs_BKK, judged_BKJ=judged_BKK, prompt_ids=list(entries)),
        targets=[entry.targets() for entry in entries.values()],
    )


def _add_pair_of_same(known: _Entry, new: _Entry) -> None:
    if known.texts != new.texts or not torch.equal(known.probs_KK, new.probs_KK):
        raise DataError(
            f"{new.where}: has other responses or probabilities than {known.where}, which is the same prompt "
            f"({known.prompt.prompt_id}); remove one of them or give each a 'prompt_id' of its own"
        )
    given = zip(known.win_rates, new.win_rates, strict=True)
    known.win_rates = [before if math.isnan(now) else now for before, now in given]
    known.pairs += new.pairs
    known.pair_probs += new.pair_probs


def _add_responses(known: _Entry, new: _Entry) -> None:
    offset = len(known.texts)
    known.texts += new.texts
    known.win_rates += new.win_rates
    known.probs_KK = torch.block_diag(known.probs_KK, new.probs_KK)
    known.judged_KK = torch.block_diag(known.judged_KK, new.judged_KK)
    known.pairs += [(chosen + offset, rejected + offset) for chosen, rejected in new.pairs]
    known.pair_probs += new.pair_probs


# --- one row ----------------------------------------------------------------------------------------------------------


def _read_entry(row: dict[str, Any], where: str) -> _Entry:
    has_pair = "chosen" in row or "rejected" in row
    if not has_pair and not _has_responses(row):
        raise DataError(
            f"{where}: has neither 'chosen', 'rejected' and 'chosen_probs' nor 'responses' and 'probability' "
            f"(columns with a value: {', '.join(map(repr, row)) or 'none'})"
        )
    prompt = _read_prompt(row, where)
    answers = (
        [_conversation(row, column, where)[-1]["content"] for column in ("chosen", "rejected")] if has_pair else []
    )
    if _has_responses(row):
        texts = _responses(row, where)
        probability = _lists(row, "probability", len(texts), where)
        win_rates = _list(row["win_rate"], len(texts), f"{where}, column 'win_rate'") if "win_rate" in row else []
    else:
        texts = answers
        prob = _probability(row.get("chosen_probs"), f"{where}, column 'chosen_probs'")
        probability, win_rates = [[0.5, prob], [1 - prob, 0.5]], []
    probs_KK = torch.tensor(probability)
    entry = _Entry(
        where, prompt, texts, probs_KK.nan_to_num(0.5), ~probs_KK.isnan(), win_rates or [math.nan] * len(texts)
    )
    _check_matrix(entry)
    if has_pair:
        _set_pair(entry, row, answers)
    return entry


def _read_prompt(row: dict[str, Any], where: str) -> Prompt:
    fields = {name: row[name] for name in ("prompt_id", "id", "prompt") if name in row}
    first = next((name for name in ("chosen", "generate_0") if name in row), None)
    if first is not None:
        # The official pair file has no prompt beside the conversations, and theirs may be a plain string.
        fields["prompt"] = _conversation(row, first, where)[:-1]
    return read_row(fields, where)[0]


def _conversation(row: dict[str, Any], column: str, where: str) -> list[dict[str, Any]]:
    value: Any = row.get(column)
    if not ends_with_answer(value) or not isinstance(value[-1].get("content"), str):
        raise DataError(
            f"{where}, column {column!r}: must be a list of messages that ends with the assistant's response"
        )
    return value


def _has_responses(row: dict[str, Any]) -> bool:
    return "responses" in row or "generate_0" in row


def _responses(row: dict[str, Any], where: str) -> list[str]:
    if "responses" not in row:
        columns = sorted((name for name in row if re.fullmatch(r"generate_\d+", name)), key=lambda name: int(name[9:]))
        return [_conversation(row, column, where)[-1]["content"] for column in columns]
    texts = row["responses"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}, column 'responses': must be a list of one or more strings")
    return texts


def _lists(row: dict[str, Any], column: str, K: int, where: str) -> list[list[float]]:
    place = f"{where}, column {column!r}"
    lines = row.get(column)
    if not isinstance(lines, list) or len(lines) != K:
        raise DataError(f"{place}: must be a list of {K} lists, one for each response")
    return [_list(line, K, f"{place}, list {i}") for i, line in enumerate(lines)]


def _list(values: Any, K: int, where: str) -> list[float]:
    if not isinstance(values, list) or len(values) != K:
        raise DataError(f"{where}: must be a list of {K} numbers, one for each response")
    return [math.nan if value is None else _probability(value, where) for value in values]


def _probability(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{where}: must be a probability, a number from 0 to 1, not {value!r:.40}")
    return float(value)


def _check_matrix(entry: _Entry) -> None:
    try:
        PreferenceMatrix(
            probs_BKJ=entry.probs_KK[None], judged_BKJ=entry.judged_KK[None], prompt_ids=[entry.prompt.prompt_id]
        )
    except OracleError as error:
        raise DataError(f"{entry.where}, column 'probability': {error}") from error


def _set_pair(entry: _Entry, row: dict[str, Any], answers: list[str]) -> None:
    """Finds the row's pair among the responses and takes over what the row says of it."""
    if _conversation(row, "chosen", entry.where)[:-1] != _conversation(row, "rejected", entry.where)[:-1]:
        raise DataError(f"{entry.where}, column 'rejected': answers another prompt than 'chosen'")
    for column, answer in zip(("chosen", "rejected"), answers, strict=True):
        if answer not in entry.texts:
            raise DataError(f"{entry.where}, column {column!r}: its response is not one of the row's responses")
    chosen = entry.texts.index(answers[0])
    # Of two equal responses the other one, so that a pair of equal texts is still a pair of two responses.
    rejected = next((k for k, text in enumerate(entry.texts) if text == answers[1] and k != chosen), chosen)
    if chosen == rejected:
        return
    entry.pairs.append((chosen, rejected))
    entry.pair_probs.append(_probability(row.get("chosen_probs"), f"{entry.where}, column 'chosen_probs'"))
    for index, column in ((chosen, "chosen_probs_win"), (rejected, "chosen_probs_lose")):
        if column in row:
            entry.win_rates[index] = _probability(row[column], f"{entry.where}, column {column!r}")
