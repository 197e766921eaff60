"""`validate`, `test` and `predict` on a run folder, in this process, as `python -m sppo_lightning` would."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

from sppo_lightning.__main__ import main
from sppo_lightning.engines import Transformers
from sppo_lightning.evaluation import responses as response_bank
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.chunks import list_chunks, read_chunk
from sppo_lightning.oracles import StyleGame
from sppo_lightning.training.data import SelfPlayDataModule
from sppo_lightning.training.policy import export_policy, load_policy, load_tokenizer
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.types import Candidates, Prompt, SamplingConfig

START = "package:quickstart/policy"
CONFIG = """
seed_everything: 5
cpu_threads: 1
trainer: {accelerator: cpu, default_root_dir: runs/where_it_once_was}
model: {policy: "package:quickstart/policy"}
data:
  prompts: package:quickstart/prompts.jsonl
  held_out: 6
  max_prompt_tokens: 1900
  engine: {class_path: Transformers, init_args: {max_new_tokens: 12}}
  oracle: {class_path: StyleGame}
"""
QUESTIONS = [{"prompt": f"Describe a {thing}.", "prompt_id": thing} for thing in ("lantern", "river", "kettle", "hat")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two rounds whose policies are the start with noise on its weights."""
    run = RunFolder(tmp_path_factory.mktemp("verbs") / "runs" / "tiny")
    run.path.mkdir(parents=True)
    run.path.joinpath("config.yaml").write_text(CONFIG)
    run.fix_settings({"model.init_args.policy": START}, frozenset())
    torch.manual_seed(0)
    model = load_policy(START)
    for index in range(2):
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        export_policy(model, load_tokenizer(START), run.export(index))
    return run.path


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it, and a working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "runs" / "tiny")).relative_to(tmp_path)


def do(verb: str, run: Path, *words: object) -> int:
    return main([verb, "--config", str(run / "config.yaml"), *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 2
    return capsys.readouterr().err


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "eval" not in path.relative_to(folder).parts
    }


def no_generation(monkeypatch):
    def generate(self, prompts, seeds_BK):
        raise AssertionError("sampled again")

    monkeypatch.setattr(Transformers, "generate", generate)


def said(asked: list[str], texts: list[list[str]]) -> Candidates:
    """These texts as responses, for a judge that reads nothing but texts."""
    return Candidates(
        prompts=[Prompt(prompt_id=str(b), messages=({"role": "user", "content": q},)) for b, q in enumerate(asked)],
        prompt_token_ids=[[0] for _ in texts],
        token_ids=[[[0] for _ in group] for group in texts],
        texts=texts,
        finish_reasons=[["stop"] * len(group) for group in texts],
        policy="any",
        sampling=SamplingConfig(),
    )


# --- validate --------------------------------------------------------------------------------------------------------


def test_validate_measures_and_changes_nothing(run, capsys, monkeypatch):
    before = fingerprint(run)
    assert do("validate", run, "--num_samples", 2) == 0
    table = capsys.readouterr().out
    (path,) = run.glob("eval/validate/round_001-*.json")
    found = json.loads(path.read_text())
    assert [rival["name"] for rival in found["against"]] == ["start", "round_000"]
    rates = [rival["win_rate"] for rival in found["against"]]
    assert found["mean"]["win_rate"] == pytest.approx(sum(rates) / 2)
    assert found["worst"]["win_rate"] == min(rates)
    weights = found["equilibrium_weighted"]["weights"]
    assert sum(weights.values()) == pytest.approx(1)
    weighted = sum(weights[rival["name"]] * rival["win_rate"] for rival in found["against"])
    assert found["equilibrium_weighted"]["win_rate"] == pytest.approx(weighted)
    for rival in found["against"]:
        assert rival["low"] < rival["win_rate"] < rival["high"]
        assert f"{rival['win_rate']:.3f}" in table
    assert "6 held-out prompts, 2 responses each, judged by StyleGame" in table
    matrix = [line.split() for line in table.split("all against all")[1].splitlines()]
    assert matrix[1] == ["1", "2", "3"]
    match = found["head_to_head"]
    for i, (name, rates_N) in enumerate(zip(match["names"], match["win_rates"], strict=True)):
        shown = ["-" if i == j else f"{rate:.3f}" for j, rate in enumerate(rates_N)]
        assert matrix[2 + i] == [str(1 + i), name, *shown]
    ratings = ", ".join(f"{name} {elo:.0f}" for name, elo in zip(match["names"], match["elo"], strict=True))
    assert f"Elo: {ratings}; cyclic share {match['cyclic_share']:.2f}, curl {match['curl']:.3f}" in table
    assert fingerprint(run) == before
    # The other way round it is the same match, and nothing is sampled again.
    no_generation(monkeypatch)
    assert (
        do("validate", run, "--policy", "start", "--against", "round_001", "--num_samples", 2, "--output", "o.json")
        == 0
    )
    assert "all against all" not in capsys.readouterr().out
    turned = json.loads(Path("o.json").read_text())
    assert turned["against"][0]["win_rate"] == pytest.approx(1 - rates[0])


def test_validate_against_all_a_mixture_and_a_folder(run, capsys):
    Path("mine.json").write_text(json.dumps({"members": {START: 0.5, "./runs/tiny/exports/round_000": 0.5}}))
    shutil.copytree(run / "exports" / "round_000", "elsewhere")
    answer = do("validate", run, "--against", "all", "mine.json", "elsewhere", "--num_samples", 1, "--output", "o.json")
    assert answer == 0
    found = {rival["name"]: rival["win_rate"] for rival in json.loads(Path("o.json").read_text())["against"]}
    assert list(found)[:2] == ["start", "round_000"]
    mine, elsewhere = list(found)[2:]
    assert found[mine] == pytest.approx((found["start"] + found["round_000"]) / 2)
    assert mine.startswith("mine-")
    assert elsewhere.startswith("elsewhere-")


def test_validate_keeps_mixtures_of_one_file_name_apart(run, capsys):
    for folder, weights in (("one", (0.25, 0.75)), ("two", (0.75, 0.25)), ("three", (0.25, 0.75))):
        Path(folder).mkdir()
        sources = (START, "../runs/tiny/exports/round_000")
        Path(folder, "mixture.json").write_text(json.dumps({"members": dict(zip(sources, weights, strict=True))}))
    files = [f"{folder}/mixture.json" for folder in ("one", "two", "three")]
    words = ["--policy", files[0], "--against", "start", *files[1:], "--num_samples", 1, "--output", "o.json"]
    assert do("validate", run, *words) == 0
    rivals = [rival["name"] for rival in json.loads(Path("o.json").read_text())["against"]]
    assert len(rivals) == 2, "the third draws as the first, who does not play against itself"
    assert rivals[0] == "start"
    assert rivals[1].startswith("mixture-")
    # A folder that took a name of the run's own must not be dropped for it.
    shutil.copytree(run / "exports" / "round_000", run / "exports" / "mixture")
    run.joinpath("exports", "mixture.json").write_text(json.dumps({"members": {START: 0.5, "./round_000": 0.5}}))
    capsys.readouterr()
    words = ("--policy", "round_001", "--against", "mixture", run / "exports" / "mixture")
    assert "two different contestants are called 'mixture'" in refused(capsys, do("validate", run, *words))


def test_validate_on_other_prompts_while_the_run_goes_on(run):
    prompts = write(Path("own.jsonl"), QUESTIONS)
    holder = RunFolder(run)
    holder.lock()
    try:
        assert do("validate", run, "--prompts", prompts, "--num_samples", 1, "--against", "start") == 0
    finally:
        holder.release()
    (path,) = run.glob("eval/validate/*.json")
    assert json.loads(path.read_text())["head_to_head"]["num_prompts"] == len(QUESTIONS)


def test_a_data_module_of_ones_own_is_asked(run):
    class OnlyThree(SelfPlayDataModule):
        """Its held-out prompts are others."""

        @property
        def held_out_prompts(self):
            return super().held_out_prompts[:3]

    module = types.ModuleType("my_project")
    module.OnlyThree = OnlyThree
    OnlyThree.__module__ = "my_project"
    sys.modules["my_project"] = module  # for good: the parser will go on finding the class
    answer = do(
        "validate",
        run,
        "--data",
        "my_project.OnlyThree",
        "--num_samples",
        1,
        "--against",
        "start",
        "--output",
        "o.json",
    )
    assert answer == 0
    assert json.loads(Path("o.json").read_text())["head_to_head"]["num_prompts"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "round_007"], "there is no policy round_007"),
        (["--policy", "mixture"], "there is no mixture"),
        (["--policy", "start", "--against", "start"], "would only play against itself"),
        (["--policy", START, "--against", "previous"], "is no policy of a round"),
        (["--num_samples", "0"], "--num_samples must be at least 1"),
        (["--agianst", "start"], "--agianst: there is no such key; did you mean --against"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["--data.held_out", "0"], "data.held_out is 0"),
        (["--trainer.default_root_dir", "runs/none"], "runs/none: there is no run in this folder"),
    ],
)
def test_validate_refuses(run, capsys, words, message):
    error = refused(capsys, do("validate", run, *words))
    assert message in error
    assert "Traceback" not in error
    assert not (run / "eval").exists()


# --- predict ---------------------------------------------------------------------------------------------------------


def test_the_best_of_n_is_the_judges_favourite(run):
    prompts = write(Path("own.jsonl"), QUESTIONS)
    assert do("predict", run, "--prompts", prompts, "--best_of", 4) == 0
    (path,) = run.glob("eval/predict/*.jsonl")
    (folder,) = run.glob("eval/round_001/questions-*")
    stored = [row for chunk in list_chunks(folder).values() for row in read_chunk(chunk).to_pylist()]
    texts = [[row["text"] for row in stored if row["prompt_id"] == row_["prompt_id"]] for row_ in QUESTIONS]
    assert all(len(group) == 4 for group in texts)
    candidates = said([question["prompt"] for question in QUESTIONS], texts)
    probs_BKK = StyleGame().compare(candidates).probs_BKJ
    win_rates_BK = (probs_BKK.sum(-1) - 0.5) / 3
    for b, row in enumerate(lines(path)):
        assert row["response"] == texts[b][int(win_rates_BK[b].argmax())]
        assert row["win_rate"] == round(row["win_rate"], 6)
        assert row["win_rate"] == pytest.approx(float(win_rates_BK[b].max()), abs=1e-6)
        assert (row["policy"], row["best_of"], row["judge"]) == ("tiny-round_001", 4, "StyleGame")


def test_a_mixture_answers_with_its_members_words(run):
    prompts = write(Path("own.jsonl"), QUESTIONS)
    folders = {f"./round_00{i}": 0.5 for i in range(2)}
    run.joinpath("exports", "mixture.json").write_text(json.dumps({"members": folders}))
    assert do("predict", run, "--prompts", prompts, "--policy", "mixture", "--output", "mixed.jsonl") == 0
    answers = {row["prompt_id"]: row["response"] for row in lines(Path("mixed.jsonl"))}
    authors = []
    for member in ("round_000", "round_001"):
        (folder,) = run.glob(f"eval/{member}/questions-*")
        stored = [row for chunk in list_chunks(folder).values() for row in read_chunk(chunk).to_pylist()]
        authors += [row["prompt_id"] for row in stored if answers[row["prompt_id"]] == row["text"]]
    assert sorted(authors) == sorted(answers)  # each answer is one member's, and only that member was asked


def test_a_killed_predict_goes_on(run, capsys, monkeypatch):
    prompts = write(Path("own.jsonl"), QUESTIONS)
    monkeypatch.setattr(response_bank, "_RESPONSES_A_CHUNK", 4)
    words = ("--prompts", prompts, "--best_of", 2, "--policy", "round_000")
    assert do("predict", run, *words, "--output", "whole.jsonl") == 0
    shutil.rmtree(run / "eval")
    asked: list[str] = []
    generate = Transformers.generate

    def dying(self, prompts, seeds_BK):
        asked.extend(prompt.prompt_id for prompt in prompts)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return generate(self, prompts, seeds_BK)

    monkeypatch.setattr(Transformers, "generate", dying)
    assert do("predict", run, *words, "--output", "again.jsonl") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not Path("again.jsonl").exists()
    assert do("predict", run, *words, "--output", "again.jsonl") == 0
    assert asked == ["lantern", "river", "kettle", "hat", "kettle", "hat"]  # the first two were kept
    assert Path("again.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_second_turn_follows_the_first_answer(run, monkeypatch):
    rows = [{"question_id": 81, "category": "writing", "turns": ["Describe a hat.", "Now a kettle."]}]
    seen = []
    generate = Transformers.generate

    def watched(self, prompts, seeds_BK):
        seen.extend(prompt.conversation for prompt in prompts)
        return generate(self, prompts, seeds_BK)

    monkeypatch.setattr(Transformers, "generate", watched)
    words = ("--prompts", write(Path("question.jsonl"), rows), "--format", "mt_bench", "--name", "ours")
    assert do("predict", run, *words, "--output", "ours.jsonl") == 0
    (row,) = lines(Path("ours.jsonl"))
    first, second = row["choices"][0]["turns"]
    assert row["model_id"] == "ours"
    assert seen[1] == (("user", "Describe a hat."), ("assistant", first), ("user", "Now a kettle."))
    assert second.strip()


def test_predict_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts, output = write(Path("own.jsonl"), QUESTIONS[:1]), Path("out.jsonl")
    words = ["--data.engine.max_new_tokens", "4", "--prompts", str(prompts), "--output", str(output)]
    assert main(["predict", "--config", "configs/quickstart.yaml", *words]) == 0
    assert len(lines(output)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"own.jsonl", "out.jsonl", "out.jsonl.parts"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "prompts: must be given"),
        (["--prompts", "own.jsonl", "--best_of", "0"], "--best_of must be at least 1"),
        (["--prompts", "own.jsonl", "--format", "mtbench"], "format"),
        (["--prompts", "own.jsonl", "--format", "mt_bench"], "own.jsonl, line 1, field 'turns'"),
        (["--prompts", "own.jsonl", "--data.max_prompt_tokens", "2"], "more than data.max_prompt_tokens=2"),
    ],
)
def test_predict_refuses(run, capsys, words, message):
    write(Path("own.jsonl"), QUESTIONS)
    error = refused(capsys, do("predict", run, *words))
    assert message in error
    assert "Traceback" not in error
    assert not (run / "eval").exists()


# --- test ------------------------------------------------------------------------------------------------------------


def test_alpaca_eval_with_the_runs_own_judge(run, capsys):
    questions = [
        {"instruction": q["prompt"], "output": "Well, it is quiet.", "generator": "base", "dataset": "x"}
        for q in [*QUESTIONS, QUESTIONS[0]]
    ]
    Path("alpaca_eval.json").write_text(json.dumps(questions))
    assert do("test", run, "--prompts", "alpaca_eval.json", "--output", "result") == 0
    table = capsys.readouterr().out
    records = json.loads(Path("result/annotations.json").read_text())
    outputs = json.loads(Path("result/model_outputs.json").read_text())
    assert [row["output_2"] for row in records] == [row["output"] for row in outputs]
    assert {(row["generator_1"], row["generator_2"]) for row in records} == {("base", "tiny-round_001")}
    ours, theirs = ([[row[name]] for row in records] for name in ("output_2", "output_1"))
    assert {text for (text,) in theirs} == {"Well, it is quiet."}
    asked = [row["instruction"] for row in records]
    expected = StyleGame().compare(said(asked, ours), said(asked, theirs)).probs_BKJ.flatten()
    assert [row["preference"] - 1 for row in records] == pytest.approx(expected.tolist())
    board = json.loads(Path("result/leaderboard.json").read_text())
    mean = sum(row["preference"] - 1 for row in records) / len(records)
    assert board["win_rate"] == pytest.approx(100 * mean)
    assert f"{board['win_rate']:.2f} %" in table
    assert "not with AlpacaEval's leaderboard" in table
    # The same figures from the file alone, which needs no configuration.
    assert main(["test", "--annotations", "result/annotations.json", "--output", "again.json"]) == 0
    assert json.loads(Path("again.json").read_text()) == board
    # What would not fit is refused before anything is sampled.
    Path("other.json").write_text(json.dumps(questions[1:2]))
    Path("hard.csv").write_text(",instruction_difficulty\n0,1.0\n1,0.5\n")
    error = refused(capsys, do("test", run, "--prompts", "alpaca_eval.json", "--instruction_difficulty", "hard.csv"))
    assert "annotation number 3 of 5 has no instruction difficulty" in error
    error = refused(capsys, do("test", run, "--prompts", "alpaca_eval.json", "--baseline", "other.json"))
    assert "other.json: holds no answer to 'Describe a lantern.'" in error


def test_a_length_controlled_win_rate_that_cannot_be_estimated(tmp_path, capsys):
    rows = [
        {"instruction": "q", "output_1": "x" * 100, "generator_1": "base", "generator_2": "ours"}
        | {"output_2": "x" * (300 + i), "preference": 1.5 if i == 3 else 2}
        for i in range(10)
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    assert main(["test", "--annotations", str(path), "--output", str(tmp_path / "o.json")]) == 0
    table = capsys.readouterr().out
    assert "9 won, 0 lost, 1 tied" in table
    assert "not estimable: too few annotations" in table
    assert "50.00 %" not in table
    board = json.loads((tmp_path / "o.json").read_text())
    assert (board["win_rate"], board["length_controlled_winrate"]) == (95, None)


def test_annotations_that_cannot_be_read(tmp_path, capsys):
    path = tmp_path / "annotations.json"
    path.write_text('[{"preference": 1}]')
    assert "index 0: has no field 'output_1'" in refused(capsys, main(["test", "--annotations", str(path)]))
    assert "test: " in refused(capsys, main(["test", "--annotations"]))


def test_the_harness_is_an_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert 'pip install "sppo-lightning[lm-eval]"' in refused(
        capsys, main(["test", "--lm_eval", "arc_easy", "--policy", START])
    )
    assert "--policy must name" in refused(capsys, main(["test", "--lm_eval", "arc_easy"]))


def test_the_harness_on_a_task_of_ones_own(tmp_path, capsys, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the lm-eval extra")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(
        tmp_path / "rows.jsonl",
        [{"q": f"Describe the {t}. The {t} is", "o": ["quiet", "zzz"]} for t in ("hat", "river")],
    )
    tmp_path.joinpath("own_task.yaml").write_text(
        f"task: own_task\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_choice: o\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    words = ["--tasks_from", str(tmp_path), "--policy", START, resolve(START), "--output", str(tmp_path / "o.json")]
    assert main(["test", "--lm_eval", "own_task", *words]) == 0
    found = json.loads(tmp_path.joinpath("o.json").read_text())
    assert found[START]["own_task"]["acc"] == found[resolve(START)]["own_task"]["acc"] == 1.0
    assert "+0.0000" in capsys.readouterr().out
    assert "has no such task" in refused(capsys, main(["test", "--lm_eval", "no_such_task", "--policy", START]))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_help_begins_with_the_verbs_own_keys(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert shown.index("--policy POLICY") < shown.index("usage:")
    assert f"python -m sppo_lightning {verb} [--config FILE ...]" in shown
