"""A user's function as a judge, and how it can misbehave: each way is one error that names the file."""

import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Function, MatrixFunction
from sppo_lightning.oracles.identity import identity

from .examples import candidates

TEXTS = {"q": ["aaa", "a", "aa"]}


@pytest.fixture
def write(tmp_path):
    def write(code):
        (tmp_path / "my_judge.py").write_text(code)
        return tmp_path / "my_judge.py"

    return write


def test_both_orders_of_a_pair_are_asked(write):
    path = write("def prefer(pairs):\n    return [0.7 if len(p.first) > len(p.second) else 0.5 for p in pairs]\n")
    oracle = Function(f"{path}:prefer")
    assert float(oracle.compare(candidates(TEXTS)).probs_BKJ[0, 0, 1]) == pytest.approx(0.6)
    assert oracle.measured()["position_bias"] == pytest.approx(0.1)
    assert oracle.name == "Function-prefer"


def test_arrays_and_tensors_and_no_verdicts(write):
    path = write(
        "import torch\n"
        "def tensor(pairs):\n    return torch.full((len(pairs),), 0.5)\n"
        "def some(pairs):\n    return [None if 'aaa' in (p.first, p.second) else 1 for p in pairs]\n"
        "def matrix(prompt, rows, columns):\n    return torch.full((len(rows), len(columns)), 0.5).numpy()\n"
    )
    for oracle in (Function(f"{path}:tensor"), MatrixFunction(f"{path}:matrix")):
        assert torch.equal(oracle.compare(candidates(TEXTS)).probs_BKJ, torch.full((1, 3, 3), 0.5))
    assert Function(f"{path}:some").compare(candidates(TEXTS)).judged_BKJ.sum() == 5


def test_what_a_function_does_to_its_arguments_stays_there(write):
    path = write(
        "def prefer(pairs):\n"
        "    n = len(pairs)\n"
        "    for pair in pairs:\n"
        "        pair.prompt.messages[0]['content'] = pair.prompt.metadata['answer'] = 'changed'\n"
        "    pairs.clear()\n"
        "    return [0.5] * n\n"
        "def judge(prompt, rows, columns):\n"
        "    answer = [[0.5] * len(columns) for _ in rows]\n"
        "    prompt.messages[0]['content'] = rows[0] = columns[0] = 'changed'\n"
        "    return answer\n"
    )
    for oracle in (Function(f"{path}:prefer"), MatrixFunction(f"{path}:judge")):
        responses = candidates(TEXTS)
        oracle.compare(responses)
        assert responses == candidates(TEXTS)


def test_a_file_may_define_dataclasses_whose_annotations_are_text(write):
    path = write(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Verdict:\n    prob: float\n"
        "def prefer(pairs):\n    return [Verdict(0.5).prob for _ in pairs]\n"
    )
    assert float(Function(f"{path}:prefer").compare(candidates(TEXTS)).probs_BKJ[0, 0, 1]) == 0.5


def test_a_function_is_known_by_the_code_that_was_run(write, tmp_path):
    """An edit during a run must not keep the old code's verdicts under the new file's name."""
    code = "def prefer(pairs):\n    return [0.5] * len(pairs)\ndef other(pairs): ...\n"
    path = write(code)
    (tmp_path / "copy.py").write_text(code)
    for oracle in (Function, MatrixFunction):
        path.write_text(code)
        running, before = oracle(f"{path}:prefer"), identity(oracle(f"{path}:prefer"))
        path.write_text(code.replace("0.5", "0.9"))
        assert identity(running) == before
        assert identity(oracle(f"{path}:prefer")) != before
        assert identity(oracle(f"{tmp_path / 'copy.py'}:prefer")) == before
        assert identity(oracle(f"{tmp_path / 'copy.py'}:other")) != before


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('colour')", r"my_judge.py, line 2: prefer raised KeyError: 'colour'"),
        ("raise SystemExit(0)", r"my_judge.py, line 2: prefer raised SystemExit: 0"),
        ("return 0.5", "returned no list for 6 pairs"),
        ("return None", "returned no list for 6 pairs"),
        ("return {'a': 1}", "returned no list for 6 pairs"),
        ("return '0.5 0.5'", "returned no list for 6 pairs"),
        ("return [0.5]", "returned 1 verdicts for 6 pairs"),
        ("return [0.5] * 7", "returned 7 verdicts for 6 pairs"),
        ("return [float('nan')] * 6", "pair 0, prompt p0: nan is not a probability"),
        ("return [float('inf')] * 6", "pair 0, prompt p0: inf is not a probability"),
        ("return [0.5] * 5 + [-0.01]", "pair 5, prompt p0: -0.01 is not a probability"),
        ("return ['0.5'] * 6", "'0.5' is a str, not a probability"),
        ("return [True] * 6", "True is a bool, not a probability"),
        ("return [[0.5, 0.5]] * 6", r"\[0.5, 0.5\] is a list, not a probability"),
        ("return [0.5j] * 6", "0.5j is a complex, not a probability"),
    ],
)
def test_functions_of_pairs_that_misbehave(write, body, said):
    path = write(f"def prefer(pairs):\n    {body}\n")
    with pytest.raises(OracleError, match=said) as raised:
        Function(f"{path}:prefer").compare(candidates(TEXTS))
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return rows[99]", "line 2: judge raised IndexError"),
        ("import sys; sys.exit()", "line 2: judge raised SystemExit"),
        ("return [[0.5] * 3] * 2", r"p0: returned 2 rows of \[3\] columns; it must return 3 rows of 3 columns"),
        ("return [[0.5] * 2] * 3", r"returned 3 rows of \[2\] columns"),
        ("return 0.5", "returned 0 rows"),
        ("return [0.5] * 3", "returned 3 rows of no columns"),
        ("return [[float('nan')] * 3] * 3", r"entry \[0\]\[0\]: nan is not a probability"),
        ("return [['x'] * 3] * 3", "'x' is a str"),
        ("return [[0.9] * 3] * 3", r"P\(0 beats 1\) = 0.9 and P\(1 beats 0\) = 0.9 must sum to 1"),
    ],
)
def test_functions_of_matrices_that_misbehave(write, body, said):
    path = write(f"def judge(prompt, rows, columns):\n    {body}\n")
    with pytest.raises(OracleError, match=said) as raised:
        MatrixFunction(f"{path}:judge").compare(candidates(TEXTS))
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("def prefer(pairs): ...", "prefr", r"there is no function prefr; did you mean prefer\?"),
        ("def other(pairs): ...", "prefer", "there is no function prefer; it has other"),
        ("prefer = 3", "prefer", "there is no function prefer; it has none"),
        ("x = 1\ndef prefer(pairs:\n", "prefer", "line 2: is not Python: '\\(' was never closed"),
        ("\nimport no_such_module\n", "prefer", "line 2: raised ModuleNotFoundError: No module named"),
        ("x = 1\nexit(0)\n", "prefer", "line 2: raised SystemExit: 0 when the file was run"),
        ("def prefer(pairs): ...", "", "must look like my_judge.py:prefer"),
    ],
)
def test_files_that_cannot_be_used(write, code, name, said):
    path = write(code)
    for oracle in (Function, MatrixFunction):
        with pytest.raises(ConfigError, match=said):
            oracle(f"{path}:{name}")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere\.py"):
        Function(f"{tmp_path / 'nowhere.py'}:prefer")
    with pytest.raises(
        ConfigError, match=r"must look like my_judge.py:prefer, a file and a function in it; got 'judge.py'"
    ):
        Function("judge.py")
