import math
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo_lightning.errors import DataError
from sppo_lightning.io.official import write_official
from sppo_lightning.io.official_import import read_official
from sppo_lightning.types import PreferenceMatrix, Prompt, Targets

NAN = math.nan


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def prompt(prompt_id: str, *texts: str) -> Prompt:
    return Prompt(prompt_id=prompt_id, messages=tuple(conversation(*texts)))


def targets(win_rates, *pairs, probs=None, weights=None) -> Targets:
    rows = tuple(sorted({k for pair in pairs for k in pair}))
    return Targets(
        win_rate_K=torch.tensor(win_rates),
        rows=rows,
        row_weights=(1.0,) * len(rows),
        pairs=pairs,
        pair_probs=probs or (0.75,) * len(pairs),
        pair_weights=weights or (1.0,) * len(pairs),
    )


THREE = torch.tensor([[0.5, 0.75, 0.25], [0.25, 0.5, 1.0], [0.75, 0.0, 0.5]])


def test_the_columns_are_the_official_ones(tmp_path):
    path = tmp_path / "pairs.parquet"
    one = targets([0.5, 0.625, 0.375], (0, 1), (1, 2), (0, 2), probs=(0.75, 1.0, 0.25), weights=(1.0, 1.0, 0.0))
    write_official(path, [prompt("p", "Hi")], [["a", "b", "c"]], PreferenceMatrix(probs_BKJ=THREE[None]), [one])
    first, second = pd.read_parquet(path).to_dict("records")  # the third pair has weight 0
    assert list(first)[5:] == ["chosen", "rejected", "chosen_probs", "chosen_probs_win", "chosen_probs_lose"]
    assert first["prompt"] == "Hi"
    assert list(first["responses"]) == ["a", "b", "c"]
    assert torch.equal(torch.tensor([list(line) for line in first["probability"]]), THREE)
    assert list(first["chosen"]) == conversation("Hi", "a")
    assert list(first["rejected"]) == conversation("Hi", "b")
    assert (first["chosen_probs"], first["chosen_probs_win"], first["chosen_probs_lose"]) == (0.75, 0.5, 0.625)
    assert (second["chosen_probs"], second["chosen_probs_win"], second["chosen_probs_lose"]) == (1.0, 0.625, 0.375)


def test_conversations_of_several_turns_are_kept_whole(tmp_path):
    prompts = [prompt("p", "Hi", "Hello", "Bye"), prompt("q", "Hi")]
    matrix = PreferenceMatrix(probs_BKJ=torch.full((2, 2, 2), 0.5))
    write_official(
        tmp_path / "p.parquet", prompts, [["a", "b"]] * 2, matrix, [targets([0.5, 0.5], (0, 1), probs=(0.5,))] * 2
    )
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert list(table.prompt[0]) == conversation("Hi", "Hello", "Bye")
    assert list(table.chosen[0]) == conversation("Hi", "Hello", "Bye", "a")
    assert read_official(tmp_path / "p.parquet").prompts == prompts


@st.composite
def rounds(draw):
    """B prompts with 2 to 4 different responses each, some pairs unjudged, one or more pairs trained."""
    prompts, texts, all_targets, counts = [], [], [], []
    for b in range(draw(st.integers(1, 4))):
        K = draw(st.integers(2, 4))
        prompts.append(prompt(f"p{b}", *draw(st.sampled_from([["Hi"], ["Hi", "Hello", "Bye"]]))))
        texts.append(
            draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=K, max_size=K, unique=True))
        )
        every = [(i, j) for i in range(K) for j in range(K) if i != j]
        pairs = draw(st.lists(st.sampled_from(every), min_size=1, max_size=3, unique=True))
        win_rates = draw(st.lists(st.sampled_from([NAN, 0.0, 0.25, 1.0]), min_size=K, max_size=K))
        all_targets.append(targets(win_rates, *pairs, probs=tuple(draw(st.floats(0, 1)) for _ in pairs)))
        counts.append(K)
    K = max(counts)
    upper = torch.rand(len(prompts), K, K, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).triu(1)
    judged = torch.zeros(len(prompts), K, K, dtype=torch.bool)
    for b, count in enumerate(counts):
        judged[b, :count, :count] = True
    judged[0, 0, 1] = judged[0, 1, 0] = draw(st.booleans())
    probs = upper + (1 - upper).transpose(1, 2).tril(-1) + 0.5 * torch.eye(K)
    return prompts, texts, PreferenceMatrix(probs_BKJ=probs, judged_BKJ=judged), all_targets


@given(rounds())
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, data):
    prompts, texts, matrix, all_targets = data
    path = tmp_path_factory.mktemp("official") / "p.parquet"
    write_official(path, prompts, texts, matrix, all_targets)
    read = read_official(path)
    assert read.prompts == prompts
    assert read.texts == texts
    assert torch.equal(read.matrix.judged_BKJ, matrix.judged_BKJ)
    assert torch.equal(read.matrix.probs_BKJ[matrix.judged_BKJ], matrix.probs_BKJ[matrix.judged_BKJ])
    for ours, theirs in zip(all_targets, read.targets, strict=True):
        assert torch.equal(ours.win_rate_K.nan_to_num(-1), theirs.win_rate_K.nan_to_num(-1))
        assert (ours.rows, ours.pairs, ours.pair_probs) == (theirs.rows, theirs.pairs, theirs.pair_probs)


def test_the_official_pair_file(tmp_path):
    """The columns of synthetic_data_*_score: nothing but conversations and three numbers."""
    path = tmp_path / "train.parquet"
    rows = [
        ("Hi", "a", "b", 0.9, 0.8, 0.3),
        ("Ho", "c", "c", 0.5, 0.5, 0.5),
        ("Hi", "d", "e", 0.6, 0.5, 0.4),  # UltraFeedback repeats some prompts
    ]
    columns = {
        "chosen": [conversation(row[0], row[1]) for row in rows],
        "rejected": [conversation(row[0], row[2]) for row in rows],
    }
    columns |= {name: [row[i + 3] for row in rows] for i, name in enumerate(NUMBERS)}
    pq.write_table(pa.table(columns), path)
    data = read_official(path)
    assert [prompt.text for prompt in data.prompts] == ["Hi", "Ho"]
    assert data.texts == [["a", "b", "d", "e"], ["c", "c"]]
    first, second = data.targets
    assert first.pairs == ((0, 1), (2, 3))
    assert first.pair_probs == (0.9, 0.6)
    assert first.win_rate_K.tolist() == pytest.approx([0.8, 0.3, 0.5, 0.4])
    assert (second.pairs, second.pair_probs) == (((0, 1),), (0.5,))
    assert float(data.matrix.probs_BKJ[0, 3, 2]) == pytest.approx(0.4)
    assert data.matrix.judged_BKJ[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert data.matrix.judged_BKJ[1].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


NUMBERS = ["chosen_probs", "chosen_probs_win", "chosen_probs_lose"]


def test_the_official_file_of_all_responses():
    """The columns of compute_prob.py's first file: generate_0, ..., probability; more than ten keep their order."""
    K = 11
    row = {"prompt": "Hi", "prompt_id": "x", "probability": [[0.5] * K] * K, "rm_scores": [0.0] * K}
    row |= {f"generate_{k}": conversation("Hi", f"r{k}") for k in reversed(range(K))}
    data = read_official([row])
    assert data.texts == [[f"r{k}" for k in range(K)]]
    assert data.prompts == [prompt("x", "Hi")]
    assert data.targets[0].pairs == ()
    assert data.targets[0].win_rate_K.isnan().all()


def test_an_official_tie_of_one_response_is_no_pair():
    row = full_row(chosen=conversation("Hi", "a"), rejected=conversation("Hi", "a"), chosen_probs=0.5)
    assert read_official([row]).targets[0].pairs == ()


# --- malformed rows -----------------------------------------------------------------------------------------------


def pair_row(**changes):
    row = {"chosen": conversation("Hi", "a"), "rejected": conversation("Hi", "b"), "chosen_probs": 0.7}
    return row | {"chosen_probs_win": 0.6, "chosen_probs_lose": 0.4} | changes


def full_row(**changes):
    row = {"prompt": "Hi", "prompt_id": "x", "responses": ["a", "b"], "probability": [[0.5, 0.7], [0.3, 0.5]]}
    return row | changes


MALFORMED = [
    (["text"], "row index 0: a row must be an object with columns, not str"),
    ([{"prompt": "Hi"}], "row index 0: has neither 'chosen'.*'prompt'"),
    ([pair_row(rejected=None)], "row index 0, column 'rejected': must be a list of messages"),
    ([pair_row(), pair_row(chosen="a")], "row index 1, column 'chosen': must be a list of messages"),
    ([pair_row(chosen=conversation("Hi"))], "column 'chosen': must be .* ends with the assistant's response"),
    ([pair_row(chosen=[])], "column 'chosen': must be a list of messages"),
    ([pair_row(chosen=[{"role": "assistant", "content": 3}])], "column 'chosen': must be a list of messages"),
    ([pair_row(chosen=conversation("Ho", "a"))], "column 'rejected': answers another prompt than 'chosen'"),
    ([pair_row(chosen=conversation("", "a"))], "field 'prompt', message index 0: the user's text is empty"),
    ([pair_row(chosen_probs=None)], "column 'chosen_probs': must be a probability.* not None"),
    ([pair_row(chosen_probs=1.5)], "column 'chosen_probs': must be a probability.* not 1.5"),
    ([pair_row(chosen_probs=NAN)], "column 'chosen_probs': must be a probability.* not nan"),
    ([pair_row(chosen_probs="0.5")], "column 'chosen_probs': must be a probability.* not '0.5'"),
    ([pair_row(chosen_probs=True)], "column 'chosen_probs': must be a probability.* not True"),
    ([pair_row(chosen_probs_win=-0.1)], "column 'chosen_probs_win': must be a probability.* not -0.1"),
    ([pair_row(chosen_probs_lose=[0.1])], r"column 'chosen_probs_lose': must be a probability.* not \[0.1\]"),
    ([full_row(responses=[])], "column 'responses': must be a list of one or more strings"),
    ([full_row(responses="ab")], "column 'responses': must be a list of one or more strings"),
    ([full_row(responses=["a", 3])], "column 'responses': must be a list of one or more strings"),
    ([full_row(probability=None)], "column 'probability': must be a list of 2 lists"),
    ([full_row(probability=[[0.5]])], "column 'probability': must be a list of 2 lists"),
    ([full_row(probability=[[0.5, 0.7], [0.3]])], "column 'probability', list 1: must be a list of 2 numbers"),
    ([full_row(probability=[[0.5, 7], [0.3, 0.5]])], "column 'probability', list 0: must be a probability.* not 7"),
    ([full_row(probability=[[0.5, 0.7], [0.7, 0.5]])], r"column 'probability': .*must be 1; .*prompt x, pair \(0, 1\)"),
    ([full_row(probability=[[0.9, 0.7], [0.3, 0.5]])], r"column 'probability': .*exactly 1/2.*pair \(0, 0\)"),
    ([full_row(win_rate=[0.5])], "column 'win_rate': must be a list of 2 numbers"),
    ([full_row(generate_0=conversation("Hi"), responses=None)], "column 'generate_0': must be a list of messages"),
    ([full_row(prompt=None)], "row index 0: has no field 'prompt'"),
    ([full_row(prompt_id=[1])], "field 'prompt_id': an id must be a string or a whole number"),
    ([full_row() | pair_row(chosen=conversation("Hi", "z"))], "column 'chosen': its response is not one of the row's"),
    ([full_row() | pair_row(chosen_probs=2)], "column 'chosen_probs': must be a probability.* not 2"),
    ([full_row(), full_row(responses=["a", "c"])], "row index 1: has other responses .* row index 0.*(x)"),
    (
        [full_row(), full_row(probability=[[0.5, 0.8], [0.2, 0.5]])],
        "row index 1: has other responses or probabilities",
    ),
]


@pytest.mark.parametrize(("rows", "message"), MALFORMED)
def test_a_malformed_row_says_where_and_what(rows, message):
    with pytest.raises(DataError, match=message):
        read_official(rows)


def test_an_error_in_a_file_names_it(tmp_path):
    pq.write_table(pa.table({"chosen": [[{"role": "user", "content": "Hi"}]]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/p.parquet, row index 0, column 'chosen'")):
        read_official(tmp_path / "p.parquet")


def test_a_matrix_against_other_opponents_is_not_written(tmp_path):
    matrix = PreferenceMatrix(probs_BKJ=torch.full((1, 2, 3), 0.5), self_play=False)
    with pytest.raises(ValueError, match="other opponents"):
        write_official(tmp_path / "p.parquet", [prompt("p", "Hi")], [["a", "b"]], matrix, [targets([0.5, 0.5])])
