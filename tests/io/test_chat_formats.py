"""Golden token ids in the chat formats of the families people align."""

import pytest
from transformers import AutoTokenizer

from sppo_lightning.engines.terminators import finish_reason, terminators
from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.io.chat import encode_prompt, pin_template_arguments
from sppo_lightning.types import Prompt

from .chat_formats import FAMILIES, golden_ids, tokenizer_of

TURNS = [("user", "Hi"), ("assistant", "Yes"), ("user", "Why?")]


def prompt(turns):
    return Prompt(prompt_id="p", messages=tuple({"role": role, "content": text} for role, text in turns))


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def tokenizer(family):
    return tokenizer_of(family)


def test_a_conversation_has_the_golden_ids(family, tokenizer):
    expected = golden_ids(family, family.turns.replace("{system}", family.system))
    assert encode_prompt(tokenizer, prompt(TURNS)) == expected


def test_a_system_turn_has_the_golden_ids_or_is_refused(family, tokenizer):
    turns = [("system", "Be brief."), *TURNS]
    if family.with_system is None:
        with pytest.raises(DataError, match=r"prompt p: .*refuses its turns"):
            encode_prompt(tokenizer, prompt(turns))
    else:
        expected = golden_ids(family, family.turns.replace("{system}", family.with_system))
        assert encode_prompt(tokenizer, prompt(turns)) == expected


def test_there_is_one_begin_token_and_an_open_end(family, tokenizer):
    ids = encode_prompt(tokenizer, prompt([("user", "Hi")]))
    if family.bos:
        assert tokenizer(family.bos)["input_ids"].count(tokenizer.bos_token_id) == 2  # what a careless caller would get
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] not in terminators(tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(family.terminator))


def test_the_terminator_that_was_sampled_ends_the_response_once(family, tokenizer):
    end = tokenizer.convert_tokens_to_ids(family.terminator)
    eos_ids = terminators([tokenizer.eos_token_id, end], tokenizer.eos_token_id)
    response = [*golden_ids(family, "Yes"), end]
    assert finish_reason(response, eos_ids) == "stop"
    assert finish_reason(response[:-1], eos_ids) == "length"
    assert sum(token in eos_ids for token in response) == 1
    assert tokenizer.decode(response, skip_special_tokens=True) == "Yes"
    # The next turn's prompt, which the template writes, continues with exactly these tokens.
    longer = encode_prompt(tokenizer, prompt(TURNS))
    at = longer.index(response[0], len(encode_prompt(tokenizer, prompt(TURNS[:1]))) - 1)
    assert longer[at : at + len(response)] == response


def test_qwen3_thinks_unless_it_is_told_not_to():
    family = FAMILIES["qwen3"]
    asked = prompt([("user", "Hi")])
    thinking = encode_prompt(tokenizer_of(family), asked)
    silent = tokenizer_of(family)
    pin_template_arguments(silent, {"enable_thinking": False})
    assert encode_prompt(silent, asked) == [*thinking, *golden_ids(family, "<think>\n\n</think>\n\n")]


def test_pinned_arguments_travel_with_the_tokenizer(tmp_path):
    tokenizer = tokenizer_of(FAMILIES["qwen3"])
    pin_template_arguments(tokenizer, {"enable_thinking": False})
    tokenizer.save_pretrained(tmp_path)
    stored = AutoTokenizer.from_pretrained(tmp_path)
    asked = prompt([("user", "Hi")])
    assert encode_prompt(stored, asked) == encode_prompt(tokenizer, asked)
    pin_template_arguments(stored, {"enable_thinking": False})
    assert stored.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("name", ["gemma-2", "llama-3"])
def test_an_argument_that_the_template_does_not_read_is_refused(name):
    with pytest.raises(ConfigError, match=r"model.chat_template_arguments: .* does not read enable_thinking"):
        pin_template_arguments(tokenizer_of(FAMILIES[name]), {"enable_thinking": False})
