"""The games lab as a person runs it: a configuration in, a table, results and figures out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sppo_lightning.commands.lab import main
from sppo_lightning.commands.lab_config import parse_config
from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import duality_gap
from sppo_lightning.functional.tabular import SPPO, TabularMethod, hedge_bound, normalise, play

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "lab").glob("*.yaml"))


def write_config(folder, text):
    path = folder / "lab.yaml"
    path.write_text(text)
    return ["--config", str(path), "--out", str(folder / "out")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_play(path, tmp_path, capsys):
    assert main(["--config", str(path), "--num_steps", "20", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for run in json.loads((tmp_path / "results.json").read_text())["runs"]:
        assert run["method"] in printed
        assert run["game"] in printed
        assert run["rounds"][-1] == 20
    assert (tmp_path / "gaps.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "gaps.pdf").read_bytes().startswith(b"%PDF")


def test_results_are_those_of_the_exact_updates(tmp_path, capsys):
    argv = write_config(
        tmp_path, "games: [rps]\nmethods: [SPPO: {eta: 0.5}]\nnum_steps: 50\nseeds: [7]\nlogit_scale: 0\n"
    )
    main(argv)
    (run,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    uniform = normalise(np.zeros(3))
    played = np.exp(play(SPPO(0.5), game_zoo.rps(), uniform, uniform, 50))
    average, last = duality_gap(game_zoo.rps(), played[:-1].mean(axis=0)), duality_gap(game_zoo.rps(), played[-1])
    assert run["final"]["average_gap"] == [pytest.approx(average, abs=1e-12)]
    assert run["final"]["last_gap"] == [pytest.approx(last, abs=1e-12)]
    assert run["final"]["last_regularised_gap"] is None
    assert average <= 2 * hedge_bound(uniform, 0.5, 50)
    assert run["curves"]["last_gap"]["median"][-1] == run["final"]["last_gap"][0]
    assert f"{average:.2g}" in capsys.readouterr().out


def test_a_regularised_method_is_measured_against_its_own_equilibrium(tmp_path):
    main(write_config(tmp_path, "games: [rps]\nmethods: [EGPO: {eta: 0.5, tau: 0.1}]\nnum_steps: 400\n"))
    (run,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert abs(run["final"]["last_regularised_gap"][0]) < 1e-8
    assert abs(run["final"]["kl"][0]) < 1e-8
    assert run["final"]["last_gap"][0] > 0.01  # the price on leaving the reference


def test_games_are_drawn_anew_for_each_seed_unless_they_have_their_own(tmp_path):
    text = "games: [random: {n: 4}, random: {n: 4, seed: 3}]\nmethods: [SPPO: {eta: 0.5}]\nseeds: [0, 1]\n"
    anew, fixed = parse_config(write_config(tmp_path, text)).games
    np.testing.assert_array_equal(anew.games_INN, [game_zoo.random(4, 0), game_zoo.random(4, 1)])
    np.testing.assert_array_equal(fixed.games_INN, [game_zoo.random(4, 3)] * 2)
    for drawn in (fixed.starts_IN[0], fixed.references_IN[0]):
        for other in (fixed.starts_IN[1], fixed.references_IN[1]):
            assert np.abs(drawn - other).max() > 0.01
    assert np.abs(fixed.starts_IN[0] - fixed.references_IN[0]).max() > 0.01


def test_every_game_of_a_file_is_played_and_ties_have_no_one_equilibrium(tmp_path, capsys):
    np.savez(tmp_path / "games.npz", P=np.stack([game_zoo.rps(), np.full((3, 3), 0.5)]))
    text = f"games: [from_file: {{path: {tmp_path / 'games.npz'}}}]\nmethods: [SPPO: {{eta: 0.5}}]\nseeds: [0, 1]\n"
    main(write_config(tmp_path, text))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (run,) = results["runs"]
    assert run["game"] == "games.npz"
    assert [row["unique"] for row in results["games"][run["game"]]] == [True, False, True, False]
    assert [value is None for value in run["final"]["kl"]] == [False, True, False, True]
    assert "games.npz" in capsys.readouterr().out


def test_where_no_equilibrium_is_unique_the_column_is_a_dash(tmp_path, capsys):
    np.savez(tmp_path / "games.npz", P=np.full((3, 3), 0.5))
    text = f"games: [from_file: {{path: {tmp_path / 'games.npz'}}}]\nmethods: [SPPO: {{eta: 0.5}}]\nnum_steps: 1\n"
    main(write_config(tmp_path, text))
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  SPPO"))
    assert row.split()[1:] == ["0", "0", "-", "-"]


def test_equal_runs_write_equal_files(tmp_path):
    text = "games: [rps]\nmethods: [SPPO: {eta: 0.5}, INPO: {eta: 0.5, tau: 0.1}]\nnum_steps: 30\nseeds: [0, 1]\n"
    argv = write_config(tmp_path, text)[:2]
    for name in ("a", "b"):
        main([*argv, "--out", str(tmp_path / name)])
    for file in ("results.json", "gaps.png", "gaps.pdf"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class Stubborn(TabularMethod):
    """A method of the user's own."""

    def rounds(self, probs_NN, start_N, reference_N):
        while True:
            yield start_N


def test_a_method_of_ones_own_is_named_by_its_class_path(tmp_path):
    sys.modules["my_methods"] = sys.modules[__name__]
    try:
        config = parse_config(write_config(tmp_path, "games: [rps]\nmethods: [my_methods.Stubborn]\n"))
        with pytest.raises(ConfigError, match=r"methods\[0\]: my_methods.main is not a subclass"):
            parse_config(write_config(tmp_path, "games: [rps]\nmethods: [my_methods.main]\n"))
    finally:
        del sys.modules["my_methods"]
    assert isinstance(config.methods[0], Stubborn)


GOOD_GAME, GOOD_METHOD = "games: [rps]\n", "methods: [SPPO: {eta: 0.5}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD_GAME + GOOD_METHOD + "num_step: 5\n", "num_step"),
        (GOOD_GAME + GOOD_METHOD + "num_steps: many\n", "num_steps"),
        (GOOD_GAME + GOOD_METHOD + "num_steps: 0\n", "num_steps must be at least 1, got 0"),
        (GOOD_GAME + GOOD_METHOD + "seeds: []\n", "seeds must not be empty"),
        (GOOD_GAME + GOOD_METHOD + "seeds: [-1]\n", r"seeds must be at least 0, got \[-1\]"),
        (GOOD_GAME + GOOD_METHOD + "seeds: [a]\n", "seeds"),
        (GOOD_GAME + GOOD_METHOD + "logit_scale: -1\n", "logit_scale must be"),
        (GOOD_GAME + GOOD_METHOD + "logit_scale: .nan\n", "logit_scale must be"),
        (GOOD_GAME, "methods"),
        (GOOD_METHOD, "games"),
        (GOOD_GAME + "methods: []\n", "methods must not be empty"),
        ("games: [\n", "parsing"),
        ("just words\n", "config"),
        ("games: [rpz]\n" + GOOD_METHOD, r"games\[0\]: there is no game called rpz; did you mean rps"),
        ("games: [go]\n" + GOOD_METHOD, "choose from bradley_terry, condorcet, from_file, random, rps"),
        ("games: [check_game]\n" + GOOD_METHOD, "there is no game called check_game"),
        ("games: [rps: {a: 1.5}]\n" + GOOD_METHOD, r"games\[0\].rps: rps: P\[0, 1\] = 1.5"),
        ("games: [rps: {q: 1}]\n" + GOOD_METHOD, r"games\[0\].rps: .*q.*; it takes a, b, c"),
        ("games: [rps: {a: x}]\n" + GOOD_METHOD, r"games\[0\].rps: .*a"),
        ("games: [rps: 3]\n" + GOOD_METHOD, r"games\[0\].rps must map arguments"),
        ("games: [{rps: {}, random: {}}]\n" + GOOD_METHOD, r"games\[0\] must be one name"),
        ("games: [random: {n: 0}]\n" + GOOD_METHOD, r"games\[0\].random: n, the number"),
        ("games: [from_file: {path: nowhere.npz}]\n" + GOOD_METHOD, "nowhere.npz: there is no such file"),
        (GOOD_GAME + "methods: [SPO: {eta: 1}]\n", r"methods\[0\]: there is no method called SPO; did you mean SPPO"),
        (GOOD_GAME + "methods: [TabularMethod]\n", "no method called TabularMethod"),
        (GOOD_GAME + "methods: [SPPO]\n", r"methods\[0\].SPPO: .*eta"),
        (GOOD_GAME + "methods: [SPPO: {eta: 0}]\n", r"methods\[0\].SPPO: eta must be a positive number"),
        (GOOD_GAME + "methods: [SPPO: {eta: 1, tau: 1}]\n", r"methods\[0\].SPPO: .*tau.*; it takes eta"),
        (GOOD_GAME + "methods: [INPO: {eta: 20, tau: 1}]\n", r"methods\[0\].INPO: eta \* tau"),
        ("games: [rps, rps]\n" + GOOD_METHOD, r"games has rps\(\) twice"),
        (GOOD_GAME + "methods: [SPPO: {eta: 1}, SPPO: {eta: 1.0}]\n", r"methods has SPPO\(eta=1.0\) twice"),
        (GOOD_GAME + "methods: [nowhere.Method]\n", r"methods\[0\]: nowhere.Method cannot be imported"),
    ],
)
def test_mistakes_are_named_before_anything_is_played(tmp_path, text, message):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        main(write_config(tmp_path, text))
    assert str(caught.value).startswith("lab: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        main(["--config", str(tmp_path / "nowhere.yaml")])


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ConfigError, match=r"lab: out: .* cannot be made a folder"):
        main(write_config(tmp_path, GOOD_GAME + GOOD_METHOD))


def test_a_tau_too_small_names_method_and_game(tmp_path):
    text = "games: [random: {n: 20}]\nmethods: [OnlineIPO: {tau: 1.0e-9}]\nnum_steps: 2\n"
    with pytest.raises(ConfigError, match=r"lab: OnlineIPO\(tau=1e-09\) on random\(n=20\): tau = 1e-09"):
        main(write_config(tmp_path, text))


def test_help_answers_without_torch_or_a_plotting_library():
    code = (
        "import sys\n"
        "from sppo_lightning.commands.lab import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'lightning', 'matplotlib') if name in sys.modules])\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "IterativeDPO" in printed
    assert printed.endswith("[]\n")
