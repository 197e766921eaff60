"""The schedules: play-then-train, and the rounds of the methods that need more than one fit or only one step."""

from __future__ import annotations

from collections.abc import Sequence

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.opponents import CurrentPolicy
from sppo_lightning.selfplay.reward_model import REWARD_MODEL, REWARDS
from sppo_lightning.selfplay.store import CANDIDATES
from sppo_lightning.training.schedule import MAIN, Phase, Plan, Schedule, kind


class PlayThenTrain(Schedule):
    """Play the round with pi_t, then train pi_{t+1} on it for `epochs_per_round` epochs (SPPO, iterative DPO, ...).

    Args:
        refresh_anchor_every: pi_ref becomes pi_t every so many rounds (magnetic preference optimisation, COMAL); not
            set: pi_ref stays the start policy.

    Raises:
        ConfigError: a number of rounds below 1.
    """

    def __init__(self, refresh_anchor_every: int | None = None) -> None:
        if refresh_anchor_every is not None and refresh_anchor_every < 1:
            raise ConfigError(f"model.schedule.refresh_anchor_every must be at least 1, got {refresh_anchor_every}")
        self.refresh_anchor_every = refresh_anchor_every

    @property
    def phases(self) -> Sequence[Phase]:
        """One."""
        return (Phase(),)

    def anchor_round(self, round_index: int) -> int:
        """See `Schedule`."""
        return round_index - round_index % self.refresh_anchor_every if self.refresh_anchor_every else 0


class SingleStep(PlayThenTrain):
    """A fresh batch of responses for every optimiser step: a round is one step (SPO, RLOO, online IPO, Nash-MD).

    Policy gradients are unbiased only for the policy's own responses, so each is used once. Set `data.export_every`,
    or every step writes an export.
    """

    def __init__(self) -> None:
        super().__init__()

    def check(self, plan: Plan) -> None:
        """Refuses rounds of several steps, and an optimiser that forgets after each."""
        _check_single_steps(self, plan)


class HalfStep(Schedule):
    """EGPO's extragradient, arXiv 2503.08942: a half-step, and the step again from the start, as the half-step sees it.

    A round is one set of candidates and two fits. The first is made against responses of pi_t and gives pi_{t+1/2};
    weights, optimiser and learning rate are put back; the second is made against responses of pi_{t+1/2}. A fit is one
    gradient step as in the paper, or as many as it takes to reach the mirror-descent step where the objective says so.
    """

    @property
    def phases(self) -> Sequence[Phase]:
        """The half-step and the step."""
        return (Phase(trains="half"), Phase(begins="round_start", shares=(CANDIDATES,)))

    def check(self, plan: Plan) -> None:
        """Refuses opponents that the half-step would not change, and for gradient steps what `SingleStep` refuses."""
        if not isinstance(plan.opponent, CurrentPolicy):
            raise ConfigError(
                f"data.opponent: model.schedule HalfStep compares with responses of the policy in memory, first pi_t, "
                f"then the half-step; {kind(plan.opponent)} would not see the difference. Set data.opponent "
                "CurrentPolicy"
            )
        if plan.objective.single_step:
            _check_single_steps(self, plan)


class TwoFits(Schedule):
    """ONPO's optimistic step, arXiv 2502.16852: the auxiliary policy and then the next one, fitted to the same data.

    pi_t plays. The auxiliary policy goes on from its last value pi'_t to pi'_{t+1}; the next policy pi_{t+1} starts
    from that and is fitted to the same data. "auxiliary" is pi'_t in the first fit and pi'_{t+1} in the second.
    """

    @property
    def phases(self) -> Sequence[Phase]:
        """The auxiliary policy's fit and the main one's."""
        shared = (CANDIDATES, "opponents", "preferences", REWARD_MODEL, REWARDS)
        return (Phase(trains="auxiliary", begins="own", keeps=True), Phase(shares=shared))

    def check(self, plan: Plan) -> None:
        """Refuses an optimiser that would carry one policy's moments into the other's fit."""
        _check_fresh_optimizer(self, plan)

    def version(self, name: str, phase_index: int, round_index: int) -> tuple[str, int] | None:
        """See `Schedule`."""
        if name == "auxiliary":
            return "auxiliary", round_index + phase_index
        return super().version(name, phase_index, round_index)


class Players(Schedule):
    """HT-MNPO's players, arXiv 2509.23102: n policies, each with its own oracle, trained in turn against the others.

    Player 0 is the main policy and is judged by `data.oracle`; its fit comes last. In every player's fit "player/1",
    "player/2", ... are the players after it, counted on in turn, as they were before the round. One policy is in
    training at a time; the others lie on disk (`exports/round_003/player_1/`).

    Args:
        oracles: the judges of players 1, 2, ...

    Raises:
        ConfigError: no oracle: then there is one player, which is `PlayThenTrain`.
    """

    def __init__(self, oracles: list[PreferenceOracle]) -> None:
        if not oracles:
            raise ConfigError(
                "model.schedule.oracles: give the oracle of each player beside the first; for one player use "
                "PlayThenTrain"
            )
        self.oracles = oracles
        self._players = [MAIN, *(f"player_{i}" for i in range(1, len(oracles) + 1))]

    @property
    def phases(self) -> Sequence[Phase]:
        """A fit for each player."""
        return (
            *(
                Phase(trains=player, plays=player, begins="own", keeps=True, oracle=oracle)
                for player, oracle in zip(self._players[1:], self.oracles, strict=True)
            ),
            Phase(begins="own"),
        )

    def check(self, plan: Plan) -> None:
        """Refuses an optimiser that would carry one player's moments into the other's fit."""
        _check_fresh_optimizer(self, plan)

    def version(self, name: str, phase_index: int, round_index: int) -> tuple[str, int] | None:
        """See `Schedule`."""
        if name.startswith("player/"):
            distance = int(name.removeprefix("player/"))
            if distance >= len(self._players):
                return None
            own = self._players.index(self.phases[phase_index].trains)
            return self._players[(own + distance) % len(self._players)], round_index
        return super().version(name, phase_index, round_index)


def _check_single_steps(schedule: Schedule, plan: Plan) -> None:
    name = kind(schedule)
    if plan.epochs_per_round > 1:
        raise ConfigError(f"data.epochs_per_round: model.schedule {name} uses every response once; set it to 1")
    if plan.steps_per_epoch > 1:
        raise ConfigError(
            f"data.prompts_per_round: model.schedule {name} takes one optimiser step a round, but the round's prompts "
            f"make {plan.steps_per_epoch}; set it to data.global_batch_prompts"
        )
    if plan.reset_optimizer == "round":
        raise ConfigError(
            f"model.reset_optimizer: model.schedule {name} takes one step a round, and an optimiser that forgets its "
            "moments after each step only sees signs; set it to never"
        )


def _check_fresh_optimizer(schedule: Schedule, plan: Plan) -> None:
    if plan.reset_optimizer == "never":
        raise ConfigError(
            f"model.reset_optimizer: model.schedule {kind(schedule)} fits several policies in turn, and one's "
            "moments mean nothing to the next; set it to round"
        )
