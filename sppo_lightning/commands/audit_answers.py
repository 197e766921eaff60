"""Which response is best, by three rules, and how far the rules are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sppo_lightning.commands.audit_games import Games
from sppo_lightning.commands.audit_section import ProgressBar, Section, counted
from sppo_lightning.functional.game_answers import GameAnswers, game_answers
from sppo_lightning.functional.game_diagnostics import borda_scores
from sppo_lightning.io.votes import Votes

_FEW_VOTES = 5
_SHARED = 1e-6  # a response with less weight than this is not in the mixture


def answers(votes: Votes, games: Games, progress: ProgressBar) -> Section:
    """The Nash mix, Borda and Condorcet answers of every prompt whose pairs were all judged, and of all prompts."""
    question = "Do Nash, Borda and Condorcet agree?"
    solvable = np.flatnonzero(games.complete_B & (games.num_responses_B >= 2)).tolist()
    if not solvable:
        return Section(
            key="answers",
            question=question,
            answer="Cannot be said: no prompt has all pairs of its responses judged.",
            tone="unknown",
        )
    rows = [
        _row(votes.prompt_ids[b], votes.responses[b], game_answers(games.probs(b)))
        for b in progress(solvable, "games solved")
    ]
    condorcet = [row for row in rows if row["condorcet"] is not None]
    disagree = [row for row in condorcet if row["borda"] != [row["condorcet"]]]
    gap, distance = (np.array([row[name] for row in rows]) for name in ("borda_gap", "distance"))
    share = np.array([row["nash_responses"] for row in rows])
    figures = [
        ("with a Condorcet winner", f"{len(condorcet)} of {len(rows)}"),
        ("of these, Borda names another or several", f"{len(disagree)}"),
        ("with a pure Nash answer", f"{int((share < 1 + _SHARED).sum())}"),
        ("responses in the Nash mix (effective number), mean", f"{share.mean():.2f}"),
        ("duality gap of the Borda answer (0 to 1), mean and largest", f"{gap.mean():.3f}, {gap.max():.3f}"),
        ("distance of Nash and Borda (total variation), mean", f"{distance.mean():.3f}"),
    ]
    data: dict[str, Any] = {
        "prompts": len(rows),
        "condorcet": len(condorcet),
        "borda_disagrees": len(disagree),
        "borda_gap": {"mean": float(gap.mean()), "largest": float(gap.max())},
        "distance": float(distance.mean()),
        "by_prompt": rows,
    }
    notes = []
    unsolved = len(votes.prompt_ids) - len(rows)
    if unsolved:
        notes.append(f"{counted(unsolved, 'prompt')} with unjudged pairs not used.")
    several = sum(not row["nash_unique"] for row in rows)
    if several:
        notes.append(f"{counted(several, 'prompt')} with more than one Nash mix, as ties make; one of them is shown.")
    counts = games.votes_BKK[games.judged_BKK]
    if 0 < np.median(counts) < _FEW_VOTES:
        notes.append("Few votes a pair: part of the disagreement is vote noise (see the test of transitivity).")
    standings = _standings(votes, games, solvable)
    if standings:
        data["standings"] = standings
        notes.append("The same responders stand at every prompt; below, the answers of their mean preferences' game.")
    agree = len(condorcet) == len(rows) and not disagree
    answer = (
        f"Yes: every one of {counted(len(rows), 'prompt')} has a Condorcet winner, which is Borda's, too."
        if agree
        else f"Not always: {len(condorcet)} of {counted(len(rows), 'prompt')} have a Condorcet winner; the Borda "
        f"answer is exploitable by {gap.mean():.3f} on average, and {distance.mean():.0%} of it lies off the Nash mix."
    )
    return Section(
        key="answers",
        question=question,
        answer=answer,
        tone="good" if agree else "neutral",
        figures=tuple(figures),
        notes=tuple(notes),
        data=data,
    )


def standings_lines(standings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The responders of all prompts as a table for a terminal, best Borda score first."""
    width = max(len("response"), *(len(row["response"]) for row in standings))
    return [
        f"{'response':{width}}  win rate (Borda)  Nash weight  Condorcet",
        *(
            f"{row['response']:{width}}  {row['borda']:16.3f}  {row['nash']:11.3f}"
            + ("  winner" if row["condorcet"] else "")
            for row in standings
        ),
    ]


def _row(prompt_id: str, names: tuple[str, ...], found: GameAnswers) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id,
        "condorcet": None if found.condorcet is None else names[found.condorcet],
        "borda": [names[i] for i in found.borda],
        "nash": {
            name: round(weight, 4)
            for name, weight in zip(names, found.nash_N.tolist(), strict=True)
            if weight > _SHARED
        },
        "nash_unique": found.nash_unique,
        "nash_responses": found.nash_responses,
        "borda_gap": found.borda_gap,
        "distance": found.distance,
    }


def _standings(votes: Votes, games: Games, solvable: list[int]) -> list[dict[str, Any]]:
    """The responders of all prompts, best Borda score first; empty where they are numbered or differ."""
    names = sorted(votes.responses[solvable[0]])
    # Candidates are numbered at every prompt; number 3 is nobody in particular.
    if len(solvable) < 2 or all(name.isdigit() for name in names):
        return []
    if any(sorted(votes.responses[b]) != names for b in solvable):
        return []
    places_BK = np.array([[votes.responses[b].index(name) for name in names] for b in solvable])
    probs_KK = np.mean(
        [games.probs(b)[np.ix_(places, places)] for b, places in zip(solvable, places_BK, strict=True)], axis=0
    )
    found, borda_K = game_answers(probs_KK), borda_scores(probs_KK)
    return [
        {
            "response": names[k],
            "borda": float(borda_K[k]),
            "nash": float(found.nash_N[k]),
            "condorcet": found.condorcet == k,
        }
        for k in np.argsort(-borda_K, kind="stable").tolist()
    ]
