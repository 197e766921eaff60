"""What a person should know before looking at any curve, worst first."""

from __future__ import annotations

from sppo_lightning.reporting.record import RunRecord

_MANY_TRUNCATED = 0.2
_LENGTH_PAYS = 0.3
_JUDGES_APART = 0.05


def warnings_of(run: RunRecord) -> list[str]:
    """Sentences, each with the numbers it rests on; empty where nothing is known to be wrong."""
    found = [*_bland(run), *_lost_ground(run), *_exploitable(run), *_judges(run), *_length(run), *_cut(run)]
    if run.rounds and "round/win_rate_vs_start" not in run.metrics:
        found.append(
            "Nothing was evaluated on held-out prompts (data.held_out 0, or no HeldOutEvaluation): whether the "
            "policy got better is not known."
        )
    if not run.rounds:
        found.append("No round is finished yet.")
    return found + [f"A file could not be read: {problem}" for problem in run.unreadable]


def _bland(run: RunRecord) -> list[str]:
    rounds = [str(index) for index, fired in run.metrics.get("round/safe_but_empty", {}).items() if fired]
    if not rounds:
        return []
    return [
        f"Safe but empty: in round {', '.join(rounds)} the answers lost content (shorter, alike across prompts, "
        "refused or empty) and the judge did not object. Read the examples below."
    ]


def _lost_ground(run: RunRecord) -> list[str]:
    found = []
    rates = run.metrics.get("round/win_rate_vs_start", {})
    lows, highs = (run.metrics.get(f"round/win_rate_vs_start_{end}", {}) for end in ("low", "high"))
    if rates:
        best, last = max(rates, key=lambda index: rates[index]), max(rates)
        if best in lows and last in highs and highs[last] < lows[best]:
            found.append(
                f"The last round is worse than round {best}: win rate against the start {rates[last]:.2f} after "
                f"{rates[best]:.2f}, beyond the intervals."
            )
    previous = run.metrics.get("round/win_rate_vs_previous_high", {})
    if previous and previous[max(previous)] < 0.5:
        found.append(f"The newest policy loses to the one before it (at most {previous[max(previous)]:.2f}).")
    return found


def _exploitable(run: RunRecord) -> list[str]:
    last, mixture = run.last("gap/best_of_n"), run.last("gap/best_of_n_mixture")
    low, high = run.last("gap/best_of_n_low"), run.last("gap/best_of_n_mixture_high")
    if last is None or mixture is None or low is None or high is None or low <= high:
        return []
    return [
        f"The last policy is more exploitable than the mixture of the rounds: gap at least {last:.2f} against "
        f"{mixture:.2f}. {_advice(run)}".rstrip()
    ]


def _advice(run: RunRecord) -> str:
    """What exports/mixture.json is; only equal weights are what the theorem is about."""
    if not run.mixture:
        return ""
    if run.mixture["weighting"] == "uniform":
        return "Deploy exports/mixture.json, which the theorem is about."
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in run.mixture["members"].items() if weight > 0)
    what = f"is {run.alone} alone" if run.alone else f"has other weights than equal ones: {weights}"
    return f"exports/mixture.json {what} ({run.mixture['weighting']}); the theorem is about equal weights."


def _judges(run: RunRecord) -> list[str]:
    low, gap = run.last("round/judge_gap_low"), run.last("round/judge_gap")
    if low is None or gap is None or low <= _JUDGES_APART:
        return []
    return [
        f"The judge that was trained on rates the policy {gap:.2f} higher against the start than the second judge "
        "does: the policy learned to please one judge."
    ]


def _length(run: RunRecord) -> list[str]:
    low, correlation = run.last("round/length_correlation_low"), run.last("round/length_correlation")
    if low is None or correlation is None or low <= _LENGTH_PAYS:
        return []
    return [
        f"The judge pays length: its win rates correlate {correlation:.2f} with the number of tokens among the answers "
        "to one prompt."
    ]


def _cut(run: RunRecord) -> list[str]:
    share = run.last("round/truncated_share")
    if share is None or share <= _MANY_TRUNCATED:
        return []
    return [f"{share:.0%} of the responses hit the token limit: raise data.engine.max_new_tokens."]
