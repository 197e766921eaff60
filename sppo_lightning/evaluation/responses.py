"""Responses of any contestant to a set of prompts: sampled once, kept, and shared by all that is measured.

    eval/prompt_sets/held_out-1a2b3c4d.json .parquet        the prompts, and how they are answered
    eval/round_003/held_out-1a2b3c4d/00000-<hash>.parquet   one policy's responses, in chunks

The digits are those of the prompts, the sampling and the seed, so that nothing is ever mixed up with other prompts'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from sppo_lightning.engines.base import Engine
from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io.carriers import CANDIDATES, candidates_from, candidates_table, prompts_table
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.io.chunks import list_chunks, read_chunk, write_chunk
from sppo_lightning.io.files import read_json, write_json_atomic
from sppo_lightning.io.tables import write_table
from sppo_lightning.types import Candidates, PolicyHandle, Progress, Prompt

HELD_OUT = "held_out"
OWN_SET = "held_out.json"
"""Names the set of held-out responses that training measures by, under the run's `eval`."""
_RESPONSES_A_CHUNK = 512
_CANDIDATE = CANDIDATES.get_field_index("candidate")

Cell = tuple[str, int]
"""(prompt id, sample): what every response lies on."""


class ResponseBank:
    """Samples what is missing, and keeps it: a kill loses at most one chunk.

    Sample k of a prompt depends on policy, prompt, k and seed alone. Asking for more samples later keeps the first
    ones, so samples are nested. Every policy has seeds of its own, so that two policies with equal weights are compared
    fairly: equal seeds would give equal responses and hide the spread.

    Args:
        folder: the run's `eval` folder, or any other.
        prompts: B prompts.
        engine: generates; opened for one policy at a time and closed again.
        open_policy: a member's weights and tokenizer.
        seed: the run's seed.
        progress: tells the person who waits.
        label: names the set of prompts in the file names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prompts: Sequence[Prompt],
        engine: Engine,
        open_policy: Callable[[Member], PolicyHandle],
        seed: int,
        progress: Progress,
        label: str = HELD_OUT,
    ) -> None:
        self.folder, self.prompts, self.seed, self.progress = folder, list(prompts), seed, progress
        self._engine, self._open_policy = engine, open_policy
        self._settings = {"sampling": asdict(engine.sampling), "seed": seed}
        content = [self._settings, [[prompt.prompt_id, list(prompt.messages)] for prompt in prompts]]
        self.key = f"{label}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"
        self._rows: dict[str, dict[Cell, dict[str, Any]]] = {}

    def responses(
        self, contestant: Contestant, num_samples: int, *, first: int = 0, num_prompts: int | None = None
    ) -> Candidates:
        """Samples `first`, ..., `first + num_samples - 1` of a contestant for each prompt.

        A mixture's sample k of a prompt is its drawn member's own sample k, the draw being seeded by prompt and k. So a
        mixture of policies that have answered costs nothing.

        Args:
            contestant: who answers.
            num_samples: K.
            first: the first of them; samples from 0 on are the contestant's own, others are independent of those.
            num_prompts: only the first so many prompts. Not set: all.

        Returns:
            K responses for each prompt. The prompts' token ids are those of the (first) member's tokenizer.

        Raises:
            EngineError: generation failed; whole chunks are kept.
            RunFolderError: a stored chunk is damaged.
        """
        prompts = self.prompts[:num_prompts]
        wanted: dict[Member, list[Cell]] = {member: [] for member, _ in contestant.members}
        owner: dict[Cell, Member] = {}
        for prompt in prompts:
            for sample in range(first, first + num_samples):
                cell = prompt.prompt_id, sample
                owner[cell] = self._drawn(contestant, cell)
                wanted[owner[cell]].append(cell)
        for member, cells in wanted.items():
            self._make(member, cells)
        rows = [self._rows[member.name][cell] for cell, member in owner.items()]
        return candidates_from(
            pa.Table.from_pylist(rows, CANDIDATES),
            prompts,
            self._token_ids(contestant.members[0][0], prompts),
            policy=contestant.name,
            sampling=self._engine.sampling,
        )

    def _drawn(self, contestant: Contestant, cell: Cell) -> Member:
        """The member whose response this is, by inverse distribution function of a seeded uniform number."""
        uniform = derive_seed(self.seed, "mixture", *cell) / 2**63
        for member, weight in contestant.members:
            uniform -= weight
            if uniform < 0:
                return member
        return contestant.members[-1][0]

    def _make(self, member: Member, cells: Sequence[Cell]) -> None:
        """Brings these cells into memory, sampling those that are not on disk."""
        folder = self.folder / member.name / self.key
        if self._missing(member, cells):
            self._read(folder, member)
        if not self._missing(member, cells):
            return
        self._describe()
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that need the same responses wait for the one that samples them.
        with FileLock(folder / ".lock"):
            self._read(folder, member)
            missing = self._missing(member, cells)
            if missing:
                self._sample(folder, member, missing)

    def _missing(self, member: Member, cells: Iterable[Cell]) -> list[Cell]:
        present = self._rows.get(member.name, {})
        return [cell for cell in cells if cell not in present]

    def _read(self, folder: Path, member: Member) -> None:
        rows = (row for path in list_chunks(folder).values() for row in read_chunk(path).to_pylist())
        self._rows[member.name] = {(row["prompt_id"], row["candidate"]): row for row in rows}

    def _sample(self, folder: Path, member: Member, cells: Sequence[Cell]) -> None:
        samples: dict[str, list[int]] = {}
        for prompt_id, sample in cells:
            samples.setdefault(prompt_id, []).append(sample)
        prompts = [prompt for prompt in self.prompts if prompt.prompt_id in samples]
        size = max(1, _RESPONSES_A_CHUNK * len(prompts) // len(cells))
        next_chunk = max(list_chunks(folder), default=-1) + 1
        bar = self.progress(f"evaluating {member.name}", len(cells), "responses")
        self._engine.open(self._open_policy(member))
        try:
            for number, begin in enumerate(range(0, len(prompts), size), start=next_chunk):
                part = prompts[begin : begin + size]
                seeds_BK = [
                    [
                        derive_seed(self.seed, HELD_OUT, member.name, prompt.prompt_id, sample)
                        for sample in samples[prompt.prompt_id]
                    ]
                    for prompt in part
                ]
                table = candidates_table(self._engine.generate(part, seeds_BK))
                numbers = [sample for prompt in part for sample in samples[prompt.prompt_id]]
                table = table.set_column(_CANDIDATE, CANDIDATES.field(_CANDIDATE), pa.array(numbers, pa.int16()))
                write_chunk(folder, number, table, CANDIDATES, kind="held_out_responses")
                bar.update(len(numbers))
        finally:
            self._engine.close()
            bar.close()
        self._read(folder, member)

    def _describe(self) -> None:
        """Writes down what the file names' digits stand for."""
        path = self.folder / "prompt_sets" / f"{self.key}.json"
        if not path.is_file():
            token_ids: list[list[int]] = [[] for _ in self.prompts]  # they differ between policies
            write_table(path.with_suffix(".parquet"), prompts_table(self.prompts, token_ids), kind="prompt_set")
            write_json_atomic(path, self._settings, kind="prompt_set")

    def _token_ids(self, member: Member, prompts: Sequence[Prompt]) -> list[list[int]]:
        tokenizer = self._open_policy(member).tokenizer
        return [encode_prompt(tokenizer, prompt) for prompt in prompts]


def stored_responses(folder: str | Path, num_samples: int | None = None, label: str = HELD_OUT) -> pa.Table:
    """What is on disk of a policy's responses, for pages and tables; nothing is sampled.

    Only the run's own held-out set, where it has named one: a measuring verb may have asked at another temperature.

    Args:
        folder: the policy's, such as `runs/quickstart/eval/round_003`.
        num_samples: only the first so many of each prompt: policies that reply as others' opponents have more.
        label: the set of prompts.

    Returns:
        `io.carriers.CANDIDATES` by prompt and candidate; no rows where nothing is stored.

    Raises:
        RunFolderError: a stored chunk is damaged.
    """
    own = Path(folder).parent / OWN_SET
    place = read_json(own)["key"] if label == HELD_OUT and own.is_file() else f"{label}-*"
    chunks = [path for found in sorted(Path(folder).glob(place)) for path in list_chunks(found).values()]
    table = pa.concat_tables([CANDIDATES.empty_table(), *(read_chunk(path).cast(CANDIDATES) for path in chunks)])
    if num_samples is not None:
        table = table.filter(pc.field("candidate") < num_samples)
    return table.sort_by([("prompt_id", "ascending"), ("candidate", "ascending")])
