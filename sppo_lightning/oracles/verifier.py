"""An oracle for prompts whose answer is known: a response is right or wrong."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask, pad
from sppo_lightning.oracles.sandbox import Sandbox, Verdict
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt

# A block of code as Markdown writes it, whatever language it names.
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


class Verifier(PreferenceOracle):
    r"""Compares responses with the answer in the prompt's file: P = 1 for right against wrong, 1/2 for like with like.

    The scores are 1 for right and 0 for wrong, for objectives that want a reward. Nothing is executed unless `match` is
    "unit_test": then each response's code is run, with the tests of its prompt, in a `Sandbox`, whose docstring says
    what that does and does not protect against.

    Example:
        Prompts like `{"prompt": "3 + 4 = ?", "answer": "7"}`, answered by "... so the answer is 7.", with
        `extract: "answer is (-?\\d+)"`. For code, `{"prompt": "Write a function add(a, b).", "answer":
        "assert add(1, 2) == 3"}` with `match: unit_test`.

    Args:
        answer: the field of the prompt's record that holds the answer.
        match: "exact": what was extracted equals the answer, but for white space around both; "regex": the field holds
            a regular expression that matches all of what was extracted; "unit_test": the field holds Python code, or a
            list of such, that raises nothing when it is run after what was extracted.
        extract: a regular expression that finds the answer in the response: its first group, or all of it if it has
            none, where it matches last. A response without a match is wrong. Not set: the whole response; for unit
            tests its last block of code between ``` and ```, if it has one.
        timeout_s: unit tests: processor time of a response and its tests, in seconds; four times as much by the clock.
        memory_mb: unit tests: address space of a response and its tests.

    Raises:
        ConfigError: `match` is unknown, `extract` is not a regular expression, a limit is not positive, or there is no
            sandbox on this system.
    """

    gives_scores = True
    asked_by = "response"
    works_on = "cpu"

    def __init__(
        self,
        answer: str = "answer",
        match: Literal["exact", "regex", "unit_test"] = "exact",
        extract: str | None = None,
        timeout_s: int = 10,
        memory_mb: int = 1024,
    ) -> None:
        if match not in ("exact", "regex", "unit_test"):
            raise ConfigError(f"data.oracle.match must be exact, regex or unit_test, got {match!r}")
        for name, value in (("timeout_s", timeout_s), ("memory_mb", memory_mb)):
            if value < 1:
                raise ConfigError(f"data.oracle.{name} must be at least 1, got {value}")
        self.answer, self.match, self.timeout_s, self.memory_mb = answer, match, timeout_s, memory_mb
        self.costs = match == "unit_test"
        self._sandbox = Sandbox(timeout_s, memory_mb) if match == "unit_test" else None
        self._ends = dict.fromkeys(("passed", "failed", "timeout", "killed"), 0)
        try:
            self.extract, self._finds = extract, None if extract is None else re.compile(extract)
        except re.error as error:
            raise ConfigError(f"data.oracle.extract: {extract!r} is not a regular expression ({error})") from error

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The same tests; how programs ended is counted for each round."""
        other = copy.copy(self)
        other._ends = dict.fromkeys(self._ends, 0)
        return other

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuses prompts without an answer.

        Raises:
            OracleError: a prompt has no answer, or one that is not a regular expression or Python where it should be.
        """
        for prompt in prompts:
            if self.match == "unit_test":
                self._tests(prompt)
            else:
                self._pattern(prompt)

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Checks every response once.

        Raises:
            OracleError: see `check_prompts`.
        """
        columns = check_same_prompts(candidates, opponents)
        scores_BK = self._scores(candidates)
        scores_BJ = scores_BK if opponents is None else self._scores(opponents)
        judged_BKJ = judged_mask(candidates, columns)
        margins_BKJ = (scores_BK[:, :, None] - scores_BJ[:, None, :]).nan_to_num(0.0)
        return PreferenceMatrix(
            probs_BKJ=(1 + margins_BKJ) / 2,
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK,
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _scores(self, candidates: Candidates) -> Tensor:
        """[B, K] 1 for right, 0 for wrong, NaN where there is no response."""
        if self._sandbox is not None:
            return pad(self._tested(candidates, self._sandbox), float("nan"), torch.float32)
        rights = [
            [float(self._is_right(text, pattern)) for text in texts]
            for pattern, texts in zip(map(self._pattern, candidates.prompts), candidates.texts, strict=True)
        ]
        return pad(rights, float("nan"), torch.float32)

    def _tested(self, candidates: Candidates, sandbox: Sandbox) -> list[list[float]]:
        """[B][K] 1 where the tests pass; equal programs of a prompt are run once."""
        asked: list[list[tuple[str, str] | None]] = []
        for prompt, texts in zip(candidates.prompts, candidates.texts, strict=True):
            tests = self._tests(prompt)
            programs = [self._program(text) for text in texts]
            asked.append([None if program is None else (program, tests) for program in programs])
        wanted = list(dict.fromkeys(job for row in asked for job in row if job is not None))
        ends: dict[tuple[str, str], Verdict] = dict(zip(wanted, sandbox.run(wanted), strict=True))
        for row in asked:
            for job in row:
                self._ends["failed" if job is None else ends[job]] += 1
        return [[float(job is not None and ends[job] == "passed") for job in row] for row in asked]

    def measured(self) -> dict[str, float]:
        """How the responses' programs ended: `tests_passed`, `tests_failed`, `tests_timeout`, `tests_killed`."""
        return {f"tests_{end}": float(count) for end, count in self._ends.items()} if self._sandbox else {}

    def _is_right(self, text: str, pattern: re.Pattern[str]) -> bool:
        extracted = self._extracted(text)
        return extracted is not None and pattern.fullmatch(extracted.strip()) is not None

    def _program(self, text: str) -> str | None:
        """The code in a response."""
        if self.extract is None and (blocks := _BLOCK.findall(text)):
            return blocks[-1]
        return self._extracted(text)

    def _extracted(self, text: str) -> str | None:
        if self._finds is None:
            return text
        found = list(self._finds.finditer(text))
        return (found[-1][min(1, self._finds.groups)] or "") if found else None

    def _tests(self, prompt: Prompt) -> str:
        """The code that checks a response's."""
        field = self._field(prompt)
        parts = field if isinstance(field, list | tuple) else [field]
        if not parts or any(not isinstance(part, str) or not part.strip() for part in parts):
            raise OracleError(
                f"Verifier: the field {self.answer!r} of prompt {prompt.prompt_id} holds {_short(field)}; "
                "--data.oracle.match unit_test takes it to be Python code, text or a list of texts"
            )
        tests = "\n".join(parts)
        try:
            compile(tests, "<tests>", "exec")
        except (SyntaxError, ValueError) as error:
            raise OracleError(
                f"Verifier: the tests of prompt {prompt.prompt_id} are not Python ({error}): {_short(tests)}"
            ) from error
        return tests

    def _pattern(self, prompt: Prompt) -> re.Pattern[str]:
        """What the extracted text must match."""
        answer = str(self._field(prompt)).strip()
        try:
            return re.compile(answer if self.match == "regex" else re.escape(answer))
        except re.error as error:
            raise OracleError(
                f"Verifier: the answer {answer!r} of prompt {prompt.prompt_id} is not a regular expression ({error}), "
                "which --data.oracle.match regex takes it to be"
            ) from error

    def _field(self, prompt: Prompt) -> Any:
        field = prompt.metadata.get(self.answer)
        if field is None:
            fields = ", ".join(sorted(prompt.metadata)) or "no further field"
            raise OracleError(
                f"Verifier: prompt {prompt.prompt_id} has no field {self.answer!r}, it has {fields}. Name the field "
                "with the answer: --data.oracle.answer FIELD"
            )
        return field


def _short(value: object, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
