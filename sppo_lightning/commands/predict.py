"""`predict`: a policy's answers to a file of prompts, in the layout that a benchmark's own judge reads."""

from __future__ import annotations

from pathlib import Path

from sppo_lightning.commands.answering import answer
from sppo_lightning.commands.measuring import Measuring
from sppo_lightning.io.benchmarks import BenchmarkFormat, read_questions
from sppo_lightning.io.benchmarks_answers import write_answers


def predict(
    setting: Measuring,
    *,
    policy: str | None,
    prompts: str,
    format: BenchmarkFormat,
    best_of: int,
    name: str | None,
    output: str,
) -> Path:
    """Answers, and writes the answer file once all are there.

    Args:
        setting: see `Measuring`. Responses are kept chunk by chunk, so the same command goes on after a kill.
        policy: who answers. None: the run's newest policy.
        prompts: the benchmark's questions, or any file of prompts with format jsonl.
        format: whose questions and answers.
        best_of: sample so many responses and take the one that the judge prefers to the others.
        name: what the answer file calls the policy. None: the run's name and the policy's.
        output: the answer file.

    Returns:
        `output`.

    Raises:
        ConfigError, DataError: nobody is called that, or the prompts cannot be read.
        EngineError, OracleError: generation or judging failed; what is whole is kept.
    """
    policy = policy or setting.newest()
    contestant = setting.contestant(policy)
    questions = read_questions(prompts, format)
    answers = answer(questions, contestant, setting, best_of)
    write_answers(output, format, answers, name or generator_name(setting, contestant.name))
    chosen = f", each the best of {best_of} as {setting.oracle.name} judges them" if best_of > 1 else ""
    print(f"{contestant.name}: {len(answers)} answers{chosen}, written to {output}")
    return Path(output)


def generator_name(setting: Measuring, policy: str) -> str:
    """What answer files call a policy: the run's name before its own."""
    return f"{setting.run.resolve().name}-{policy}" if setting.run else policy
