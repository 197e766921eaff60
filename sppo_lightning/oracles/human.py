"""People as the judge."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence

from sppo_lightning.errors import ConfigError, WaitingForLabels
from sppo_lightning.functional.pair_design import opponents_order, self_play_order
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io.labels import LabelFolder, Task
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.pairwise import AskedPairs, Pair, PairwiseOracle
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt

_VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}


class Human(PairwiseOracle):
    """People compare pairs of responses. The run writes the pairs down and stops; with labels the same command goes on.

    `python -m sppo_lightning label FOLDER` shows them on a page of this machine; any other tool that appends to
    `labels.jsonl` will do. A label is for two texts, so no person is asked twice, in a resumed run, a fork or another
    run with the same folder. Which text is shown first is drawn, so each pair is shown in one order.

    Not all pairs are asked about: of each prompt in turn the one that is most worth it, until there are `max_pairs`.
    With `guess`, a cheap judge, that is the pair that it is least certain of; else the one whose responses have been
    compared least. The others stay unjudged, but for those that have a label already.

    Args:
        folder: where tasks and labels lie.
        max_pairs: asked at once, which is for each chunk of `data.chunk_prompts` prompts: for a round, if it has no
            more prompts than that.
        guess: a judge that costs little. Not set: responses are compared about equally often.

    Raises:
        ConfigError: `max_pairs` below 1.
    """

    costs = False  # labels are kept where they are made
    queries_per_pair = 1
    works_on = "elsewhere"
    chooses_pairs = True

    def __init__(self, folder: str, max_pairs: int = 200, guess: PreferenceOracle | None = None) -> None:
        super().__init__()
        if max_pairs < 1:
            raise ConfigError(f"Human: max_pairs must be at least 1, got {max_pairs}")
        self.folder, self.max_pairs, self.guess = folder, max_pairs, guess
        self._labels = LabelFolder(folder)
        self._used: dict[str, str] = {}

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Uses the labels that there are.

        Raises:
            WaitingForLabels: some of the chosen pairs have none; they have become tasks.
            DataError: a line of the labels' files is malformed.
        """
        pairs = AskedPairs(candidates, opponents)
        labels = self._labels.labels()
        tasks = [_task(pair) for pair in pairs.unique]
        self._wait_for([tasks[number] for number in self._chosen(pairs, candidates, opponents)], labels)
        return pairs.matrix([self._verdict(pair, task, labels) for pair, task in zip(pairs.unique, tasks, strict=True)])

    def judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        """P(first beats second) of exactly these pairs; see `compare`."""
        labels = self._labels.labels()
        tasks = [_task(pair) for pair in pairs]
        self._wait_for(tasks, labels)
        return [self._verdict(pair, task, labels) for pair, task in zip(pairs, tasks, strict=True)]

    def prefer_first(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """As `judge`: a label is for both orders."""
        return self.judge(pairs)

    def measured(self) -> dict[str, float]:
        """What the labels that were used show.

        Returns:
            `position_bias`: P(the response shown first wins) - 1/2; `labels`: how many verdicts; `skipped_labels`.
        """
        said = [verdict for winner in self._used.values() if (verdict := _VERDICTS[winner]) is not None]
        bias = {"position_bias": sum(said) / len(said) - 0.5} if said else {}
        return bias | {"labels": float(len(said)), "skipped_labels": float(len(self._used) - len(said))}

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The same people; what their labels show is counted for each round."""
        other = copy.copy(self)
        other._used = {}
        return other

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Reads tasks and labels, so that a malformed line is said before anything is generated.

        Raises:
            DataError: names the line.
        """
        self._labels.tasks()
        self._labels.labels()
        if self.guess is not None:
            self.guess.check_prompts(prompts)

    def close(self) -> None:
        """Frees what the guessing judge loaded."""
        if self.guess is not None:
            self.guess.close()

    def _wait_for(self, tasks: Sequence[Task], labels: dict[str, str]) -> None:
        missing = {task.pair: task for task in tasks if task.pair not in labels}
        if not missing:
            return
        self._labels.ask(list(missing.values()))
        raise WaitingForLabels(
            f"{len(missing)} of {len({task.pair for task in tasks})} pairs of responses in "
            f"{self._labels.tasks_file} have no label yet. Label them with python -m sppo_lightning label "
            f"{self.folder}, then give this command again"
        )

    def _verdict(self, pair: Pair, task: Task, labels: dict[str, str]) -> float | None:
        winner = labels.get(task.pair)
        if winner is None:
            return None
        self._used[task.pair] = winner
        verdict = _VERDICTS[winner]
        return 1 - verdict if verdict is not None and task.first != pair.first else verdict

    def _chosen(self, pairs: AskedPairs, candidates: Candidates, opponents: Candidates | None) -> list[int]:
        """Indices into `pairs.unique`; the same ones however many labels there are."""
        number = {place: index for index, place in enumerate(pairs.places)}
        certainty = {}
        if self.guess is not None:
            probs_BKJ = self.guess.compare(candidates, opponents).probs_BKJ
            certainty = {place: abs(float(probs_BKJ[place]) - 0.5) for place in pairs.places}
        by_prompt: list[list[tuple[int, int, int]]] = []
        for b, prompt in enumerate(candidates.prompts):
            K, J = candidates.num_candidates[b], pairs.columns.num_candidates[b]
            seed = derive_seed(0, "human", prompt.prompt_id)
            order = self_play_order(K, seed) if opponents is None else opponents_order(K, J, seed)
            places = [place for i, j in order if (place := (b, i, j)) in number]
            by_prompt.append(sorted(places, key=lambda place: certainty.get(place, 0.0)))
        chosen: list[int] = []
        for layer in itertools.zip_longest(*by_prompt):
            worth = sorted((place for place in layer if place), key=lambda place: certainty.get(place, 0.0))
            chosen += [number[place] for place in worth]
        return chosen[: self.max_pairs]


def _task(pair: Pair) -> Task:
    return Task.of(pair.prompt.messages, pair.first, pair.second)
