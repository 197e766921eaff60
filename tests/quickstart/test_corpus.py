from random import Random

import pytest

from sppo_lightning.oracles import StyleGame
from sppo_lightning.oracles.style_game import NO_OPENER, OPENERS
from sppo_lightning.oracles.text_quality import prompt_keywords
from sppo_lightning.quickstart.corpus import ASPECTS, TOPICS, all_answers, quickstart_prompts, sample_answer

PROMPTS = quickstart_prompts()


def test_every_topic_is_asked_about_every_aspect_once():
    assert {prompt.prompt_id for prompt in PROMPTS} == {f"{t.noun}-{a.noun}" for t in TOPICS for a in ASPECTS}
    assert len({prompt.text for prompt in PROMPTS}) == len(PROMPTS) == 192


def test_any_24_neighbours_cover_the_topics():
    for first in range(len(PROMPTS) - len(TOPICS) + 1):
        nouns = {prompt.prompt_id.split("-")[0] for prompt in PROMPTS[first : first + len(TOPICS)]}
        assert len(nouns) == len(TOPICS)


def test_a_prompts_keywords_are_its_topic_and_its_aspect():
    for prompt in PROMPTS:
        assert set(prompt_keywords(prompt.text)) == set(prompt.prompt_id.split("-"))


def test_every_style_can_be_perfect_inside_the_templates():
    for prompt in PROMPTS:
        best = dict.fromkeys(range(len(OPENERS)), 0.0)
        for answer in all_answers(prompt.text):
            style = StyleGame.style(answer)
            assert style != NO_OPENER
            best[style] = max(best[style], StyleGame.quality(prompt.text, answer))
        assert list(best.values()) == [1.0] * len(OPENERS), prompt.text


def test_medium_is_longer_than_concise_and_shorter_than_long():
    for prompt in PROMPTS[:24]:
        lengths = [[], [], []]
        for answer in all_answers(prompt.text):
            lengths[StyleGame.style(answer)].append(len(answer))
        concise, medium, long = (sum(values) / len(values) for values in lengths)
        assert concise < medium < long


def test_samples_are_on_template_and_leave_room_for_quality():
    random = Random(0)
    qualities = []
    for prompt in PROMPTS:
        for _ in range(10):
            answer = sample_answer(prompt, random)
            assert answer in all_answers(prompt.text)
            qualities.append(StyleGame.quality(prompt.text, answer))
    assert sum(qualities) / len(qualities) < 0.25


def test_other_prompts_have_no_template():
    with pytest.raises(KeyError):
        all_answers("What is the purpose of the submarine?")
