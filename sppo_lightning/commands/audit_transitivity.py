"""Is the judge transitive beyond vote noise?"""

from __future__ import annotations

from typing import Any

import numpy as np

from sppo_lightning.commands.audit_games import Games
from sppo_lightning.commands.audit_section import ProgressBar, Section, counted
from sppo_lightning.functional.game_diagnostics import curl_share
from sppo_lightning.functional.transitivity import transitivity_test
from sppo_lightning.io.votes import Votes

_QUESTION = "Is it transitive?"
_LEVEL = 0.05
_NUM_SAMPLES = 999


def transitivity(votes: Votes, games: Games, progress: ProgressBar, seed: int) -> Section:
    """Cycles of majorities, and how many of them vote noise makes."""
    beats_BKK = games.shares_BKK > 0.5
    cyclic_B = _in_triads(beats_BKK)
    possible_B = _in_triads(games.judged_BKK)
    bare = int(np.isnan(votes.num_votes).sum())
    decided_BKK = games.votes_BKK > 0 if bare < len(votes.prompt_M) else games.judged_BKK & (games.shares_BKK != 0.5)
    data: dict[str, Any] = {"prompts": int(possible_B.sum()), "cyclic_prompts": int(cyclic_B.sum())}
    if not possible_B.any():
        return _unknown("No prompt has three responses that were all compared with each other.", data)
    found = f"{cyclic_B.sum():,} of {counted(int(possible_B.sum()), 'prompt')} have a cycle"
    notes = []
    if not possible_B.all():
        notes.append(f"{counted(int((~possible_B).sum()), 'prompt')} without three mutually compared responses.")
    if not _in_triads(decided_BKK).any():
        return _unknown("No prompt has three responses with a decided verdict on each pair: ties make no cycle.", data)
    if bare == len(votes.prompt_M):
        return _without_counts(games, found, data, notes)
    if bare:
        notes.append(f"{counted(bare, 'verdict')} given as a probability without votes not used in the test.")

    test = transitivity_test(
        games.wins_BKK[None][:, possible_B],
        games.votes_BKK[None][:, possible_B],
        num_samples=_NUM_SAMPLES,
        seed=seed,
        progress=lambda samples: progress(samples, "Bradley-Terry judges"),
    )
    cyclic, p = int(test.cyclic_prompts_J[0]), float(test.p_value_J[0])
    null = test.null_cyclic_prompts_SJ[:, 0]
    low, high = (int(value) for value in np.quantile(null, [0.025, 0.975]))
    votes_a_pair = games.votes_BKK[games.judged_BKK]
    data |= {
        "p_value": p,
        "null_cyclic_prompts": {"mean": float(null.mean()), "low": low, "high": high},
        "null_histogram": np.bincount(null).tolist(),
        "tied_votes": int(np.nansum(votes.ties_M)),
    }
    figures = [
        ("prompts with a cycle", f"{cyclic:,} of {int(possible_B.sum()):,}"),
        ("of Bradley-Terry judges", f"{null.mean():,.1f} [{low:,}, {high:,}]"),
        ("p-value", f"{p:.3f}"),
        ("decided votes a pair", f"{votes_a_pair.mean():.1f} ({votes_a_pair.min()} to {votes_a_pair.max()})"),
    ]
    if data["tied_votes"]:
        notes.append(f"{counted(data['tied_votes'], 'tied vote')} held as ties; the test is about the decided ones.")
    if not test.varies_J[0] and cyclic:
        return _unknown(
            f"{found}, but so has every judge with as many votes and the same wins: with a single vote on each pair "
            "noise cannot be told from cycles. Record at least two votes a pair.",
            data,
            (("prompts with a cycle", f"{cyclic:,} of {int(possible_B.sum()):,}"), figures[-1]),
        )
    against = f"{found}; Bradley-Terry judges with as many votes have {null.mean():,.0f} [{low:,}, {high:,}]"
    if p <= _LEVEL:
        notes.append("A judge with one ranking who errs as often on easy pairs as on hard ones may fail this test.")
        answer = f"No. {against}, and theirs are weaker (p = {p:.3f}): the cycles are more than vote noise."
    elif cyclic == 0:
        answer = f"As far as these votes go: no prompt has a cycle, where Bradley-Terry judges have {null.mean():,.0f}."
    else:
        answer = f"Nothing speaks against it. {against} (p = {p:.3f}): vote noise explains the cycles."
    if p > 1 - _LEVEL / 2 and test.varies_J[0] and high > 0 and cyclic < low:
        notes.append(
            "Fewer cycles than independent votes would give: votes on one prompt hang together, as when one annotator "
            "judges several pairs, or hidden ties steady them. The test then misses weak cycles, it invents none."
        )
    return Section(
        key="transitivity",
        question=_QUESTION,
        answer=answer,
        tone="bad" if p <= _LEVEL else "good",
        figures=tuple(figures),
        notes=(*notes, "Compared with tables of the same votes on each pair and the same wins of each response."),
        data=data,
    )


def _in_triads(pairs_BKK: np.ndarray) -> np.ndarray:
    """[B] whether a prompt has responses i, j, k with all of (i, j), (j, k) and (k, i) among the pairs."""
    return np.einsum("bij,bjk,bki->b", *[pairs_BKK.astype(np.float64)] * 3) > 0


def _without_counts(games: Games, found: str, data: dict, notes: list[str]) -> Section:
    complete = np.flatnonzero(games.complete_B & (games.num_responses_B >= 3))
    curls = [curl_share(games.probs(b)) for b in complete.tolist()]
    data |= {"curl_share": float(np.mean(curls)) if curls else None}
    figures = [("prompts with a cycle", f"{data['cyclic_prompts']:,} of {data['prompts']:,}")]
    if curls:
        figures.append(("share of the log-odds that no scores explain", f"{np.mean(curls):.3f}"))
    return Section(
        key="transitivity",
        question=_QUESTION,
        answer=f"{found} among its probabilities" + ("." if data["cyclic_prompts"] else ": it is transitive here."),
        tone="neutral" if data["cyclic_prompts"] else "good",
        figures=tuple(figures),
        notes=(*notes, "No vote counts, so the probabilities are taken as exact: there is no noise to test against."),
        data=data,
    )


def _unknown(answer: str, data: dict, figures: tuple[tuple[str, str], ...] = ()) -> Section:
    return Section(
        key="transitivity",
        question=_QUESTION,
        answer=f"Cannot be said. {answer}",
        tone="unknown",
        figures=figures,
        data=data,
    )
