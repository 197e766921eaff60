"""The corpus of the quick start: every text is put together from the templates in this file, our own writing.

A prompt asks for one aspect of one thing (24 things x 8 aspects). An answer has one of three styles, marked by its
opener: concise, medium or long. The author of these answers is careless: often the thing or the aspect is not named,
a filler phrase slips in, or the full stop is missing. That leaves room for self-play to improve what `StyleGame` calls
quality while every improvement stays inside the templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from random import Random
from typing import NamedTuple

from sppo_lightning.oracles.style_game import OPENERS
from sppo_lightning.types import Prompt


class Topic(NamedTuple):
    """A thing with the two facts that longer answers tell about it."""

    noun: str
    deed: str
    place: str


class Aspect(NamedTuple):
    """What can be asked about a thing, how it is asked, and what may be said."""

    noun: str
    question: str
    verdicts: tuple[str, str]


TOPICS = (
    Topic("lighthouse", "brings ships home", "by the sea"),
    Topic("kettle", "makes good tea", "in the kitchen"),
    Topic("violin", "makes people sing", "in the old town"),
    Topic("bicycle", "carries people home", "in the hills"),
    Topic("bridge", "joins two towns", "by the river"),
    Topic("candle", "gives warm light", "in the kitchen"),
    Topic("compass", "points ships north", "by the sea"),
    Topic("umbrella", "keeps the rain away", "in the old town"),
    Topic("telescope", "brings the moon near", "in the hills"),
    Topic("windmill", "makes good bread", "on the farm"),
    Topic("hammock", "gives good rest", "by the river"),
    Topic("teapot", "keeps tea warm", "in the kitchen"),
    Topic("lantern", "gives light at night", "by the river"),
    Topic("ladder", "carries people up", "on the farm"),
    Topic("anchor", "holds ships still", "by the sea"),
    Topic("piano", "makes people dance", "in the old town"),
    Topic("basket", "carries bread home", "on the farm"),
    Topic("hourglass", "keeps good time", "by the sea"),
    Topic("mirror", "gives light back", "in the old town"),
    Topic("needle", "joins cloth", "in the kitchen"),
    Topic("orchard", "gives good apples", "in the hills"),
    Topic("pocketknife", "cuts bread", "by the river"),
    Topic("sundial", "keeps time by light", "in the hills"),
    Topic("wheelbarrow", "carries earth up", "on the farm"),
)

ASPECTS = (
    Aspect("purpose", "What is the purpose of the {}?", ("plain", "noble")),
    Aspect("history", "Tell me about the history of the {}.", ("ancient", "tangled")),
    Aspect("shape", "What is the usual shape of the {}?", ("simple", "graceful")),
    Aspect("upkeep", "How much upkeep does the {} need?", ("easy", "tiresome")),
    Aspect("price", "Is the price of the {} fair?", ("modest", "steep")),
    Aspect("beauty", "Say a word on the beauty of the {}.", ("quiet", "striking")),
    Aspect("origin", "Where lies the origin of the {}?", ("local", "distant")),
    Aspect("future", "What does the future hold for the {}?", ("bright", "open")),
)

_STYLE_RATES = (0.5, 0.3, 0.2)
_SENTENCES = (
    "{opener} {filler}{aspect} of {topic} is {verdict}{end}",
    "{opener} {filler}{aspect} of {topic} is {verdict}, and it {deed}{end}",
    "{opener} {filler}{place}, {aspect} of {topic} is {verdict}, and there it {deed} without end{end}",
)
_FILLERS = ("", "to be honest, ", "you know, ", "as they say, ")
_PLAIN_RATE = 0.35
_NAMED_RATE = 0.4
_FINISHED_RATE = 0.4
_VAGUE_ASPECT = "that side"
_VAGUE_TOPIC = "this thing"


def quickstart_prompts() -> list[Prompt]:
    """Returns the 192 prompts, in an order in which any 24 neighbours ask about every topic once."""
    return [prompt for _, _, prompt in _questions()]


def sample_answer(prompt: Prompt, random: Random) -> str:
    """Draws one careless answer to a quick-start prompt."""
    topic, aspect = _parts(prompt.text)
    style = random.choices(range(len(OPENERS)), _STYLE_RATES)[0]
    return _write(
        style,
        topic,
        aspect,
        filler=_FILLERS[0] if random.random() < _PLAIN_RATE else random.choice(_FILLERS[1:]),
        named_aspect=random.random() < _NAMED_RATE,
        named_topic=random.random() < _NAMED_RATE,
        verdict=random.choice(aspect.verdicts),
        finished=random.random() < _FINISHED_RATE,
    )


@lru_cache(maxsize=1024)
def all_answers(prompt_text: str) -> frozenset[str]:
    """Returns every answer that the templates allow for a quick-start prompt: what counts as on-template.

    Raises:
        KeyError: this is not the text of a quick-start prompt.
    """
    topic, aspect = _parts(prompt_text)
    choices = product(range(len(OPENERS)), _FILLERS, (True, False), (True, False), aspect.verdicts, (True, False))
    return frozenset(
        _write(style, topic, aspect, filler, named_aspect, named_topic, verdict, finished)
        for style, filler, named_aspect, named_topic, verdict, finished in choices
    )


def _questions() -> Iterator[tuple[Topic, Aspect, Prompt]]:
    for shift in range(len(ASPECTS)):
        for place, topic in enumerate(TOPICS):
            aspect = ASPECTS[(place + shift) % len(ASPECTS)]
            text = aspect.question.format(topic.noun)
            prompt = Prompt(
                prompt_id=f"{topic.noun}-{aspect.noun}", messages=({"role": "user", "content": text},), metadata={}
            )
            yield topic, aspect, prompt


def _parts(prompt_text: str) -> tuple[Topic, Aspect]:
    return _parts_by_text()[prompt_text]


@lru_cache(maxsize=1)
def _parts_by_text() -> dict[str, tuple[Topic, Aspect]]:
    return {prompt.text: (topic, aspect) for topic, aspect, prompt in _questions()}


def _write(
    style: int,
    topic: Topic,
    aspect: Aspect,
    filler: str,
    named_aspect: bool,
    named_topic: bool,
    verdict: str,
    finished: bool,
) -> str:
    return _SENTENCES[style].format(
        opener=OPENERS[style],
        filler=filler,
        aspect=f"the {aspect.noun}" if named_aspect else _VAGUE_ASPECT,
        topic=f"the {topic.noun}" if named_topic else _VAGUE_TOPIC,
        verdict=verdict,
        deed=topic.deed,
        place=topic.place,
        end="." if finished else "",
    )
