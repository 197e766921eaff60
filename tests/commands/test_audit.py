"""The audit as a person runs it: verdicts in, one page in the terminal and as HTML out."""

import inspect
import io
import json
import re
from contextlib import redirect_stdout
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.special import expit

from sppo_lightning.__main__ import main as program
from sppo_lightning.commands.audit import main
from sppo_lightning.errors import DataError

B, K = 30, 5
RINGS = ((0, 1), (1, 2), (2, 0))


def run(folder, *argv):
    """Runs the verb; what it printed, wrote as numbers, and wrote as a page."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main([*map(str, argv), "--out", str(folder)]) == 0
    return SimpleNamespace(
        text=printed.getvalue(),
        json=json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail),
        html=(folder / "audit.html").read_text(),
    )


def human_games(path, cycles):
    """Shares and counts as measured games have them: 1 or 3 votes a pair, ties as halves; planted cycles or none."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (B, K))
    votes = np.triu(rng.choice([1, 3], (B, K, K)), 1)
    wins = np.triu(rng.binomial(votes, expit(scores[:, :, None] - scores[:, None, :])), 1)
    ties = np.triu(rng.random((B, K, K)) < 0.15, 1) & (wins > 0)
    half_wins = 2 * wins - ties  # one vote of the row's becomes a tie
    votes, half_wins = votes + votes.swapaxes(1, 2), half_wins + np.swapaxes(2 * np.triu(votes, 1) - half_wins, 1, 2)
    for i, j in RINGS if cycles else ():
        half_wins[: B // 2, i, j], half_wins[: B // 2, j, i] = 2 * votes[: B // 2, i, j], 0
    diagonal = np.eye(K, dtype=bool)
    half_wins[:, diagonal] = 0
    shares = np.divide(half_wins / 2, votes, out=np.full((B, K, K), 0.5), where=votes > 0)
    np.savez(path, P=shares, votes=votes, models=[f"model-{k}" for k in range(K)])
    return path, shares


def table_rows(first=0.0, length=0.0, temperature=1.0, seed=0):
    """Votes in both orders with a known bonus for the first place, for length, and overconfident probabilities."""
    rng = np.random.default_rng(seed)
    for b in range(60):
        scores, sizes = rng.normal(0, 1, 4), np.exp(rng.normal(5, 0.5, 4)).astype(int)
        for i in range(4):
            for j in range(4):
                if i == j:
                    continue
                truth = scores[i] - scores[j]
                log_odds = truth + first + length * np.log(sizes[i] / sizes[j])
                wins = int(rng.binomial(3, expit(log_odds)))
                yield {
                    "prompt_id": f"q{b}",
                    "first": f"r{i}",
                    "second": f"r{j}",
                    "votes_first": wins,
                    "votes_second": 3 - wins,
                    "first_length": int(sizes[i]),
                    "second_length": int(sizes[j]),
                    "prob_first": float(expit(temperature * truth)),
                    "label": "first" if rng.random() < expit(truth) else "second",
                }


def write_rows(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """An audit of games whose cycles are noise, and their shares of votes."""
    folder = tmp_path_factory.mktemp("noisy")
    path, shares = human_games(folder / "noisy.npz", cycles=False)
    return run(folder, path), shares


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """An audit of a judge with known biases."""
    folder = tmp_path_factory.mktemp("biased")
    rows = table_rows(first=0.6, length=0.8, temperature=2.0)
    rows = [row | {"prompt_id": f"<script>{row['prompt_id']}"} for row in rows]
    return run(folder, write_rows(folder / "votes.jsonl", rows))


def test_cycles_of_vote_noise_are_no_finding(noisy):
    found, shares = noisy
    beats = shares > 0.5
    cyclic = int((np.einsum("bij,bjk,bki->b", *[beats.astype(int)] * 3) > 0).sum())
    assert cyclic > 3
    assert found.json["transitivity"]["cyclic_prompts"] == cyclic
    assert found.json["transitivity"]["p_value"] > 0.05
    assert f"{cyclic} of {B} prompts have a cycle" in " ".join(found.text.split())
    assert "[ok] Is it transitive?" in found.text
    # What the file cannot tell is said in one line each.
    for question in ("Does the place decide?", "Does length decide?", "Is it calibrated?"):
        assert re.search(rf"\[\?\?\] {re.escape(question)}\n +Cannot be said: ", found.text)


def test_no_cycle_at_all_is_said_so(tmp_path):
    np.savez(tmp_path / "votes.npz", wins=np.triu(np.full((20, 4, 4), 2), 1) + np.tril(np.ones((4, 4), int), -1))
    found = run(tmp_path, tmp_path / "votes.npz")
    assert "no prompt has a cycle, where Bradley-Terry judges have" in found.json["transitivity"]["answer"]
    assert found.json["transitivity"]["p_value"] == 1


def test_planted_cycles_are_a_finding(tmp_path):
    path, _ = human_games(tmp_path / "cyclic.npz", cycles=True)
    found = run(tmp_path, path)
    assert found.json["transitivity"]["p_value"] <= 0.05
    assert "[!!] Is it transitive?" in found.text


def test_equal_votes_give_equal_files(tmp_path):
    path = write_rows(tmp_path / "votes.jsonl", list(table_rows())[:60])
    first, second = (run(tmp_path / name, path) for name in ("a", "b"))
    assert (first.json, first.html) == (second.json, second.html)


def test_the_answers_of_every_prompt_and_of_all(noisy):
    answers, shares = noisy[0].json["answers"], noisy[1]
    assert len(answers["by_prompt"]) == B
    for row, game in zip(answers["by_prompt"], shares, strict=True):
        winners = [k for k in range(K) if (game[k] > 0.5).sum() == K - 1]
        assert row["condorcet"] == (f"model-{winners[0]}" if winners else None)
        best = [f"model-{k}" for k in np.flatnonzero(np.isclose(game.sum(axis=1), game.sum(axis=1).max()))]
        assert row["borda"] == best
        assert sum(row["nash"].values()) == pytest.approx(1, abs=1e-3)
    standing = [row["response"] for row in answers["standings"]]
    means = shares.mean(axis=0).sum(axis=1)
    assert standing == [f"model-{k}" for k in np.argsort(-means)]
    *_, table = noisy[0].text.partition("response  win rate (Borda)")
    assert re.findall(r"^ +(model-\d) +(\S+) +(\S+)", table, flags=re.MULTILINE) == [
        (row["response"], f"{row['borda']:.3f}", f"{row['nash']:.3f}") for row in answers["standings"]
    ]


class Page(HTMLParser):
    """What a page needs from elsewhere, and whether its elements are closed."""

    VOID = frozenset({"meta", "br", "line", "circle", "rect"})

    def __init__(self, text):
        super().__init__()
        self.open, self.elsewhere, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.elsewhere += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else_and_says_what_the_terminal_says(biased):
    found = biased
    page = Page(found.html)
    assert page.open == []
    assert page.elsewhere == []
    assert "<script" not in found.html
    words, terminal = " ".join(" ".join(page.words).split()), " ".join(found.text.split())
    for key in ("transitivity", "position", "length", "calibration", "answers"):
        assert found.json[key]["answer"] in words
        assert found.json[key]["answer"] in terminal
    assert found.html.count("<svg") == 4
    assert words.count("<script>q") == 60


def test_known_biases_are_found(biased):
    found = biased.json
    assert found["position"]["first_wins"]["low"] > 0.5
    assert found["position"]["to_first"] > 0.7 * found["position"]["flips"]
    assert found["length"]["longer_wins"]["low"] > 0.5
    slope = found["length"]["slope"]
    # Over all qualities: a difference of quality with variance 2 flattens .8 to about .8 / sqrt(1 + .346 * 2).
    assert slope["low"] < 0.615 < slope["high"]
    assert slope["low"] > 0
    temperature = found["calibration"]["temperature"]
    assert temperature["low"] < 2.0 < temperature["high"]
    assert temperature["low"] > 1
    assert [found[key]["tone"] for key in ("position", "length", "calibration")] == ["bad"] * 3


def test_a_fair_judge_is_not_accused(tmp_path):
    found = run(tmp_path, write_rows(tmp_path / "votes.jsonl", table_rows())).json
    assert [found[key]["tone"] for key in ("transitivity", "position", "length", "calibration")] == ["good"] * 4


def test_the_yaml_line_is_a_setting_of_the_oracle(biased):
    from sppo_lightning.oracles import ScoreToPreference

    found = biased
    (line,) = re.findall(r"^ +(data: .*)$", found.text, flags=re.MULTILINE)
    settings = yaml.safe_load(line)["data"]["oracle"]["init_args"]
    assert settings.keys() < inspect.signature(ScoreToPreference).parameters.keys()
    assert settings["scale"] == pytest.approx(1 / found.json["calibration"]["temperature"]["estimate"], rel=1e-3)


def test_flips_by_hand(tmp_path):
    ab, ac, bc = [("a", "b", "first"), ("b", "a", "first")], [("a", "c", "a"), ("c", "a", "a")], [("b", "c", "tie")]
    verdicts = [*ab, *ac, *bc, ("c", "b", "c")]
    rows = [
        {"prompt_id": p, "first": first, "second": second, "winner": winner}
        for p in range(3)
        for first, second, winner in verdicts
    ]
    found = run(tmp_path, write_rows(tmp_path / "votes.jsonl", rows))
    position = found.json["position"]
    assert (position["pairs"], position["flips"], position["to_first"]) == (9, 3, 3)
    assert position["flip_share"]["estimate"] == 0.5  # of two decided pairs a prompt
    # P(first wins): (1 + 1) / 2 of a and b, (1 + 0) / 2 of a and c, (1/2 + 1) / 2 of b and c.
    assert position["first_wins"]["estimate"] == pytest.approx((1 + 0.5 + 0.75) / 3)
    assert "3 pairs tied in an order" in found.text


def test_one_order_only_is_no_evidence_of_a_bias(tmp_path):
    rows = [row for row in table_rows(first=2.0) if row["first"] < row["second"]]
    found = run(tmp_path, write_rows(tmp_path / "votes.jsonl", rows))
    assert found.json["position"]["tone"] == "unknown"
    assert "no pair was judged in both orders" in found.text


def test_single_votes_cannot_tell_noise_from_cycles(tmp_path):
    wins = np.triu(np.random.default_rng(0).integers(0, 2, (30, 5, 5)), 1)
    np.savez(tmp_path / "single.npz", wins=wins + np.tril(1 - wins.swapaxes(1, 2), -1))
    found = run(tmp_path, tmp_path / "single.npz")
    assert "with a single vote on each pair" in " ".join(found.text.split())
    assert found.json["transitivity"]["tone"] == "unknown"
    assert "standings" not in found.json["answers"]  # number 3 is another response at every prompt


def test_labels_without_probabilities_give_the_agreement_only(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "prob_first"} for row in table_rows()]
    found = run(tmp_path, write_rows(tmp_path / "votes.jsonl", rows)).json["calibration"]
    assert found["tone"] == "unknown"
    assert 0.6 < found["agreement"]["estimate"] < 0.9
    assert "yaml" not in found


def test_one_comparison_is_enough_for_a_page(tmp_path):
    path = write_rows(tmp_path / "votes.jsonl", [{"prompt_id": 1, "first": "a", "second": "b", "winner": "a"}])
    found = run(tmp_path, path)
    assert "No prompt has three responses" in found.text
    assert found.json["answers"]["by_prompt"][0]["condorcet"] == "a"


def test_no_evidence_is_not_called_fine(tmp_path):
    pair = {"prompt_id": 1, "first": "a", "second": "b", "first_length": 9, "second_length": 4}
    one = write_rows(tmp_path / "one.jsonl", [pair | {"winner": "a", "prob_first": 0.9, "label": "first"}])
    found = run(tmp_path, one)
    assert "[??] Does length decide?" in found.text
    assert "too wide" in found.json["length"]["answer"]
    assert "[??] Is it calibrated?" in found.text
    assert "no temperature fits" in found.json["calibration"]["answer"]

    orders = [{"prompt_id": 1, "first": first, "second": second, "winner": "a"} for first, second in ("ab", "ba")]
    labels = ("first", "first", "second")
    rows = [order | {"prob_first": 0.7, "label": label} for order in orders for label in labels]
    found = run(tmp_path, write_rows(tmp_path / "both.jsonl", rows))
    assert "[??] Does the place decide?" in found.text
    assert "[??] Is it calibrated?" in found.text
    assert "leave the temperature open" in found.json["calibration"]["answer"]


def test_what_decides_on_the_calibration_is_said(tmp_path):
    """Too sure on few pairs: the temperature shows it, the error of ten bins does not."""
    found = run(tmp_path, write_rows(tmp_path / "votes.jsonl", list(table_rows(temperature=1.6, seed=1))[:180]))
    calibration = found.json["calibration"]
    assert calibration["error"] <= calibration["error_if_calibrated"]
    assert calibration["temperature"]["low"] > 1
    assert calibration["tone"] == "bad"
    assert "leaves out 1. That decides: its calibration error" in calibration["answer"]


@pytest.mark.parametrize("verdict", [{"winner": "tie"}, {"prob_first": 0.5}])
def test_ties_alone_make_no_judge_transitive(tmp_path, verdict):
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    rows = [{"prompt_id": p, "first": i, "second": j} | verdict for p in range(9) for i, j in pairs]
    found = run(tmp_path, write_rows(tmp_path / "ties.jsonl", rows))
    assert "[??] Is it transitive?" in found.text
    assert "ties make no cycle" in found.json["transitivity"]["answer"]


def test_bad_votes_end_the_program_with_file_and_line(tmp_path, capsys):
    (tmp_path / "votes.jsonl").write_text('{"prompt_id": 1, "first": "a", "second": "a", "winner": "a"}')
    assert program(["audit", str(tmp_path / "votes.jsonl")]) == DataError.exit_code
    assert re.match(r"error: .*votes\.jsonl, line 1: compares 'a' with itself", capsys.readouterr().err)
