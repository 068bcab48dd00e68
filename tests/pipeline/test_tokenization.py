"""From text to ids: the boundary between prompt and response, what is refused, what is cut."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tokenization import Encoded, Refused, encode, example_id, prompt_ids
from pipeline.tokenizers import open_tokenizer_at

TOKENIZER = open_tokenizer_at("tiny")
EOS, USER, ASSISTANT = TOKENIZER.convert_tokens_to_ids(
    ["<|endoftext|>", "<|user|>", "<|assistant|>"]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def encoded(prompt, response, **options):
    return encode(
        TOKENIZER, prompt, response, **({"max_length": 100, "too_long": "reject"} | options)
    )


class JoiningTokenizer:
    """A tokenizer that merges ``ab``, and a template that puts nothing between the turns."""

    eos_token, eos_token_id, mask_token_id = "\0", 0, 1

    def apply_chat_template(self, turns, *, tokenize, add_generation_prompt=False):
        return "".join(turn["content"] for turn in turns if turn)

    def __call__(self, text, *, add_special_tokens):
        merged = text.replace("ab", "\x02")
        return {"input_ids": [ord(character) for character in merged]}


def test_encode_puts_each_turn_where_the_chat_template_has_it():
    assert encoded("1+2", "3") == Encoded([USER, *ids("1+2"), ASSISTANT], [*ids("3"), EOS])


def test_a_template_that_always_ends_with_the_answers_header_teaches_no_second_one():
    # As LLaDA's own: it heeds no add_generation_prompt.
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim"
        " + '<|system|>' }}{% endfor %}{{ '<|assistant|>' }}"
    )
    (end_of_turn,) = ids("<|system|>")
    found = encode(tokenizer, "1+2", "3", max_length=100, too_long="reject")
    head = [USER, *ids("1+2"), end_of_turn, ASSISTANT]
    assert found == Encoded(head, [*ids("3"), end_of_turn, EOS])
    assert prompt_ids(tokenizer, "1+2") == head


def test_encode_without_a_prompt_is_plain_text():
    assert encoded("", "1+2=3") == Encoded([], [*ids("1+2=3"), EOS])


def test_encode_of_plain_text_goes_on_where_the_prompt_ends():
    assert encoded("1+2=", "3", is_chat=False) == Encoded(ids("1+2="), [*ids("3"), EOS])


@given(prompt=TEXT, response=TEXT.filter(bool))
def test_prompt_is_the_exact_prefix_that_decoding_starts_from(prompt, response):
    result = encoded(prompt, response, max_length=1000)
    assert isinstance(result, Encoded)
    assert result.prompt_ids == (prompt_ids(TOKENIZER, prompt) if prompt else [])
    assert TOKENIZER.decode(result.response_ids[:-1]) == response
    assert result.response_ids[-1] == EOS


def test_prompt_ids_ends_with_the_prefill():
    assert prompt_ids(TOKENIZER, "1", "<reasoning>") == [
        *(USER, *ids("1"), ASSISTANT),
        *ids("<reasoning>"),
    ]


def test_a_boundary_inside_a_token_is_refused():
    refused = encode(JoiningTokenizer(), "xa", "bx", max_length=9, too_long="reject")
    assert refused.reason == "prompt_is_no_prefix"
    fine = encode(JoiningTokenizer(), "xa", "cb", max_length=9, too_long="reject")
    assert fine == Encoded([ord("x"), ord("a")], [ord("c"), ord("b"), 0])


def test_an_empty_response_is_refused():
    assert encoded("1+2", "").reason == "empty_response"
    assert encoded("", "").reason == "empty_response"


def test_a_response_with_the_mask_token_is_refused():
    assert encoded("1+2", "3<|mask|>").reason == "mask_token_in_text"
    assert encoded("", "<|mask|>").reason == "mask_token_in_text"
    assert encoded("what is <|mask|>?", "3").reason == "mask_token_in_text"
    assert isinstance(encoded("1+2", "3 <mask>"), Encoded)


def test_a_response_that_goes_on_behind_eos_is_refused():
    assert encoded("1+2", "3<|endoftext|>4").reason == "eos_in_text"
    assert encoded("", "3<|endoftext|>4<|endoftext|>").reason == "eos_in_text"


def test_a_response_that_ends_with_eos_gets_no_second_one():
    assert encoded("1", "2<|endoftext|><|endoftext|>") == encoded("1", "2")


def test_max_length_counts_prompt_response_and_eos():
    # <|user|> 1 <|assistant|> 2 3 <|endoftext|> are six tokens.
    assert encoded("1", "23", max_length=6) == encoded("1", "23")
    refused = encoded("1", "23", max_length=5)
    assert refused == Refused("too_long", "6 tokens, data.max_length is 5")


def test_truncation_cuts_the_end_of_the_response_and_its_eos():
    whole = encoded("1", "2345")
    for room in (1, 2, 4):
        cut = encoded("1", "2345", max_length=3 + room, too_long="truncate")
        assert cut == Encoded(whole.prompt_ids, whole.response_ids[:room], is_truncated=True)
        assert EOS not in cut.response_ids
    assert encoded("1", "2345", max_length=8, too_long="truncate") == whole


@pytest.mark.parametrize("max_length", [1, 3])
def test_truncation_refuses_where_the_prompt_leaves_no_room(max_length):
    assert encoded("1", "2345", max_length=max_length, too_long="truncate").reason == "too_long"


def test_example_id_tells_every_pair_of_texts_apart():
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ('a","b', ""), ("a", "b\x00")]
    found = {example_id(*pair) for pair in pairs} | {example_id("a", "b", n) for n in range(3)}
    assert len(found) == len(pairs) + 3
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in found)


def test_example_id_never_changes():
    # From sha256sum of ["a", "é"]: a changed id would give every example other noise.
    assert example_id("a", "é") == "3cfa89335744ad95"
