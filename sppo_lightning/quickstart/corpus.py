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
    Topic("lighthouse", "guides ships home", "on a rock in the grey sea"),
    Topic("kettle", "sings when tea is near", "over a small blue flame"),
    Topic("violin", "turns a bow into song", "in a hall full of candles"),
    Topic("bicycle", "carries us up the hill", "along the wet canal path"),
    Topic("bridge", "joins both banks", "where two rivers meet"),
    Topic("candle", "burns through the dark hour", "at a window in winter"),
    Topic("compass", "points north in any fog", "deep inside a pine wood"),
    Topic("umbrella", "keeps the rain away", "on a street in autumn"),
    Topic("telescope", "brings the moon closer", "under a clear desert night"),
    Topic("windmill", "grinds corn for bread", "above the yellow fields"),
    Topic("hammock", "rocks the tired to sleep", "between two old apple trees"),
    Topic("teapot", "pours for every guest", "on a round kitchen table"),
    Topic("lantern", "shows the last step", "beside a narrow mountain road"),
    Topic("ladder", "reaches the high shelf", "against a red barn wall"),
    Topic("anchor", "holds the boat in a storm", "down in the cold harbour mud"),
    Topic("piano", "fills rooms with chords", "behind a heavy green curtain"),
    Topic("basket", "brings eggs from market", "in the shade of a stall"),
    Topic("hourglass", "counts minutes in sand", "near the captain of a ship"),
    Topic("mirror", "gives back each smile", "by the door of an inn"),
    Topic("needle", "mends a torn sleeve", "under a seamstress lamp"),
    Topic("orchard", "feeds children and birds", "south of the stone church"),
    Topic("pocketknife", "cuts string and cheese", "at a camp among ferns"),
    Topic("sundial", "reads hours from shadow", "amid a garden of herbs"),
    Topic("wheelbarrow", "moves soil without hurry", "behind the potting shed"),
)

ASPECTS = (
    Aspect("purpose", "What is the purpose of the {}?", ("plain", "noble")),
    Aspect("history", "Tell me about the history of the {}.", ("ancient", "tangled")),
    Aspect("shape", "What is the usual shape of the {}?", ("simple", "graceful")),
    Aspect("upkeep", "How much upkeep does the {} need?", ("light", "tiresome")),
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
