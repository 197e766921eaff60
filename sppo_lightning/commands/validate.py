"""`validate`: win rates of a policy against others on prompts that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sppo_lightning.commands.measuring import Measuring, digest
from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import START, Contestant, Member
from sppo_lightning.evaluation.head_to_head import HeadToHead, head_to_head
from sppo_lightning.evaluation.verdicts import VerdictBank
from sppo_lightning.functional.games import Array, von_neumann_winner
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.types import Prompt


def validate(
    setting: Measuring,
    *,
    policy: str | None,
    against: Sequence[str],
    prompts: Sequence[Prompt],
    label: str,
    num_samples: int,
    output: str | None,
) -> Path:
    """Measures, prints a table, and writes a json beside the run's other evaluations.

    Args:
        setting: see `Measuring`.
        policy: whom to measure. None: the run's newest policy.
        against: `start`, `previous`, `all` (the run's other policies), or anything that `policy` may be. Empty: the
            start and the previous policy.
        prompts: to answer.
        label: names the prompts in file names.
        num_samples: responses of each policy to each prompt.
        output: where to write. None: `eval/validate/`.

    Returns:
        The written file.

    Raises:
        ConfigError: nobody is called that, or there is nobody to play against, or no prompt.
        EngineError, OracleError: generation or judging failed; what is whole is kept, the same command goes on.
    """
    if num_samples < 1:
        raise ConfigError(f"--num_samples must be at least 1, got {num_samples}")
    if not prompts:
        raise ConfigError("data.held_out is 0: the run has no held-out prompts. Give others: --prompts FILE")
    policy = policy or setting.newest()
    player = setting.contestant(policy)
    pool = _distinct([player, *_pool(setting, policy, against)])[1:]
    if not pool:
        raise ConfigError(
            f"--against: {policy} would only play against itself; name others, such as --against start round_000 FOLDER"
        )
    bank = setting.bank(prompts, label)
    verdicts = VerdictBank(bank, setting.oracle)
    match = head_to_head([player, *pool], verdicts, num_samples)
    summary = _summary(match, player, pool, verdicts, num_samples)
    who = [[c.name, [[member.name, weight] for member, weight in c.members]] for c in (player, *pool)]
    name = f"{player.name}-{digest([setting.judge, bank.key, who, num_samples])}.json"
    path = Path(output) if output else setting.folder / "validate" / name
    about = {"policy": policy, "judge": setting.oracle.name, "num_samples": num_samples, "prompts": bank.key}
    write_json_atomic(path, about | summary | {"head_to_head": match.as_dict()}, kind="validation")
    print("\n".join(_table(match, summary, setting, label, num_samples)))
    print(f"written to {path}")
    return path


def _pool(setting: Measuring, policy: str, against: Sequence[str]) -> list[Contestant]:
    names: list[str] = []
    for name in against or _default_pool(setting, policy):
        if name == "all":
            names += [START, *setting.rounds()]
        else:
            names.append(setting.before(policy) if name == "previous" else name)
    return [setting.contestant(name) for name in names]


def _distinct(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Whoever is named twice, once.

    Raises:
        ConfigError: two that differ have one name, so that no table could tell them apart.
    """
    kept: dict[str, Contestant] = {}
    for contestant in contestants:
        if not kept.setdefault(contestant.name, contestant).draws_as(contestant):
            raise ConfigError(
                f"--against: two different contestants are called {contestant.name!r}; rename the folder or the "
                "mixture's file of one of them"
            )
    return list(kept.values())


def _default_pool(setting: Measuring, policy: str) -> list[str]:
    """The start and the policy before; for what is no round, the start and the newest."""
    return [START, "previous"] if policy in setting.rounds() else [START, setting.newest()]


def _summary(
    match: HeadToHead, player: Contestant, pool: Sequence[Contestant], verdicts: VerdictBank, num_samples: int
) -> dict[str, Any]:
    """Against each, and against the pool as a whole: the mean, the worst, and the pool's best mixture."""
    rivals = [_rate(match, i) | {"name": name} for i, name in enumerate(match.names[1:], start=1)]
    # The mixture of the pool's members that none of them beats.
    weights_N = von_neumann_winner(match.win_rates_NN[1:, 1:]).policy_N
    # Nothing is judged again: a mixture's win rates are the means of its members'.
    mixtures = [
        _mixture("mean", pool, np.full(len(pool), 1 / len(pool))),
        _mixture("equilibrium-weighted", pool, weights_N),
    ]
    mixed = head_to_head([player, *mixtures], verdicts, num_samples)
    return {
        "against": rivals,
        "mean": _rate(mixed, 1),
        "worst": min(rivals, key=lambda rival: rival["win_rate"]),
        "equilibrium_weighted": _rate(mixed, 2)
        | {"weights": {rival.name: float(weight) for rival, weight in zip(pool, weights_N, strict=True)}},
    }


def _mixture(name: str, pool: Sequence[Contestant], weights_N: Array) -> Contestant:
    """One of the pool is drawn, then one of its members."""
    members: dict[Member, float] = {}
    for rival, weight in zip(pool, weights_N, strict=True):
        for member, share in rival.members:
            members[member] = members.get(member, 0.0) + float(weight) * share
    return Contestant(name=name, members=tuple((member, weight) for member, weight in members.items() if weight > 0))


def _rate(match: HeadToHead, rival: int) -> dict[str, Any]:
    low, high = match.intervals_NN2[0, rival]
    return {
        "win_rate": float(match.win_rates_NN[0, rival]),
        "low": float(low),
        "high": float(high),
        "length_controlled": float(match.length_controlled_NN[0, rival]),
    }


def _table(match: HeadToHead, summary: dict[str, Any], setting: Measuring, label: str, num_samples: int) -> list[str]:
    width = max(len("equilibrium-weighted"), *(len(name) for name in match.names))
    lines = [
        f"{match.names[0]}: win rates on {match.num_prompts} {label.replace('_', '-')} prompts, {num_samples} "
        f"responses each, judged by {setting.oracle.name}",
        f"  {'against':{width}}  win rate  95 % interval   at equal length",
    ]
    lines += [_line(rival["name"], rival, width) for rival in summary["against"]]
    if len(summary["against"]) > 1:
        drawn = {name: weight for name, weight in summary["equilibrium_weighted"]["weights"].items() if weight > 0.005}
        mixture = ", ".join(f"{name} {weight:.2f}" for name, weight in drawn.items())
        lines.append(_line("mean", summary["mean"], width))
        lines.append(_line("worst", summary["worst"], width) + f"   {summary['worst']['name']}")
        lines.append(_line("equilibrium-weighted", summary["equilibrium_weighted"], width) + f"   {mixture}")
        lines += _all_against_all(match)
    return lines


def _all_against_all(match: HeadToHead) -> list[str]:
    """The whole payoff matrix; columns by number, since names are long."""
    labels = [f"{i} {name}" for i, name in enumerate(match.names, start=1)]
    width = max(map(len, labels))
    lines = ["all against all: the win rate of the row over the column"]
    lines.append(f"  {'':{width}}" + "".join(f"{i:7}" for i in range(1, len(labels) + 1)))
    for i, label in enumerate(labels):
        cells = (f"{rate:7.3f}" if i != j else f"{'-':>7}" for j, rate in enumerate(match.win_rates_NN[i]))
        lines.append(f"  {label:{width}}" + "".join(cells))
    ratings = ", ".join(f"{name} {rating:.0f}" for name, rating in zip(match.names, match.elo_N, strict=True))
    lines.append(f"  Elo: {ratings}; cyclic share {match.cyclic_share:.2f}, curl {match.curl:.3f}")
    return lines


def _line(name: str, rate: dict[str, Any], width: int) -> str:
    interval = f"[{rate['low']:.3f}, {rate['high']:.3f}]"
    return f"  {name:{width}}  {rate['win_rate']:8.3f}  {interval}  {rate['length_controlled']:15.3f}"
