"""What playing a round measured, read back from its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.quarantine import quarantined
from sppo_lightning.selfplay.store import IMPORTED, RoundFolder


def round_metrics(folder: RoundFolder, oracle: str, shared: Sequence[str] = ()) -> dict[str, float]:
    """Counts and shares of a played round; the policy measured is pi_t, which answered.

    Args:
        folder: the round, its targets written.
        oracle: name of the oracle whose preference files are counted.
        shared: stages that cost nothing, because another phase made them.

    Returns:
        metric name -> value. `cost/` values are this round's own; they are summed over rounds when logged.
    """
    num_chunks = folder.settings["num_chunks"]
    candidates = folder.read_stage("candidates", num_chunks)
    lengths = pc.list_value_length(candidates["token_ids"])
    repeats: Counter[tuple] = Counter(
        (row["prompt_id"], tuple(row["token_ids"])) for row in candidates.select(["prompt_id", "token_ids"]).to_pylist()
    )
    verdicts = folder.verdicts(oracle)
    was_played = verdicts != IMPORTED  # an imported round cost nothing
    generated = pc.sum(lengths).as_py() if was_played and "candidates" not in shared else 0
    queries = 0
    for path in sorted((folder.path / verdicts).iterdir()) if was_played and "preferences" not in shared else ():
        stage = path.relative_to(folder.path).as_posix()
        for judged in folder.read_stage(stage, num_chunks)["judged"].to_pylist():
            if path.name == "self":
                queries += sum(sum(row[i + 1 :]) for i, row in enumerate(judged))
            else:
                queries += sum(map(sum, judged))
    for path in [] if "opponents" in shared else [*folder.path.glob("opponents/*"), *folder.path.glob("draws")]:
        stage = path.relative_to(folder.path).as_posix()
        generated += pc.sum(pc.list_value_length(folder.read_stage(stage, num_chunks)["token_ids"])).as_py()
    targets = folder.read_table("targets")
    taught = set(targets.filter(targets["trained"])["prompt_id"].to_pylist())
    num_prompts = folder.read_table("prompts").num_rows
    return {
        "round/mean_response_tokens": pc.mean(lengths).as_py(),
        "round/truncated_share": pc.mean(pc.equal(candidates["finish_reason"], "length").cast("float32")).as_py(),
        "round/duplicate_share": 1 - len(repeats) / candidates.num_rows,
        "round/skipped_prompts": num_prompts - len(taught),
        "round/quarantined": len(quarantined(folder, oracle)),
        "round/trained_responses": pc.sum(targets["trained"].cast("int64")).as_py(),
        "cost/oracle_queries": queries,
        "cost/generated_tokens": generated,
    } | _mean_score(folder, f"{verdicts}/self", num_chunks)


def oracle_metrics(oracle: PreferenceOracle) -> dict[str, float]:
    """What judging showed beside the verdicts, under the names of a round's metrics."""
    return {name if "/" in name else f"round/{name}": value for name, value in oracle.measured().items()}


def _mean_score(folder: RoundFolder, stage: str, num_chunks: int) -> dict[str, float]:
    """The oracle's mean score of a response, where it gives scores: a verifier's is the share of right answers."""
    if not (folder.path / stage).is_dir():  # the candidates were compared with other opponents only
        return {}
    scores = pc.list_flatten(folder.read_stage(stage, num_chunks)["scores"])
    scores = scores.filter(pc.is_finite(scores))  # NaN where a prompt has fewer responses
    return {"round/mean_score": pc.mean(scores).as_py()} if len(scores) else {}
