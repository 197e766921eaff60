"""What an audit can be about: a round that was judged, a judge asked now; and what it refuses."""

import json
from types import SimpleNamespace

import pytest
import yaml

from sppo_lightning.commands.audit import main
from sppo_lightning.errors import ConfigError


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the verb; what it printed, and wrote as numbers."""

    def run_verb(*argv):
        assert main([*map(str, argv), "--out", str(tmp_path)]) == 0
        return SimpleNamespace(text=capsys.readouterr().out, json=json.loads((tmp_path / "audit.json").read_text()))

    return run_verb


@pytest.fixture(scope="module")
def judged_round(tmp_path_factory):
    """A complete round of two prompts, the second with fewer responses, judged by StyleGame."""
    from sppo_lightning.io import carriers
    from sppo_lightning.oracles import StyleGame
    from sppo_lightning.selfplay.store import RoundFolder
    from sppo_lightning.types import Candidates, Prompt, SamplingConfig

    texts = [["Briefly, the kettle.", "Well, a kettle.", "Imagine: a price", "kettle"], ["Well, yes.", "Imagine: tea."]]
    messages = ({"role": "user", "content": "the price of a kettle"},)
    prompts = [Prompt(prompt_id=name, messages=messages) for name in ("p", "q")]
    token_ids = [[list(range(len(text))) for text in row] for row in texts]
    candidates = Candidates(
        prompts=prompts,
        prompt_token_ids=[[1], [1]],
        token_ids=token_ids,
        texts=texts,
        finish_reasons=[["stop"] * len(row) for row in texts],
        policy="start",
        sampling=SamplingConfig(),
    )
    folder = RoundFolder(tmp_path_factory.mktemp("run") / "rounds" / "round_000")
    folder.begin({}, carriers.prompts_table(prompts, [[1], [1]]))
    folder.write_chunk("candidates", 0, carriers.candidates_table(candidates))
    matrix = StyleGame().compare(candidates)
    folder.write_chunk("preferences/StyleGame/self", 0, carriers.preferences_table(prompts, matrix))
    folder.commit(round_index=0, global_step=0, policy="start", metrics={})
    return folder.path, matrix


def test_a_judged_round_and_the_judge_asked_again_agree(judged_round, tmp_path, run):
    path, matrix = judged_round
    recorded = run(f"{path.parents[1]}@round_000")
    by_folder = run(path, "--oracle", "StyleGame")
    settings = {"data": {"oracle": {"class_path": "StyleGame"}}, "trainer": {"default_root_dir": str(path.parents[1])}}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings))
    asked = run("--config", tmp_path / "judge.yaml", "--round", path)
    asked_about_its_run = run(tmp_path / "judge.yaml")
    for found in (recorded, by_folder, asked, asked_about_its_run):
        assert "2 prompts with 2 to 4 responses each; 7 comparisons (probabilities, no votes)" in found.text
        assert found.json["transitivity"] == recorded.json["transitivity"]
        assert found.json["answers"] == recorded.json["answers"]
    assert recorded.json["transitivity"]["prompts"] == 1
    assert "no noise to test against" in " ".join(recorded.text.split())
    best = int(matrix.probs_BKJ[0].sum(dim=1).argmax())
    assert recorded.json["answers"]["by_prompt"][0]["borda"] == [str(best)]
    assert "averaged over both orders" in recorded.text


def test_a_judge_may_be_set_up_in_the_configuration(judged_round, tmp_path, run):
    (tmp_path / "judge.yaml").write_text(
        "data:\n  class_path: SelfPlayDataModule\n  init_args:\n    oracle:\n      class_path: ScoreToPreference\n"
        "      init_args:\n        scorer: {class_path: sppo_lightning.oracles.score_to_preference.TargetLength}\n"
    )
    found = run(tmp_path / "judge.yaml", "--round", judged_round[0])
    assert found.json["transitivity"]["cyclic_prompts"] == 0
    assert found.json["length"]["longer_wins"]["estimate"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "audit: give one thing"),
        (["{tmp}/votes.jsonl", "--config", "{tmp}/judge.yaml"], "audit: give one thing"),
        (["{tmp}/nowhere.npz"], r"audit: there is no file or round .*nowhere\.npz"),
        (["{tmp}/votes.pkl"], r"the suffix '\.pkl' is not one of"),
        (["{tmp}/votes.jsonl", "--round", "{round}"], "audit: --round goes with a configuration"),
        (["{tmp}/votes.jsonl", "--oracle", "StyleGame"], "audit: --oracle goes with a round"),
        (["{tmp}/votes.jsonl", "--sed", "1"], "audit: .*--sed"),
        (["{tmp}/votes.jsonl", "--seed", "-1"], "audit: seed must be at least 0, got -1"),
        (["{tmp}/votes.jsonl", "--out", "{tmp}/votes.jsonl"], "audit: out: .* is a file"),
        (["{tmp}/judge.yaml"], "names a judge, but its run .* has no complete round yet; say whose responses"),
        (["{tmp}/judge.yaml", "--oracle", "StyleGame"], "names its judge itself"),
        (["{tmp}/broken.yaml"], r"broken\.yaml, line 1.*: is not YAML"),
        (["{tmp}/empty.yaml", "--round", "{round}"], "names no judge"),
        (["{tmp}/judge.yaml", "--round", "{round}"], r"data\.oracle: .*Nobody"),
        (["{tmp}/judge.yaml", "--round", "{tmp}@round_000"], "is not a complete round"),
        (["{run}"], r"is a run; say which of its rounds: {run}@round_000$"),
        (["{tmp}/judge.yaml", "--round", "{run}"], r"say which of its rounds: {run}@round_000$"),
        (["{round}", "--oracle", "Nobody"], "has no verdicts of Nobody; it has those of StyleGame"),
    ],
)
def test_mistakes_are_named(argv, message, judged_round, tmp_path):
    (tmp_path / "votes.jsonl").write_text('{"prompt_id": 1, "first": "a", "second": "b", "winner": "a"}')
    (tmp_path / "votes.pkl").write_text("")
    (tmp_path / "judge.yaml").write_text("data:\n  oracle: Nobody\n")
    (tmp_path / "broken.yaml").write_text("data: [")
    (tmp_path / "empty.yaml").write_text("model:\n  policy: start\n")
    places = {"tmp": tmp_path, "round": judged_round[0], "run": judged_round[0].parents[1]}
    with pytest.raises(ConfigError, match=message.replace("{run}", str(places["run"]))):
        main([word.format(**places) for word in argv])
