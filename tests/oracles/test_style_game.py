import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles import StyleGame
from sppo_lightning.oracles.style_game import NO_OPENER, NUM_STYLES, OPENERS
from sppo_lightning.quickstart.corpus import all_answers, quickstart_prompts

from .examples import candidates

PROMPTS = [quickstart_prompts()[0].text, "Wie hoch ist der Turm?", "?", "\u706f\u53f0\u306e\u6b74\u53f2\u306f"]
JUNK = ["", ".", "Briefly,", "Well, ", "Imagine: ...", "briefly, no.", " Well, no.", "you know.", "\U0001f600"]
GAMES = [StyleGame(), StyleGame(quality_weight=0), StyleGame(quality_weight=1), StyleGame((0.2, 1.0, 0.6), 0.9, 0.4)]


def texts_to_try(prompt):
    corpus = sorted(all_answers(prompt)) if prompt == PROMPTS[0] else []
    perfect = [StyleGame.perfect_reply(prompt, style) for style in range(NUM_STYLES)]
    return [*perfect, *JUNK, *corpus, *(f"{opener} {prompt}" for opener in OPENERS), prompt]


def random_policy(num_texts, seed):
    weights = torch.rand(num_texts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 8
    return weights / weights.sum()


def summary(prompt, texts, probabilities):
    """A policy's style mix and mean quality at one prompt, by summing over its texts."""
    styles = torch.tensor([StyleGame.style(text) for text in texts])
    qualities = torch.tensor([StyleGame.quality(prompt, text) for text in texts], dtype=torch.float64)
    mix_S = torch.zeros(NUM_STYLES, dtype=torch.float64).index_add(0, styles, probabilities)
    return mix_S, float(qualities @ probabilities)


def test_the_worked_example_of_the_docstring():
    prompt = "Is the price of a kettle fair?"
    texts = ["Briefly, the price of a kettle is fair.", "Well, it is what it is"]
    probs_BKJ = StyleGame().compare(candidates({prompt: texts})).probs_BKJ
    assert float(probs_BKJ[0, 0, 1]) == pytest.approx(0.97)


def test_the_cycle_is_in_the_documented_order():
    expected = [[0.5, 0.9, 0.2, 0.95], [0.1, 0.5, 0.7, 0.95], [0.8, 0.3, 0.5, 0.95], [0.05, 0.05, 0.05, 0.5]]
    matrix_SS = StyleGame(cycle=(0.9, 0.7, 0.8), no_opener=0.05).style_matrix()
    torch.testing.assert_close(matrix_SS, torch.tensor(expected, dtype=torch.float64))


def test_the_equilibrium_of_the_pure_style_game_cannot_be_exploited():
    game = StyleGame(quality_weight=0)
    equilibrium = torch.tensor([[2 / 9, 3 / 9, 4 / 9, 0]])
    assert game.exploitability(equilibrium, torch.zeros(1)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("corner", "gap"), [(0, 0.6), (1, 0.8), (2, 0.4), (NO_OPENER, 0.9)])
def test_a_corner_of_the_pure_style_game_loses_to_its_counter(corner, gap):
    one_style = torch.eye(NUM_STYLES)[corner : corner + 1]
    assert StyleGame(quality_weight=0).exploitability(one_style, torch.zeros(1)) == pytest.approx(gap)


def test_exploitability_is_a_mean_over_prompts_of_best_replies_that_see_the_prompt():
    # Two prompts answered in opposite corners: a best reply to the pooled mix would find less.
    game = StyleGame(quality_weight=0)
    mix_BS = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    assert game.exploitability(mix_BS, torch.zeros(2)) == pytest.approx((0.6 + 0.8) / 2)
    assert game.exploitability(mix_BS.mean(0, keepdim=True), torch.zeros(1)) < 0.5


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("seed", range(3))
def test_best_reply_value_is_the_maximum_over_texts(game, prompt, seed):
    texts = texts_to_try(prompt)
    policy_J = random_policy(len(texts), seed)
    wins_K = game.compare(candidates({prompt: texts}), candidates({prompt: texts})).probs_BKJ[0].double() @ policy_J
    mix_S, mean_quality = summary(prompt, texts, policy_J)
    value = game.best_reply_value(mix_S, mean_quality)
    assert value == pytest.approx(float(wins_K.max()), abs=1e-6)
    # It is a perfect reply that attains it: these come first in the list.
    assert float(wins_K[:NUM_STYLES].max()) == pytest.approx(value, abs=1e-6)
    assert game.exploitability(mix_S[None], torch.tensor([mean_quality])) == pytest.approx(2 * value - 1, abs=1e-6)


@given(prompt=st.text(), text=st.text() | st.builds("{}{}".format, st.sampled_from(OPENERS), st.text()))
def test_no_text_beats_the_best_reply(prompt, text):
    game = StyleGame()
    texts = [StyleGame.perfect_reply("Who?", 1), "Imagine: nothing", "no"]
    policy_J = random_policy(len(texts), seed=5)
    wins = game.compare(candidates({prompt: [text]}), candidates({prompt: texts})).probs_BKJ[0, 0].double() @ policy_J
    assert float(wins) <= game.best_reply_value(*summary(prompt, texts, policy_J)) + 1e-6


@given(prompt=st.text(), style=st.integers(0, NUM_STYLES - 1))
def test_every_prompt_has_a_perfect_reply_in_every_style(prompt, style):
    reply = StyleGame.perfect_reply(prompt, style)
    assert StyleGame.style(reply) == style
    assert StyleGame.quality(prompt, reply) == 1.0


@given(text=st.text())
def test_no_text_has_two_styles(text):
    assert sum(text.startswith(opener) for opener in OPENERS) <= 1
    for index, opener in enumerate(OPENERS):
        assert StyleGame.style(opener + text) == index


@pytest.mark.parametrize("text", ["briefly, no", " Well, no", "Well no", "Imagine, no", ""])
def test_an_opener_counts_only_as_the_corpus_writes_it(text):
    assert StyleGame.style(text) == NO_OPENER


def test_mean_quality_is_over_the_responses_a_prompt_has():
    ragged = candidates({"Who?": ["Well, who.", "Well, who", "no"], "Why?": ["why."]})
    assert StyleGame.mean_quality(ragged).tolist() == [(1 + 1 / 2 + 0) / 3, 1.0]


def test_quality_ignores_the_opener():
    qualities = {StyleGame.quality("Who?", f"{opener} who knows.") for opener in OPENERS}
    assert len(qualities) == 1


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"cycle": (0.9, 0.7)}, "cycle"),
        ({"cycle": (0.9, 0.7, 1.2)}, r"cycle\[2\]"),
        ({"no_opener": -0.1}, "no_opener"),
        ({"quality_weight": 1.5}, "quality_weight"),
        ({"quality_weight": float("nan")}, "quality_weight"),
    ],
)
def test_a_wrong_argument_is_named(arguments, key):
    with pytest.raises(ConfigError, match=key):
        StyleGame(**arguments)
