"""Which members of the sockets go together: what contradicts is refused before anything expensive starts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sppo_lightning.errors import ConfigError
from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.pairing import BestWorst
from sppo_lightning.training.policy import load_tokenizer
from sppo_lightning.training.reference import existing_policies
from sppo_lightning.training.schedule import MAIN, Plan, kind

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule

_LATER_THAN_ANY = 10**6  # a round whose history is whole


def check_members(data: SelfPlayDataModule) -> None:
    """Checks a run's objective, schedule and opponent against each other and against the plain settings.

    Raises:
        ConfigError: names the key to change.
    """
    objective, schedule, opponent = data.module.objective, data.module.schedule, data.opponent
    name, opponents = kind(objective), opponent.weights(_LATER_THAN_ANY)
    for key, member, wanted in (
        ("model.schedule", schedule, objective.schedules),
        ("data.opponent", opponent, objective.opponents),
    ):
        kinds = {cls.__name__ for cls in type(member).__mro__}
        if wanted and not kinds & set(wanted):
            raise ConfigError(
                f"{key}: model.objective {name} needs {' or '.join(wanted)}, not {kind(member)}; add --{key} "
                f"{wanted[0]}"
            )
    for phase_index in range(len(schedule.phases)):
        existing_policies(objective.needs, schedule, phase_index, 0)
    unread = [policy for policy in schedule.kept if not _is_read(policy, objective.needs)]
    if unread:
        raise ConfigError(
            f"model.schedule: {kind(schedule)} trains {', '.join(unread)} beside the main policy, and "
            f"model.objective {name} never looks at them; choose another schedule, or an objective that needs them"
        )
    if objective.reads_pair_probs and PREVIOUS not in opponents:
        raise ConfigError(
            f"data.opponent: model.objective {name} reads P(chosen beats rejected), and with {kind(opponent)} "
            "candidates are not compared with each other; use SelfPlay or History"
        )
    if objective.reads_scores and PREVIOUS not in opponents:
        raise ConfigError(
            f"data.opponent: model.objective {name} reads how a response's score compares with the other candidates', "
            f"and with {kind(opponent)} they are not compared with each other; use SelfPlay or History"
        )
    silent = [kind(judge) for judge in data.judges if not judge.gives_scores]
    if objective.reads_scores and silent and data.reward_model is None:
        raise ConfigError(
            f"data.oracle: model.objective {name} needs a score of every response, and {silent[0]} gives none; use an "
            "oracle that does (ScoreToPreference, Verifier), or have a reward model fitted on its verdicts: add "
            "--data.reward_model BradleyTerryRewardModel"
        )
    if objective.reads_scores and data.judging.leaves_out_pairs and data.reward_model is None:
        raise ConfigError(
            f"data.judging: model.objective {name} needs a score of every response, and leaving out pairs leaves none; "
            "set data.judging.pair_share to 1 and certainty to null"
        )
    if data.judging.certainty is not None and not isinstance(data.pairing, BestWorst):
        raise ConfigError(
            f"data.judging.certainty: data.pairing {kind(data.pairing)} trains on more than the best and the worst "
            "response, so no pair is certain to be useless; use data.pairing BestWorst, or data.judging.pair_share"
        )
    if objective.log_z_draws and set(opponents) != {PREVIOUS}:
        raise ConfigError(
            f"data.opponent: model.objective.log_z draws estimates log Z from win rates against pi_t, and with "
            f"{kind(opponent)} the candidates' are against others; use SelfPlay, or log_z estimate"
        )
    if data.opponent_engine is not data.engine and set(opponents) == {PREVIOUS}:
        raise ConfigError(
            f"data.opponent_engine: nobody reads it; with data.opponent {kind(opponent)} the candidates are each "
            "other's opponents. Leave it out, or use CurrentPolicy"
        )
    if data.first_round_from is not None:
        _check_import(data)
    if data.fork is not None and schedule.phases[0].plays != MAIN:
        raise ConfigError(
            f"data.fork_from: a round of model.schedule {kind(schedule)} begins with another policy's play, which the "
            "shared round does not hold; start a run of its own"
        )
    if data.export_every > 1 and len(schedule.phases) > 1 and PREVIOUS in objective.needs:
        raise ConfigError(
            f"data.export_every = {data.export_every}: the second fit of each round of {kind(schedule)} reads pi_t "
            "from its export; set it to 1"
        )
    if data.export_every > 1 and (schedule.kept or any(_reaches_back(need) for need in (*objective.needs, *opponents))):
        raise ConfigError(
            f"data.export_every = {data.export_every}: this run reads policies of earlier rounds from their exports; "
            "set it to 1"
        )
    if data.export_every > 1 and schedule.anchor_round(_LATER_THAN_ANY):
        raise ConfigError(
            f"data.export_every = {data.export_every}: model.schedule.refresh_anchor_every reads the anchor from an "
            "export; set data.export_every to 1"
        )
    check_steps(data, data.most_steps_per_epoch)
    for source in opponent.stored:
        _check_tokenizer(data, source)
    _check_engines(data)


def check_steps(data: SelfPlayDataModule, steps_per_epoch: int) -> None:
    """Checks the schedule against the optimiser steps of a pass over a round, which a shared round may decide.

    Args:
        data: the run.
        steps_per_epoch: how many they are.

    Raises:
        ConfigError: names the key to change.
    """
    objective, schedule = data.module.objective, data.module.schedule
    schedule.check(
        Plan(
            objective=objective,
            opponent=data.opponent,
            epochs_per_round=data.epochs_per_round,
            steps_per_epoch=steps_per_epoch,
            reset_optimizer=data.module.reset_optimizer,
        )
    )
    steps = steps_per_epoch * data.epochs_per_round
    if objective.single_step and steps > 1:
        warnings.warn(
            f"model.objective {kind(objective)} is the gradient of what it promises only for the first optimiser step "
            f"on a round, and this run takes {steps}; --model.schedule SingleStep takes one a round",
            stacklevel=2,
        )
    if objective.every_response and isinstance(data.pairing, BestWorst):
        warnings.warn(
            f"data.pairing BestWorst: model.objective {kind(objective)} is a mean over all of the policy's responses, "
            "and two picked by their win rates bias it; use --data.pairing All",
            stacklevel=2,
        )


def _check_engines(data: SelfPlayDataModule) -> None:
    """Engines in other processes need weights that lie on disk, and what they run on."""
    if data.opponent.mixes_policies and data.opponent_engine.reads_folder:
        raise ConfigError(
            f"data.opponent: {kind(data.opponent)} mixes two policies token by token, and "
            f"{kind(data.opponent_engine)} samples from one; add --data.opponent_engine Transformers"
        )
    for engine in dict.fromkeys((data.engine, data.opponent_engine)):
        engine.check(data.module.policy_source)


def _check_import(data: SelfPlayDataModule) -> None:
    """An official file holds pi_t's responses and how they compare with each other, and nothing else."""
    objective, schedule = data.module.objective, data.module.schedule
    if set(data.opponent.weights(0)) != {PREVIOUS} or schedule.phases[0].plays != MAIN:
        raise ConfigError(
            "data.first_round_from: the file's preferences are those of pi_t's responses among themselves, which is "
            f"data.opponent SelfPlay with one policy; this run has {kind(data.opponent)} and model.schedule "
            f"{kind(schedule)}"
        )
    if objective.reads_scores:
        raise ConfigError(
            f"data.first_round_from: model.objective {kind(objective)} needs a score of every response, and such a "
            "file holds preferences only"
        )


def _check_tokenizer(data: SelfPlayDataModule, source: str) -> None:
    try:
        vocabulary = load_tokenizer(source, data.module.trust_remote_code).get_vocab()
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.policy", "data.opponent.policies", 1)) from None
    if vocabulary != data.module.tokenizer.get_vocab():
        raise ConfigError(
            f"data.opponent.policies: {source} has another vocabulary than the policy {data.module.policy_source}; an "
            "opponent's responses must be in the policy's tokens"
        )


def _is_read(policy: str, needs: tuple[str, ...]) -> bool:
    """Whether a policy such as player_1 is among the needs, where it is called player/1."""
    return policy.replace("_", "/") in needs


def _reaches_back(name: str) -> bool:
    return name.startswith("history/")
