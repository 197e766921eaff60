"""Bad input at the command line: one readable first line with the place and the way out, never a traceback.

Every case is a change of one working command. It runs in this process, as `python -m sppo_lightning` would.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import transformers

from sppo_lightning.__main__ import main
from sppo_lightning.engines import Transformers
from sppo_lightning.io.assets import resolve
from sppo_lightning.oracles import PreferenceOracle
from sppo_lightning.types import PreferenceMatrix

POLICY = Path(resolve("package:quickstart/policy"))
ROW = b'{"prompt": "Is the price of the kettle fair?"}\n'
ROWS = b"".join(b'{"prompt": "Is kettle %d fair?"}\n' % i for i in range(12))
WORKS = {
    "--config": "configs/quickstart.yaml",
    "--trainer.logger": "false",
    "--trainer.default_root_dir": "run",
    "--data.prompts": "prompts.jsonl",
    "--data.num_rounds": "1",
    "--data.num_candidates": "2",
    "--data.epochs_per_round": "1",
    "--data.held_out": "2",
    "--data.prompts_per_round": "10",
    "--data.engine.max_new_tokens": "4",
    "--data.truncated": "keep",
}


class Judge(PreferenceOracle):
    """Says what its subclass says of two responses; none of these is a preference."""

    def compare(self, candidates, opponents=None):
        return PreferenceMatrix(probs_BKJ=self.matrix(torch.full((len(candidates), 2, 2), 0.5)))

    def matrix(self, half_BKK):
        return half_BKK


class NotANumber(Judge):
    def matrix(self, half_BKK):
        half_BKK[1, 0, 1] = torch.nan
        return half_BKK


class OverOne(Judge):
    def matrix(self, half_BKK):
        half_BKK[0, 0, 1], half_BKK[0, 1, 0] = 1.5, -0.5
        return half_BKK


class LovesTheFirst(Judge):
    def matrix(self, half_BKK):
        half_BKK[0, 0, 1] = 0.81
        return half_BKK


class BeatsItself(Judge):
    def matrix(self, half_BKK):
        half_BKK[0, 1, 1] = 0.7
        return half_BKK


class NotSquare(Judge):
    def matrix(self, half_BKK):
        return half_BKK[:, :, :1]


class OneTooFew(Judge):
    def matrix(self, half_BKK):
        return half_BKK[1:]


class Scalar(Judge):
    def matrix(self, half_BKK):
        return half_BKK.mean()


class AnswersOnce(Transformers):
    def generate(self, prompts, seeds_BK):
        return super().generate(prompts, [seeds_K[:1] for seeds_K in seeds_BK])


@dataclass(frozen=True)
class Case:
    """What is wrong, and the first line it must get.

    Attributes:
        name: of the case.
        change: keys and values beside those of `WORKS`.
        says: what the first line must hold, in this order.
        files: name -> content; a number copies the policy and cuts its weights to so many bytes.
        model: loading the model cannot be avoided.
    """

    name: str
    change: dict[str, str]
    says: tuple[str, ...]
    files: dict[str, bytes | int] = field(default_factory=dict)
    model: bool = False


def key(name: str, value: str, *says: str) -> Case:
    return Case(f"{name} {value}"[:70], {f"--{name}": value}, says or (name,))


def config(name: str, content: str | bytes, *says: str) -> Case:
    content = content.encode() if isinstance(content, str) else content
    return Case(name, {"--config ": "own.yaml"}, says, {"own.yaml": content})


def prompts(name: str, content: bytes, *says: str, **change: str) -> Case:
    return Case(name, {"--data.prompts": name, **change}, says, {name: content})


def oracle(judge: type, *says: str) -> Case:
    return Case(judge.__name__, {"--data.oracle": f"{__name__}.{judge.__name__}"}, says, model=True)


CASES = [
    # --- a key that does not exist, at any depth, on the command line and in a file
    key("modle.policy", "x", "--modle.policy", "no such key", "did you mean --model.policy?"),
    key("data.num_roundz", "2", "data.num_roundz", "did you mean num_rounds?"),
    key("data.engine.temprature", "1", "data.engine.temprature", "Transformers", "did you mean temperature?"),
    key("model.objective.ta", "1", "model.objective.ta", "SPPO", "did you mean eta?"),
    key("model.optimizer.lrr", "1", "model.optimizer.lrr", "AdamW", "did you mean lr?"),
    key("trainer.max_epoch", "1", "--trainer.max_epoch", "no such key", "did you mean --trainer.max_epochs?"),
    key("seed", "1", "--seed", "no such key", "did you mean --seed_everything?"),
    key("data.num_r", "1", "data.num_r", "did you mean num_rounds?"),
    key("verbose", "1", "--verbose", "no such key"),
    config("top", "modle:\n  policy: x\n", "own.yaml, line 2: modle.policy", "did you mean model.policy?"),
    config("depth 2", "data:\n\n  num_roundz: 2\n", "own.yaml, line 3: data.num_roundz", "did you mean num_rounds?"),
    config(
        "depth 4",
        "data:\n  engine:\n    class_path: Transformers\n    init_args:\n      temprature: 1\n",
        "own.yaml, line 5: data.engine.temprature",
        "did you mean temperature?",
    ),
    config(
        "in a list",
        "trainer:\n  callbacks:\n  - class_path: SampleTable\n    init_args:\n      num_promts: 2\n",
        "own.yaml, line 5: trainer.callbacks.num_promts",
        "SampleTable",
        "did you mean num_prompts?",
    ),
    config("the Trainer's", "trainer:\n  max_epoch: 3\n", "own.yaml, line 2: trainer.max_epoch", "trainer.max_epochs?"),
    Case(
        "another class's argument",
        {"--model.objective": "DPO", "--model.objective.eta": "2"},
        ("model.objective.eta", "DPO has no argument 'eta'", "did you mean beta?"),
    ),
    # --- a value of the wrong type
    key("data.num_rounds", "two", "data.num_rounds: expected a whole number, got 'two'"),
    key("data.num_rounds", "2.5", "data.num_rounds: expected a whole number, got '2.5'"),
    key("data.num_rounds", "null", "data.num_rounds: expected a whole number, got null"),
    key("model.objective.eta", "big", "model.objective.eta: expected a number, got 'big'"),
    key("data.self_comparison", "maybe", "data.self_comparison: expected true or false, got 'maybe'"),
    key("model.dtype", "float8", "model.dtype: expected one of float32, bfloat16, bfloat16-mixed, got 'float8'"),
    key("data.held_out", "[1]", "data.held_out: expected a whole number or null, got '[1]'"),
    key("cpu_threads", "many", "cpu_threads: expected a whole number or null, got 'many'"),
    config("type", "data:\n  num_rounds: two\n", "own.yaml, line 2: data.num_rounds: expected a whole number"),
    Case("no value", {"--data.num_rounds": ""}, ("--data.num_rounds: its value is missing",)),
    # --- a value that cannot work
    key("data.num_candidates", "1", "data.num_candidates must be at least 2, got 1"),
    key("data.num_rounds", "0", "data.num_rounds must be at least 1, got 0"),
    key("data.global_batch_prompts", "-4", "data.global_batch_prompts must be at least 1, got -4"),
    key("model.objective.eta", "0", "model.objective.eta: must be a finite number above 0, got 0"),
    key("model.objective.eta", "-5", "model.objective.eta: must be a finite number above 0, got -5"),
    key("model.objective.eta", ".nan", "model.objective.eta: must be a finite number above 0, got nan"),
    key("data.engine.temperature", "-1", "data.engine.temperature must be", "got -1"),
    key("data.engine.top_p", "1.5", "data.engine.top_p must lie in (0, 1]", "got 1.5"),
    key("model.warmup_ratio", "1", "model.warmup_ratio must lie in [0, 1), got 1"),
    key("model.max_grad_norm", "0", "model.max_grad_norm must be positive"),
    key("model.optimizer.lr", "-1", "model.optimizer: AdamW refuses its arguments: Invalid learning rate: -1"),
    key("seed_everything", "true", "seed_everything: expected a whole number, got 'True'"),
    key("seed_everything", "-1", "seed_everything must be from 0 to", "got -1"),
    key("seed_everything", "null", "seed_everything: expected a whole number, got null"),
    key("cpu_threads", "0", "cpu_threads must be from 1 to 1024, got 0"),
    key("trainer.log_every_n_steps", "0", "trainer.log_every_n_steps must be at least 1, got 0"),
    key("trainer.default_root_dir", "null", "trainer.default_root_dir must name a folder"),
    key("from", "runs/quickstart", "data.fork_from must look like runs/quickstart@round_001"),
    key("from", "nowhere@round_000", "data.fork_from: nowhere/rounds/round_000 is not a complete round"),
    # --- a class that does not exist
    key("model.objective", "SPPOO", "model.objective: there is no Objective called SPPOO; did you mean SPPO"),
    key("data.engine", "vLLMM", "data.engine: there is no Engine called vLLMM"),
    key("data.engine", "SPPO", "data.engine: there is no Engine called SPPO"),
    key("data.engine", "my.module.Engine", "data.engine: my.module.Engine cannot be imported", "PYTHONPATH"),
    key("data.pairing", "BestWrost", "data.pairing: there is no Pairing called BestWrost; did you mean BestWorst?"),
    key("model.optimizer", "torch.optim.SGDD", "model.optimizer: torch.optim.SGDD cannot be imported"),
    key("model.optimizer", "torch.nn.Linear", "model.optimizer: there is no Optimizer called torch.nn.Linear"),
    key("model.optimizer", "RMSpropp", "model.optimizer: there is no Optimizer called RMSpropp", "RMSprop"),
    config("class", "data:\n  oracle:\n    class_path: Style\n", "own.yaml, line 2: data.oracle: there is no", "Style"),
    # --- the Trainer's settings that cannot work with this loop
    key("trainer.strategy", "ddp", "trainer.strategy = ddp cannot work", "leave it out"),
    key("trainer.devices", "2", "trainer.devices = 2 cannot work", "leave it out"),
    key("trainer.gradient_clip_val", "1.0", "trainer.gradient_clip_val = 1.0 cannot work", "model.max_grad_norm"),
    key("trainer.accumulate_grad_batches", "4", "trainer.accumulate_grad_batches", "data.global_batch_prompts"),
    key("trainer.max_epochs", "3", "trainer.max_epochs = 3 cannot work", "data.num_rounds"),
    key("trainer.precision", "16-mixed", "trainer.precision = 16-mixed cannot work", "model.dtype"),
    key("trainer.precision", "7", "trainer.precision: expected one of", "got '7'"),
    key("trainer.accelerator", "abacus", "trainer: ", "Check trainer.accelerator=abacus"),
    # --- configuration files
    Case(
        "no config", {"--config": "configs/quickstrat.yaml"}, ("quickstrat.yaml: there is no such file", "quickstart")
    ),
    Case("a folder", {"--config": "."}, ("--config .: is a folder",)),
    Case("no file", {"--config": ""}, ("--config: the name of a file is missing",)),
    config("syntax", "data:\n  num_rounds: 3\n bad: [1,\n", "own.yaml, line 3", "is not YAML"),
    config("tab", "data:\n\tnum_rounds: 3\n", "own.yaml, line 2", "is not YAML"),
    config("not UTF-8", b"# caf\xe9\n", "own.yaml, line 1: is not UTF-8 (0xe9)"),
    config("NUL", b"data:\n  num_rounds: \0\n", "own.yaml: is not YAML"),
    config("text", "just words\n", "own.yaml: holds no settings"),
    config("nothing", "# nothing\n", "own.yaml: holds no settings"),
    config("twice", "data:\n  num_rounds: 1\n  num_rounds: 2\n", "own.yaml, line 3: num_rounds is set a second time"),
    config("circle", "data: &data [*data]\n", "own.yaml: is not YAML: Circular"),
    config("no name", "1: 2\n", "own.yaml, line 1: 1 is no name of a setting"),
    config("no section", "trainer: 5\n", "trainer: expected settings below it"),
    config("code", "data: !!python/object/apply:os.abort []\n", "own.yaml, line 1", "is not YAML"),
    # --- what must be there is not
    Case(
        "no class yet",
        {"--config": None},
        ("data.engine: no Engine is chosen yet", "write --data.engine CLASS before its arguments"),
    ),
    Case("null prompts", {"--data.prompts": "null"}, ("data.prompts", "must be given")),
    key("data.prompts", "promts.jsonl", "promts.jsonl: there is no such file or folder; did you mean prompts.jsonl?"),
    key("data.prompts", "package:quickstart/prompt.jsonl", "package:quickstart/prompt.jsonl", "prompts.jsonl"),
    # --- prompts
    prompts("cut.jsonl", ROW * 3 + b'{"prompt": "Wri', "cut.jsonl, line 4: is not JSON"),
    prompts("field.jsonl", ROW + b'{"question": "a"}\n', "field.jsonl, line 2: has no field 'prompt'", "'question'"),
    prompts("empty.jsonl", b"", "empty.jsonl: holds no prompts"),
    prompts("blank.jsonl", ROW + b'{"prompt": " "}\n', "blank.jsonl, line 2, field 'prompt'", "empty"),
    prompts(
        "ids.jsonl", b'{"id": 1, "prompt": "a"}\n' * 2, "ids.jsonl, line 2: the id '1' stands already at", "line 1"
    ),
    prompts("nul.jsonl", ROW + b'{"prompt": "a\0"}\n', "nul.jsonl, line 2, byte 14: a NUL byte"),
    prompts("latin.jsonl", ROW + b'{"prompt": "caf\xe9"}\n', "latin.jsonl, line 2, byte 16: is not UTF-8"),
    prompts("number.json", b'["a", 3]', "number.json, index 1: a row must be an object or a string"),
    prompts("pickle.pt", b"\x80\x04.", "pickle.pt: a .pt file can run code"),
    prompts("few.jsonl", ROW, "few.jsonl has 1 prompts, too few", "data.held_out 0"),
    prompts(
        "long.jsonl", ROW * 3 + ROWS, "tokens, more than data.max_prompt_tokens=3", **{"--data.max_prompt_tokens": "3"}
    ),
    key("model.objective", "ONPO", "model.schedule PlayThenTrain has none of that name. Set model.schedule TwoFits"),
    # --- the policy
    key("model.policy", "./nowhere", "model.policy: no tokenizer can be read from './nowhere'"),
    Case("empty folder", {"--model.policy": "policy"}, ("model.policy: no tokenizer",), {"policy/README.md": b""}),
    Case("cut weights", {"--model.policy": "policy"}, ("model.policy: no model",), {"policy": 1000}, model=True),
    # --- where the run lies
    Case(
        "no folder", {"--trainer.default_root_dir": "file"}, ("file: the run folder cannot be written",), {"file": b""}
    ),
    # --- an oracle, an engine that do not do what they must
    oracle(NotANumber, "must be a finite number; got P = nan", "pair (0, 1)"),
    oracle(OverOne, "must lie in [0, 1]; got P = 1.5", "pair (0, 1)"),
    oracle(LovesTheFirst, "P[i,j] + P[j,i] must be 1", "got P = 0.81", "pair (0, 1)"),
    oracle(BeatsItself, "a response against itself must be exactly 1/2; got P = 0.7", "pair (1, 1)"),
    oracle(NotSquare, "the matrix must be square, got (2, 1)"),
    oracle(OneTooFew, "OneTooFew returned preferences of shape (9, 2, 2)", "it must be (10, 2, 2)"),
    oracle(Scalar, "probs_BKJ must be [prompts, candidates, opponents], got shape ()"),
    Case(
        "one response",
        {"--data.engine": f"{__name__}.AnswersOnce"},
        ("AnswersOnce returned 1 responses for prompt", "2 were asked for"),
        model=True,
    ),
    Case(
        "no room for the answer",
        {"--data.engine.max_new_tokens": "100000"},
        ("tokens", "data.engine.max_new_tokens"),
        model=True,
    ),
]


@pytest.fixture
def loaded(monkeypatch) -> list:
    """What was asked of `AutoModelForCausalLM.from_pretrained`."""
    calls, load = [], transformers.AutoModelForCausalLM.from_pretrained

    def spy(*args, **kwargs):
        calls.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spy)
    return calls


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_in_one_readable_line(case, tmp_path, monkeypatch, capfd, loaded):
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_bytes(ROWS)
    for name, content in case.files.items():
        if isinstance(content, int):
            shutil.copytree(POLICY, name)
            weights = Path(name, "model.safetensors")
            weights.write_bytes(weights.read_bytes()[:content])
        else:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(content)
    words = [word for pair in (WORKS | case.change).items() if pair[1] is not None for word in pair if word]

    code = main(["fit", *(word.strip() for word in words)])

    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("round 0:")]
    assert code == 2
    assert lines[0].startswith("error: ")
    assert "Traceback" not in "\n".join(lines)
    place = 0
    for part in case.says:
        assert part in lines[0][place:], lines[0]
        place = lines[0].index(part, place)
    assert bool(loaded) == case.model


def test_no_two_cases_are_one():
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_what_works_works(tmp_path, monkeypatch, capfd, loaded):
    """Without its change every case would run; and U+2028 inside a line of JSON is data, not the end of the line."""
    monkeypatch.chdir(tmp_path)
    text = "Is the kettle\u2028fair?"
    Path("prompts.jsonl").write_bytes(ROWS + json.dumps({"prompt": text}, ensure_ascii=False).encode())
    assert main(["fit", *(word for pair in WORKS.items() for word in pair)]) == 0
    assert loaded
    assert Path("run/exports/round_000/model.safetensors").is_file()


def test_a_start_that_was_refused_binds_nobody(tmp_path, monkeypatch, capfd):
    """What the error asked for can be done in the same run folder."""
    monkeypatch.chdir(tmp_path)
    command = ["fit", *(word for pair in WORKS.items() for word in pair), "--data.stop_after", "play"]
    assert main([*command, "--data.num_candidates", "1"]) == 2
    assert main(command) == 2  # there is no file of prompts
    Path("prompts.jsonl").write_bytes(ROW)
    assert main(command) == 2  # it has one prompt
    Path("prompts.jsonl").write_bytes(ROWS)
    assert main(command) == 0
    assert main([*command, "--data.num_candidates", "3"]) == 2
    assert "data.init_args.num_candidates was changed" in capfd.readouterr().err


def test_a_secret_is_not_repeated_in_an_error(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("remote_judges.py").write_text(
        "from sppo_lightning.oracles import StyleGame\n"
        "class Remote(StyleGame):\n"
        "    def __init__(self, api_key: int):\n"
        "        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        main(["fit", *(word for pair in WORKS.items() for word in pair), "--data.oracle", "remote_judges.Remote"]) == 2
    )
    assert "data.oracle.api_key: must be given" in capfd.readouterr().err
    change = {"--data.oracle": "remote_judges.Remote", "--data.oracle.api_key": "s3cret"}
    assert main(["fit", *(word for pair in (WORKS | change).items() for word in pair)]) == 2
    shown = capfd.readouterr().err
    assert "data.oracle.api_key: expected a whole number, got ***" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(("verb", "says"), [("fitt", "did you mean fit?"), ("train", "there are fit, validate")])
def test_an_unknown_verb(verb, says, capfd):
    assert main([verb]) == 2
    assert f"error: {verb!r} is not a verb of sppo_lightning; {says}" in capfd.readouterr().err
