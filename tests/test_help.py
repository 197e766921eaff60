"""Help: at once, without Lightning, with the keys people change first."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from sppo_lightning.__main__ import VERBS, main
from sppo_lightning.cli_help import FIT_KEYS

LIMIT_S = 3.0
# What each of the 15 keys may be set to, and --from, which needs another run's folder.
VALUES = {
    "data.prompts": "mine.jsonl",
    "model.policy": "a/b",
    "data.oracle": "Shuffled",
    "model.objective": "DPO",
    "data.engine": "Transformers",
    "data.num_rounds": 2,
    "data.num_candidates": 4,
    "data.prompts_per_round": 100,
    "data.epochs_per_round": 2,
    "data.global_batch_prompts": 32,
    "data.pairing": "All",
    "model.optimizer": "RMSprop",
    "data.max_pack_tokens": 4096,
    "trainer.default_root_dir": "runs/mine",
    "seed_everything": 7,
}


def keys_of(text: str) -> list[str]:
    return re.findall(r"^  --([\w.]+) [A-Z]", text, flags=re.MULTILINE)


def test_help_answers_before_lightning_is_imported():
    program = (
        "import sys, time\n"
        "from sppo_lightning.__main__ import main\n"
        "codes = [main([]), main(['--help']), main(['-h']), main(['--version']), main(['fitt'])]\n"
        "print(codes, sorted({'torch', 'lightning', 'transformers', 'mlflow', 'numpy'} & set(sys.modules)))\n"
        "print(time.process_time())\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    *text, codes, seconds = answer.stdout.splitlines()
    assert codes == "[0, 0, 0, 0, 2] []"
    assert all(any(line.startswith(f"  {verb} ") for line in text) for verb in VERBS)
    assert float(seconds) < LIMIT_S  # of the processor: another job on the machine is no fault of ours


def test_a_configuration_file_is_refused_before_lightning_is_imported():
    program = (
        "import sys\n"
        "from sppo_lightning.__main__ import main\n"
        "print(main(['fit', '--config', 'nowhere.yaml']), sorted({'torch', 'lightning'} & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout == "2 []\n"
    assert answer.stderr == "error: --config nowhere.yaml: there is no such file\n"


def test_fit_help_starts_with_the_keys_people_change_and_goes_on_with_all(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["fit", "--help"])
    shown = capsys.readouterr().out
    assert ending.value.code == 0
    assert shown.startswith(FIT_KEYS)
    assert keys_of(FIT_KEYS) == [*VALUES, "from"]
    for key in (
        "data.chunk_prompts",
        "data.truncated",
        "model.lr_schedule_epochs",
        "trainer.accelerator",
        "cpu_threads",
    ):
        assert f"--{key}" in shown.removeprefix(FIT_KEYS)


def test_every_key_people_change_can_be_set(capsys):
    words = [word for key, value in VALUES.items() for word in (f"--{key}", str(value))]
    with pytest.raises(SystemExit) as ending:
        main(["fit", *words, "--from", "runs/other@round_001", "--print_config"])
    assert ending.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    given = {"data.fork_from": "runs/other@round_001", **VALUES}
    for key, value in given.items():
        root, _, name = key.partition(".")
        entry = config[root] if not name else config[root].get("init_args", config[root])[name]
        if isinstance(entry, dict):
            entry = entry["class_path"].rpartition(".")[2]
        assert entry == value, key


def test_the_arguments_of_a_class_have_help(capsys):
    for key, name, argument in (("data.engine", "Transformers", "max_new_tokens"), ("model.objective", "DPO", "beta")):
        with pytest.raises(SystemExit) as ending:
            main(["fit", f"--{key}.help", name])
        assert ending.value.code == 0
        assert f".{argument} " in capsys.readouterr().out
