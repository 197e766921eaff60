"""The command line: files and keys merge as documented, and what it prints can be given back to it."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from sppo_lightning.__main__ import main
from sppo_lightning.cli_files import ConfigFile, read_config_files, resolve_config, resolve_configs, rewrite
from sppo_lightning.cli_quiet import quieten
from sppo_lightning.errors import ConfigError

QUICK_START = ("--config", "configs/quickstart.yaml")


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """Runs `fit ... --print_config` in an empty folder; returns the text."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ending:
            main(["fit", *words, "--print_config"])
        assert ending.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def config(printed):
    return lambda *words: yaml.safe_load(printed(*words))


def chosen(config: dict, root: str, name: str) -> tuple[str, dict]:
    """The short name and the arguments of the class in a socket."""
    entry = config[root]["init_args"][name]
    return entry["class_path"].rpartition(".")[2], entry.get("init_args", {})


def test_a_changed_class_drops_the_old_ones_arguments(config):
    name, arguments = chosen(config(*QUICK_START), "model", "objective")
    assert (name, set(arguments)) == ("SPPO", {"eta", "log_z", "num_draws"})
    name, arguments = chosen(
        config(*QUICK_START, "--model.objective", "DPO", "--model.objective.beta", "0.2"), "model", "objective"
    )
    assert name == "DPO"
    assert arguments["beta"] == 0.2
    assert "eta" not in arguments
    assert "log_z" not in arguments


def test_the_lines_people_write(config):
    found = config(
        *QUICK_START,
        *("--data.prompts", "mine.jsonl"),
        *("--data.num_rounds", "2"),
        *("--model.optimizer", "RMSprop", "--model.optimizer.lr", "1e-6"),
        *("--data.pairing", "BestWorst"),
        *("--data.engine.temperature", "0.7"),
        "--data.held_out=5",
        *("--from", "runs/other@round_001"),
    )
    data = found["data"]["init_args"]
    assert (data["prompts"], data["num_rounds"], data["held_out"]) == ("mine.jsonl", 2, 5)
    assert data["fork_from"] == "runs/other@round_001"
    optimizer, arguments = chosen(found, "model", "optimizer")
    assert (optimizer, arguments["lr"]) == ("RMSprop", 1e-6)
    assert "betas" not in arguments
    assert chosen(found, "data", "pairing") == ("BestWorst", {})
    name, arguments = chosen(found, "data", "engine")
    _, before = chosen(config(*QUICK_START), "data", "engine")
    assert (name, arguments) == ("Transformers", before | {"temperature": 0.7})


def test_the_later_file_wins_and_a_key_wins_over_files(config):
    Path("one.yaml").write_text("data: {num_rounds: 5, num_candidates: 7}\nseed_everything: 1\n")
    Path("two.yaml").write_text("data: {num_rounds: 6}\nmodel: {objective: {class_path: DPO}}\n")
    words = [*QUICK_START, "--config", "one.yaml", "--config=two.yaml"]
    found = config(*words)
    assert found["data"]["init_args"]["num_rounds"] == 6
    assert found["data"]["init_args"]["num_candidates"] == 7
    assert found["seed_everything"] == 1
    name, arguments = chosen(found, "model", "objective")
    assert name == "DPO"
    assert "eta" not in arguments
    assert config(*words, "--data.num_rounds", "9")["data"]["init_args"]["num_rounds"] == 9


def test_what_is_printed_is_a_configuration(printed):
    text = printed(*QUICK_START, "--model.objective", "DPO", "--data.engine.top_p", "0.9", "--seed_everything", "3")
    Path("all.yaml").write_text(text)
    assert printed("--config", "all.yaml") == text


def test_without_a_policy_every_setting_is_shown_all_the_same(config):
    found = config()
    assert found["model"]["init_args"]["policy"] is None
    assert found["data"]["init_args"]["num_candidates"] == 5


def test_a_shipped_configuration_is_found_unless_there_is_one_here(config):
    assert config(*QUICK_START)["trainer"]["default_root_dir"] == "runs/quickstart"
    Path("configs").mkdir()
    Path("configs/quickstart.yaml").write_text("trainer: {default_root_dir: runs/ours}\n")
    assert config(*QUICK_START)["trainer"]["default_root_dir"] == "runs/ours"


# --- configuration files


@pytest.mark.parametrize("words", [["--config", "F"], ["--config=F"], ["-c", "F"], ["-c=F"]])
def test_every_way_to_name_a_file(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("F").write_text("seed_everything: 1\n")
    assert [file.path for file in read_config_files(["--a", "b", *words])] == ["F"]


def test_a_shipped_configuration_is_named_by_its_path(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shipped = resolve_config("configs/quickstart.yaml")
    assert Path(shipped).is_file()
    assert Path(shipped).is_absolute()
    named = ["--config", "configs/quickstart.yaml", "--config=configs/quickstart.yaml", "-c", "mine.yaml"]
    assert resolve_configs(named) == ["--config", shipped, f"--config={shipped}", "-c", "mine.yaml"]
    assert resolve_configs(["--data.prompts", "configs/quickstart.yaml"])[1] == "configs/quickstart.yaml"
    assert main(["lab", "--config", "configs/lab/rps.yaml", "--num_steps", "0"]) == 2
    assert "num_steps must be at least 1" in capfd.readouterr().err


def test_from_is_short_for_a_key():
    assert rewrite(["--from", "a@round_001", "--from=b", "--data.x=--from"]) == [
        "--data.fork_from",
        "a@round_001",
        "--data.fork_from=b",
        "--data.x=--from",
    ]


def test_where_a_setting_stands(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "data:\n  engine:\n    class_path: Transformers\n    init_args:\n      top_p: 0.5\n"
        "trainer:\n  callbacks:\n  - class_path: A\n    init_args: {x: 1}\n  - class_path: B\n    init_args: {x: 2}\n"
        "data.num_rounds: 3\n"
    )
    (file,) = read_config_files(["--config", str(path)])
    assert isinstance(file, ConfigFile)
    assert file.find("data.engine.top_p") == [(5, "0.5")]
    assert file.find("data.engine") == [(2, "")]
    assert file.find("trainer.callbacks.x") == [(9, "1"), (11, "2")]
    assert file.find("data.num_rounds") == [(12, "3")]
    assert file.find("data.top_p") == []


def test_an_anchor_is_not_a_repeat(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &b {x: 1}\none:\n  <<: *b\n  x: 2\ntwo: *b\nthree: *b\n")
    assert len(read_config_files(["--config", str(path)])) == 1
    path.write_text("one: {x: 1, x: 2}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 1: x is set a second time, first on line 1"):
        read_config_files(["--config", str(path)])


# --- as a process


def test_an_error_ends_the_process_with_code_2(tmp_path):
    """Errors that need no Lightning, whose import takes seconds; `main` returns the others' codes in the same way."""
    (tmp_path / "bad.yaml").write_text("data: [1\n")
    cases = {
        (
            "fitt",
        ): "error: 'fitt' is not a verb of sppo_lightning; did you mean fit? See python -m sppo_lightning --help",
        ("fit", "--config", "bad.yaml"): "error: bad.yaml, line 2, column 1: is not YAML",
        ("lab", "--num_step", "3"): "error: lab: ",
    }
    for words, says in cases.items():
        command = [sys.executable, "-m", "sppo_lightning", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(says)
        assert done.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "buggy_judges.py").write_text(
        "from sppo_lightning.oracles import StyleGame\n\n\n"
        "class Buggy(StyleGame):\n"
        "    def __init__(self):\n"
        "        self.limit = {}['limit']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyError, match="limit") as error:
        main(["fit", *QUICK_START, "--trainer.logger", "false", "--data.oracle", "buggy_judges.Buggy"])
    assert error.traceback[-1].path.name == "buggy_judges.py"
    assert error.value.__suppress_context__  # without the twenty lines that jsonargparse wraps around it


def test_the_wrong_arguments_of_a_class_that_is_not_ours_are_the_users(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.logger", "false", "--trainer.callbacks+=EarlyStopping"]
    words += ["--trainer.callbacks.monitor", "loss", "--trainer.callbacks.mode", "sideways"]
    assert main(["fit", *QUICK_START, *words]) == 2
    assert "a class of the configuration refuses its arguments" in capfd.readouterr().err


def test_a_warning_for_the_user_has_no_line_of_source(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(warnings, "filters", [*warnings.filters])
    quieten()
    assert warnings.formatwarning("2 prompts are dropped", UserWarning, "a.py", 3) == "warning: 2 prompts are dropped\n"
    assert warnings.formatwarning("old name", DeprecationWarning, "a.py", 3) == "a.py:3: DeprecationWarning: old name\n"
