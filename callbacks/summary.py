"""What a person reads when a run ends."""

from __future__ import annotations

import textwrap

import lightning.pytorch as pl
from sppo_lightning.callbacks.report import REPORT_FILE, RunReport
from sppo_lightning.callbacks.round_end import RoundEndCallback, run_loggers, self_play_data

from sppo_lightning.evaluation.responses import stored_responses
from sppo_lightning.io.files import read_json
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.training.tracking_uri import run_page

HEADER = "round  vs start               vs previous            KL    tokens  truncated  duplicate  skipped  seconds"
OPPONENTS = ("start", "previous")


class RunSummary(RoundEndCallback):
    """Prints a line a round, and at the end the table, a few answers before and after, and where to look.

    Args:
        num_examples: held-out prompts shown with their answers before and after.
    """

    def __init__(self, num_examples: int = 3) -> None:
        self.num_examples = num_examples

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """Prints the round's line."""
        if not trainer.is_global_zero:
            return
        measured = _measured(module, round_index)
        rates = [
            f"{_win_rate(measured, opponent)} against the {opponent} policy"
            for opponent in OPPONENTS
            if f"round/win_rate_vs_{opponent}" in measured
        ]
        print(f"round {round_index}: {'wins ' + ', '.join(rates) if rates else 'trained'}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the whole."""
        assert isinstance(pl_module, PolicyModule)
        data = self_play_data(trainer)
        last = pl_module.rounds_finished - 1
        if not trainer.is_global_zero or last < data.first_round:
            return
        print()
        if data.held_out_prompts:
            print(f"On {len(data.held_out_prompts)} held-out prompts: win rates with 95 % intervals, KL in nats;")
        print("tokens, truncated, duplicate: of the round's training responses.")
        print(HEADER)
        for index in range(data.first_round, last + 1):
            print(_line(pl_module, index))
        self._print_examples(trainer, pl_module)
        print(f"\nThe trained policy is a Hugging Face folder: {pl_module.run_folder.export(last)}")
        report = pl_module.run_folder.path / REPORT_FILE
        # The callback that writes it may come behind this one. Lightning sets `callbacks` from outside the class.
        members: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if report.is_file() or any(isinstance(member, RunReport) for member in members):
            print(f"report: {report}")
        for logger in run_loggers(trainer):
            page = run_page(logger.tracking_uri, logger.experiment_id, logger.run_id)
            if page.command:
                print(f"To browse the run, start\n  {page.command}\nand open")
            print(f"  {page.url}")

    def _print_examples(self, trainer: pl.Trainer, module: PolicyModule) -> None:
        run = module.run_folder
        first_answers = [
            {row["prompt_id"]: row["text"] for row in stored_responses(run.evaluation(policy), 1).to_pylist()}
            for policy in ("start", policy_name(module.rounds_finished))
        ]
        if not all(first_answers):
            return
        for prompt in self_play_data(trainer).held_out_prompts[: self.num_examples]:
            print(f"\nprompt: {_short(prompt.text)}")
            for label, answers in zip(("before", "after "), first_answers, strict=True):
                print(f"{label}: {_short(answers[prompt.prompt_id])}")


def _short(text: str) -> str:
    return textwrap.shorten(text, width=200, placeholder=" ...")


def _measured(module: PolicyModule, index: int) -> dict[str, float]:
    """What was written of the policy after round `index`."""
    measured: dict[str, float] = {}
    for name in ("round.json", "metrics.json"):
        path = module.run_folder.evaluation(policy_name(index + 1)) / name
        measured |= read_json(path) if path.is_file() else {}
    return measured


def _win_rate(measured: dict[str, float], opponent: str) -> str:
    name = f"round/win_rate_vs_{opponent}"
    if name not in measured:
        return "-"
    return f"{measured[name]:.3f} [{measured[f'{name}_low']:.3f}, {measured[f'{name}_high']:.3f}]"


def _line(module: PolicyModule, index: int) -> str:
    played, measured = module.run_folder.round(index).manifest["metrics"], _measured(module, index)
    times = {name: value for name, value in (played | measured).items() if name.startswith("time/")}
    seconds = sum(times.values()) - 2 * times.get("time/overlap", 0.0)  # which the sum counts again
    kl = f"{measured['round/kl_to_start']:.2f}" if "round/kl_to_start" in measured else "-"
    return (
        f"{index:5d}  {_win_rate(measured, 'start'):<21}  {_win_rate(measured, 'previous'):<21}  {kl:<5} "
        f"{played['round/mean_response_tokens']:<7.1f} "
        f"{played['round/truncated_share']:<10.1%} {played['round/duplicate_share']:<10.1%} "
        f"{played['round/skipped_prompts']:<8d} {seconds:.1f}"
    )
