"""A round's preference data under the column names of SPPO's official datasets, out and in; `io.official` names them.

Out, for any complete round (not done by itself: a file with all pairs repeats every response many times):

    from sppo_lightning.selfplay.official import export_round
    export_round("runs/quickstart/rounds/round_000", "round_000.parquet")

In, as the first round of a run, instead of generating and judging: `--data.first_round_from round_000.parquet`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sppo_lightning.errors import ConfigError, DataError, RunFolderError
from sppo_lightning.io import carriers
from sppo_lightning.io.chat import check_prompt_lengths
from sppo_lightning.io.files import atomic_folder
from sppo_lightning.io.official import write_official
from sppo_lightning.io.official_import import OfficialData, read_official
from sppo_lightning.selfplay.players import RoundSettings
from sppo_lightning.selfplay.store import IMPORTED, RoundFolder
from sppo_lightning.selfplay.win_rates import win_rates
from sppo_lightning.types import Candidates, SamplingConfig, Targets


def export_round(round_folder: str | Path, path: str | Path) -> str:
    """Writes a complete round as one parquet file, a row for each pair that is trained on.

    Args:
        round_folder: such as `runs/quickstart/rounds/round_000`.
        path: the file; `io.official.write_official` describes it.

    Returns:
        The SHA-256 of the file.

    Raises:
        RunFolderError: the round is not complete, or damaged.
    """
    folder = RoundFolder(Path(round_folder))
    if not folder.is_committed:
        raise RunFolderError(f"{folder} is not a complete round (it has no manifest.json); only those are exported")
    manifest = folder.verify()
    num_chunks = manifest["settings"]["num_chunks"]
    prompts, _ = carriers.prompts_from(folder.read_prompts())
    texts: dict[str, list[str]] = {prompt.prompt_id: [] for prompt in prompts}
    for row in folder.read_stage("candidates", num_chunks).select(["prompt_id", "text"]).to_pylist():
        texts[row["prompt_id"]].append(row["text"])
    (oracle,) = {name.split("/")[1] for name in manifest["files"] if name.startswith("preferences/")}
    matrix = carriers.preferences_from(folder.read_stage(f"preferences/{oracle}/self", num_chunks), self_play=True)
    targets = carriers.targets_from(prompts, folder.read_table("targets"), folder.read_table("pairs"))
    return write_official(path, prompts, list(texts.values()), matrix, targets)


def import_round(
    folder: RoundFolder,
    source: str,
    *,
    tokenizer: Any,
    max_prompt_tokens: int,
    held_out: Collection[tuple[tuple[str, str], ...]],
    self_comparison: bool,
    seed: int,
    chunk_prompts: int,
) -> None:
    """Lays down an official file's responses and preferences as the beginning of a round, complete or not at all.

    `play_round` then finds nothing to generate and nothing to judge. Two kinds of file:

    - Where the matrices say more than the pairs do, win rates come from them and the run's pairing rule chooses.
    - The official file of pairs says no more: its pairs are trained on, with its `chosen_probs_win` and
      `chosen_probs_lose` as win rates where it has them (the official ones count the comparison with itself).

    This is the one place where a response's text is tokenised: one terminator, the tokenizer's end token, is appended,
    and every response counts as finished.

    Args:
        folder: the round, which does not exist yet.
        source: the file or whatever else `io.official_import.read_official` reads.
        tokenizer: the policy's.
        max_prompt_tokens: a longer prompt is an error.
        held_out: conversations that must not be trained on; prompts with these turns are left out, whatever their ids.
        self_comparison: see `win_rates`; for win rates that the file does not give.
        seed: the run's seed.
        chunk_prompts: prompts in one chunk.

    Raises:
        DataError: the file cannot be read as preferences, or leaves nothing to train on.
        ConfigError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "data.first_round_from: the policy's tokenizer has no end token to close the file's responses with; set "
            "its eos_token"
        )
    try:
        data = _without_prompts(read_official(source), held_out)
        prompt_token_ids = check_prompt_lengths(data.prompts, tokenizer, max_prompt_tokens)
    except DataError as error:
        raise DataError(f"data.first_round_from: {error}") from error
    if not data.prompts:
        raise DataError(
            f"data.first_round_from: every prompt of {source} is held out for evaluation; see data.held_out"
        )
    settings = RoundSettings(
        seed=seed,
        num_candidates=max(map(len, data.texts)),
        num_opponent_candidates=max(map(len, data.texts)),
        chunk_prompts=chunk_prompts,
        num_chunks=-(-len(data.prompts) // chunk_prompts),
    )
    with atomic_folder(folder.path, kind="import") as temporary:
        unfinished = RoundFolder(temporary)
        unfinished.begin(asdict(settings), carriers.prompts_table(data.prompts, prompt_token_ids))
        for index in range(settings.num_chunks):
            chunk = range(len(data.prompts))[index * chunk_prompts : (index + 1) * chunk_prompts]
            part = _part(data, chunk)
            candidates = _candidates(part, [prompt_token_ids[b] for b in chunk], tokenizer, source)
            unfinished.write_chunk("candidates", index, carriers.candidates_table(candidates))
            unfinished.write_chunk(f"{IMPORTED}/self", index, carriers.preferences_table(part.prompts, part.matrix))
        if _says_only_pairs(data):
            rows, pairs = carriers.targets_tables(data.prompts, _completed_targets(data, self_comparison))
            unfinished.write_table(f"{IMPORTED}/targets", rows)
            unfinished.write_table(f"{IMPORTED}/pairs", pairs)


def _candidates(data: OfficialData, prompt_token_ids: list[list[int]], tokenizer: Any, source: str) -> Candidates:
    token_ids = [
        [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
        for texts in data.texts
    ]
    return Candidates(
        prompts=data.prompts,
        prompt_token_ids=prompt_token_ids,
        token_ids=token_ids,
        texts=data.texts,
        finish_reasons=[["stop"] * len(texts) for texts in data.texts],
        policy=source,
        sampling=SamplingConfig(),
    )


def _without_prompts(data: OfficialData, conversations: Collection[tuple[tuple[str, str], ...]]) -> OfficialData:
    return _part(data, [b for b, prompt in enumerate(data.prompts) if prompt.conversation not in conversations])


def _part(data: OfficialData, indices: Sequence[int]) -> OfficialData:
    assert data.matrix.judged_BKJ is not None
    rows_B = torch.tensor(indices, dtype=torch.long)
    return OfficialData(
        prompts=[data.prompts[b] for b in indices],
        texts=[data.texts[b] for b in indices],
        matrix=replace(
            data.matrix,
            probs_BKJ=data.matrix.probs_BKJ[rows_B],
            judged_BKJ=data.matrix.judged_BKJ[rows_B],
            prompt_ids=[data.matrix.prompt_ids[b] for b in indices],
        ),
        targets=[data.targets[b] for b in indices],
    )


def _says_only_pairs(data: OfficialData) -> bool:
    """Whether every judged comparison is one of the file's pairs."""
    assert data.matrix.judged_BKJ is not None
    return all(
        {(i, j) for i, j in judged_KK.triu(1).nonzero().tolist()} <= {(min(pair), max(pair)) for pair in targets.pairs}
        for judged_KK, targets in zip(data.matrix.judged_BKJ, data.targets, strict=True)
    )


def _completed_targets(data: OfficialData, self_comparison: bool) -> list[Targets]:
    """The file's targets, with win rates from the comparisons wherever it does not give them."""
    rates_BK = win_rates(data.matrix, self_comparison)
    return [
        replace(target, win_rate_K=torch.where(target.win_rate_K.isnan(), rate_K[: len(texts)], target.win_rate_K))
        for target, rate_K, texts in zip(data.targets, rates_BK, data.texts, strict=True)
    ]
