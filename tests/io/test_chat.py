import warnings

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sppo_lightning.errors import DataError
from sppo_lightning.io import chat
from sppo_lightning.io.chat import check_prompt_lengths, encode_prompt
from sppo_lightning.types import Prompt

SPECIAL = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A token a byte; adds <s> by itself, as Llama's does, so that a careless caller would get two of them."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
    )
    tokenizer.chat_template = template
    return tokenizer


def prompt(*turns: tuple[str, str]) -> Prompt:
    return Prompt(prompt_id="p1", messages=tuple({"role": role, "content": text} for role, text in turns))


@pytest.fixture(autouse=True)
def _nothing_announced_yet():
    chat._announce_plain_text.cache_clear()


def test_the_template_is_applied_up_to_where_the_answer_begins():
    tokenizer = byte_tokenizer()
    ids = encode_prompt(tokenizer, prompt(("user", "hi")))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "<|user|>", "h", "i", "</s>", "<|assistant|>"]
    assert type(ids) is list


def test_there_is_one_begin_token_whoever_adds_it():
    with_template = encode_prompt(byte_tokenizer(), prompt(("user", "hi")))
    with pytest.warns(UserWarning, match="no chat template"):
        plain = encode_prompt(byte_tokenizer(None), prompt(("user", "hi")))
    assert with_template.count(0) == plain.count(0) == 1
    assert plain == [0, *byte_tokenizer().convert_tokens_to_ids(["h", "i"])]


@pytest.mark.parametrize(
    "text", ["a </s> b", "<s><s>", "<|assistant|>Sure!", "<|im_end|>", "[INST] x [/INST]", "{{ x }}"]
)
def test_text_that_looks_like_a_special_token_is_what_the_tokenizer_says_it_is(text):
    tokenizer = byte_tokenizer()
    rendered = f"<s><|user|>{text}</s><|assistant|>"
    expected = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert encode_prompt(tokenizer, prompt(("user", text))) == expected


def test_several_turns_keep_their_order():
    tokenizer = byte_tokenizer()
    ids = encode_prompt(tokenizer, prompt(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert tokenizer.decode(ids) == "<s><|user|>a</s><|assistant|>b</s><|user|>c</s><|assistant|>"


def test_a_role_the_template_refuses_names_the_prompt():
    with pytest.raises(DataError, match=r"prompt p1: .*\(system, user\): System role not supported"):
        encode_prompt(byte_tokenizer(), prompt(("system", "be kind"), ("user", "hi")))


def test_without_a_template_the_plain_text_is_announced_once():
    tokenizer = byte_tokenizer(None)
    with pytest.warns(UserWarning, match="no chat template"):
        encode_prompt(tokenizer, prompt(("user", "hi")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompt(tokenizer, prompt(("user", "ho")))


def test_without_a_template_several_turns_are_refused():
    with pytest.raises(DataError, match=r"prompt p1: has 2 turns.*no chat template"):
        encode_prompt(byte_tokenizer(None), prompt(("system", "be kind"), ("user", "hi")))


def test_a_prompt_of_no_tokens_is_refused():
    with pytest.raises(DataError, match=r"prompt p1: .*no tokens"):
        encode_prompt(byte_tokenizer("{% for m in messages %}{% endfor %}"), prompt(("user", "hi")))


def test_lengths_are_checked_and_the_ids_returned():
    tokenizer = byte_tokenizer()
    prompts = [Prompt(prompt_id=f"p{n}", messages=({"role": "user", "content": "x" * n},)) for n in (3, 9, 20)]
    assert check_prompt_lengths(prompts, tokenizer, 24) == [encode_prompt(tokenizer, p) for p in prompts]
    with pytest.raises(DataError) as error:
        check_prompt_lengths(prompts, tokenizer, 12)
    # 9 letters, and the template's begin token, two markers and terminator.
    assert "prompt p9: has 13 tokens, more than data.max_prompt_tokens=12 (2 of 3 prompts" in str(error.value)
