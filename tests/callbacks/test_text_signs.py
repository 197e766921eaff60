"""The "safe but empty" alarm on simulated runs: planted bland attractors, and runs that change in healthy ways."""

import numpy as np
import pytest
from sppo_lightning.callbacks.text_signs import text_signs

from sppo_lightning.functional.safe_but_empty import safe_but_empty

NUM_PROMPTS, NUM_SAMPLES = 24, 2
WORDS = [a + b for a in ("ba", "ko", "ri", "tu", "ze", "mo", "fa", "li") for b in ("ran", "dok", "mer", "sil", "tov")]
OPENERS = ("Briefly,", "Well,", "In short,", "To begin with,")
ATTRACTORS = {
    "refusals": ("I'm sorry, but I can't help with that.", "I cannot answer this, sorry."),
    "hedging": ("It depends on many things.", "There are many ways to see this."),
    "silence": ("", ".", "..."),
    "long hedging refusals": (
        "As an AI language model I have no view, as there are many sides to consider and it depends on your situation.",
    ),
}


def answer(rng, prompt, length, opener):
    """About the prompt, in words of its own."""
    words = rng.choice(WORDS, size=max(3, round(length * rng.uniform(0.7, 1.3))))
    return " ".join([opener, f"the {prompt}", *words]) + "."


def signs(texts_BK):
    tokens_BK = [[len(text.split()) + 1 for text in texts] for texts in texts_BK]
    return {name.removeprefix("round/"): value for name, value in text_signs(texts_BK, tokens_BK).items()}


def answers(rng, *, length=16, opener_of=lambda rng: rng.choice(OPENERS), bland=(), share=0.0, refusals=0.03):
    """[prompts][responses]; a share of them fall into the attractor."""
    texts_BK = []
    for b in range(NUM_PROMPTS):
        texts = []
        for _ in range(NUM_SAMPLES):
            if rng.random() < share:
                texts.append(str(rng.choice(bland)))
            elif rng.random() < refusals:
                texts.append("I'm sorry, but I can't help with that.")
            else:
                texts.append(answer(rng, WORDS[b], length, opener_of(rng)))
        texts_BK.append(texts)
    return texts_BK


def healthy(rng):
    """One of the things that good runs do: sharpen onto one style, grow longer or terser, or learn to refuse a few."""
    change = rng.integers(4)
    return answers(
        rng,
        length=16 * {1: rng.uniform(1.2, 1.8), 2: rng.uniform(0.45, 0.8)}.get(int(change), 1.0),
        opener_of=(lambda rng: "Briefly,") if change == 0 else (lambda rng: rng.choice(OPENERS)),
        refusals=0.08 if change == 3 else 0.03,
    )


def verdict(seed, after):
    rng = np.random.default_rng(seed)
    return safe_but_empty(signs(answers(rng)), signs(after(rng)), win_rate_high=0.8)


def test_the_alarm_fires_on_planted_bland_attractors():
    fired = 0
    for seed in range(40):
        bland = list(ATTRACTORS.values())[seed % len(ATTRACTORS)]
        fired += verdict(seed, lambda rng, bland=bland: answers(rng, bland=bland, share=rng.uniform(0.6, 0.95))).fires
    assert fired >= 38


def test_the_alarm_is_silent_on_healthy_runs():
    assert sum(verdict(seed, healthy).fires for seed in range(100, 140)) <= 2


@pytest.fixture(autouse=True)
def no_self_bleu(monkeypatch):
    """The alarm does not look at it, and it takes most of the time."""
    monkeypatch.setattr("sppo_lightning.callbacks.text_signs.self_bleu", lambda groups: [0.0] * len(groups))


@pytest.mark.parametrize("name", ATTRACTORS)
def test_it_says_what_it_saw(name):
    seen = verdict(0, lambda rng: answers(rng, bland=ATTRACTORS[name], share=0.8))
    assert seen.fires
    assert len(seen.signals) >= 2


def test_a_judge_that_objects_makes_it_somebody_elses_problem():
    rng = np.random.default_rng(0)
    start, now = signs(answers(rng)), signs(answers(rng, bland=ATTRACTORS["refusals"], share=0.9))
    assert safe_but_empty(start, now).fires
    assert not safe_but_empty(start, now, win_rate_high=0.49).fires


def test_one_signal_is_no_alarm():
    rng = np.random.default_rng(0)
    terse = safe_but_empty(signs(answers(rng)), signs(answers(rng, length=5)))
    assert len(terse.signals) == 1
    assert not terse.fires
