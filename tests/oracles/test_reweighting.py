"""An ensemble's weights can be changed afterwards: in a fork over the same responses no judge is asked again."""

import json

import yaml

from sppo_lightning.__main__ import main

# Each judge writes down what it is asked.
JUDGE = """
def ask(name, pairs, prefers):
    with open(f"{name}.asked", "a") as file:
        file.writelines("x\\n" for _ in pairs)
    return [0.8 if prefers(pair.first) > prefers(pair.second) else 0.2 for pair in pairs]


def long(pairs):
    return ask("long", pairs, len)


def late(pairs):
    return ask("late", pairs, lambda text: text)
"""


def test_a_fork_with_other_weights_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(JUDGE)

    def asked():
        return [len((tmp_path / f"{name}.asked").read_text().splitlines()) for name in ("long", "late")]

    def run(name, weights, *words):
        judges = {judge: {"class_path": "Function", "init_args": {"path": f"judges.py:{judge}"}} for judge in weights}
        oracle = {"class_path": "Ensemble", "init_args": {"oracles": judges, "weights": weights}}
        settings = {
            "cpu_threads": 1,
            "trainer": {"accelerator": "cpu", "default_root_dir": f"runs/{name}", "logger": False, "callbacks": []},
            "model": {"policy": "package:quickstart/policy"},
            "data": {
                "prompts": "package:quickstart/prompts.jsonl",
                "num_rounds": 1,
                "num_candidates": 3,
                "prompts_per_round": 4,
                "held_out": 0,
                "truncated": "keep",
                "engine": {"class_path": "Transformers", "init_args": {"max_new_tokens": 12}},
                "oracle": oracle,
                "stop_after": "play",
            },
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        assert main(["fit", "--config", f"{name}.yaml", *words]) == 0
        pairs = (tmp_path / f"runs/{name}/rounds/round_000/preferences/Ensemble/self").glob("*.parquet")
        return json.dumps([path.name for path in pairs])  # names are hashes of the content

    first = run("first", {"long": 1.0, "late": 1.0})
    once = asked()
    assert once == [4 * 3 * 2] * 2  # both orders
    second = run("second", {"long": 9.0, "late": 1.0}, "--from", "runs/first@round_000")
    assert asked() == once
    assert first != second
