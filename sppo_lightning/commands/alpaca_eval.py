"""`test`: AlpacaEval's questions, answered by a policy and judged by the configuration's judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sppo_lightning.commands.answering import answer
from sppo_lightning.commands.measuring import Measuring, digest
from sppo_lightning.commands.predict import generator_name
from sppo_lightning.commands.test import read_hub_files, score
from sppo_lightning.errors import DataError
from sppo_lightning.evaluation.contestants import Contestant
from sppo_lightning.evaluation.length_controlled import difficulty_of
from sppo_lightning.io.benchmarks import Question, read_questions
from sppo_lightning.io.benchmarks_answers import Answer, read_baseline, write_answers
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.types import Candidates


def test(
    setting: Measuring,
    *,
    policy: str | None,
    prompts: str,
    baseline: str | None,
    instruction_difficulty: str | None,
    gamed_baseline: str | None,
    name: str | None,
    output: str,
) -> dict[str, Any]:
    """Answers the questions, has the answers compared with a baseline's, and scores the verdicts.

    Writes `model_outputs.json`, `annotations.json` and `leaderboard.json` into the output folder. The judge is not
    AlpacaEval's, so the figures compare only with others by the same judge; AlpacaEval's own judge reads the
    `model_outputs.json`.

    Args:
        setting: see `Measuring`; the same command goes on after a kill.
        policy: who answers. None: the run's newest policy.
        prompts: alpaca_eval.json.
        baseline: a model_outputs.json. None: the outputs beside the questions.
        instruction_difficulty: see `commands.test.read_hub_files`.
        gamed_baseline: see `commands.test.read_hub_files`.
        name: what the answers call the policy. None: the run's name and the policy's.
        output: a folder.

    Returns:
        The figures under the leaderboard's names, in per cent.

    Raises:
        DataError: a file that is not what it should be, or a question that the baseline did not answer.
        EngineError, OracleError: generation or judging failed; what is whole is kept.
    """
    contestant = setting.contestant(policy or setting.newest())
    questions = read_questions(prompts, "alpaca_eval")
    theirs, outputs = read_baseline(baseline or prompts)
    texts = _in_order(questions, outputs, baseline or prompts)
    hub = read_hub_files(instruction_difficulty, gamed_baseline)
    difficulty_of(len(questions), hub.difficulties)  # refuses the files of another benchmark before the work is done
    setting.oracle.check_prompts([question.prompt for question in questions])
    answers = answer(questions, contestant, setting)
    ours, folder = name or generator_name(setting, contestant.name), Path(output)
    write_answers(folder / "model_outputs.json", "alpaca_eval", answers, ours)
    records = _annotations(answers, ours, texts, theirs, setting, contestant)
    write_json_atomic(folder / "annotations.json", records, kind="annotations")
    return score(folder / "annotations.json", hub, folder / "leaderboard.json")


def _in_order(questions: Sequence[Question], outputs: dict[str, list[str]], source: str) -> list[str]:
    """The baseline's answers in the order of the questions; the benchmark asks some questions twice."""
    texts, asked = [], Counter[str]()
    for question in questions:
        instruction = question.row["instruction"]
        if instruction not in outputs:
            raise DataError(
                f"{source}: holds no answer to {instruction!r:.80}, position {question.prompt.prompt_id} of the "
                "questions; --baseline must answer all of them"
            )
        answers = outputs[instruction]
        texts.append(answers[min(asked[instruction], len(answers) - 1)])
        asked[instruction] += 1
    return texts


def _annotations(
    answers: Sequence[Answer],
    ours: str,
    texts: Sequence[str],
    theirs: str,
    setting: Measuring,
    contestant: Contestant,
) -> list[dict[str, Any]]:
    """AlpacaEval's records: `preference` is 1 + P(ours beats theirs), null where the judge gave none."""
    prompts = [answer.question.prompt for answer in answers]
    tokenizer = setting.open_policy(contestant.members[0][0]).tokenizer
    said = [answer.texts[0] for answer in answers]

    def candidates(policy: str, responses: Sequence[str]) -> Candidates:
        return Candidates(
            prompts=prompts,
            prompt_token_ids=[tokenizer(prompt.text)["input_ids"] for prompt in prompts],
            token_ids=[[tokenizer(response)["input_ids"]] for response in responses],
            texts=[[response] for response in responses],
            finish_reasons=[["stop"] for _ in responses],
            policy=policy,
            sampling=setting.engine.sampling,
        )

    place = f"baseline-{digest([[prompt.prompt_id, prompt.text] for prompt in prompts] + [said, list(texts)])}"
    matrix = setting.judged(place, candidates(ours, said), candidates(theirs, texts))
    assert matrix.judged_BKJ is not None
    return [
        {
            "instruction": answer.question.row["instruction"],
            "output_1": text,
            "generator_1": theirs,
            "output_2": answer.texts[0],
            "generator_2": ours,
            "annotator": setting.oracle.name,
            "preference": 1 + float(matrix.probs_BKJ[b, 0, 0]) if matrix.judged_BKJ[b, 0, 0] else None,
        }
        for b, (answer, text) in enumerate(zip(answers, texts, strict=True))
    ]
