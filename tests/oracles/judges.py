"""Judges of pairs that write down what they are asked."""

from __future__ import annotations

from pathlib import Path

from sppo_lightning.oracles import PairwiseOracle


class Recorded(PairwiseOracle):
    """Prefers the longer text; appends a line for each query, one order of a pair, to a file.

    Args:
        log: the file.
        slope: a judge with another one is another judge.
        address: decides nothing.
        mute: no verdict on pairs with this word.
    """

    not_deciding = frozenset({"log", "address", "mute"})

    def __init__(self, log: str, slope: float = 0.01, address: str = "here", mute: str = "") -> None:
        super().__init__()
        self.log, self.slope, self.address, self.mute = log, slope, address, mute

    def prefer_first(self, pairs):
        with Path(self.log).open("a") as file:
            file.writelines(f"{pair.prompt.text}|{pair.first}|{pair.second}\n" for pair in pairs)
        return [
            None
            if self.mute and self.mute in f"{pair.first} {pair.second}"
            else min(1.0, max(0.0, 0.5 + self.slope * (len(pair.first) - len(pair.second))))
            for pair in pairs
        ]

    @property
    def queries(self) -> list[str]:
        """The lines."""
        return Path(self.log).read_text().splitlines() if Path(self.log).is_file() else []
