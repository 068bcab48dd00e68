"""The embedded tokenizer: loses nothing, splits numbers into digits, and is built by its script."""

import json
import runpy
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.models import load_tokenizer, meta_denoiser, resolve_checkpoint

TOKENIZER = load_tokenizer("tiny")
SPECIAL = ["<|endoftext|>", "<|mask|>", "<|user|>", "<|assistant|>", "<|system|>"]
TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\\boxed{"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def tokens(text):
    return [TOKENIZER.decode([i]) for i in ids(text)]


@given(st.lists(TEXT | st.sampled_from(TAGS)).map("".join))
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(ids(text)) == text


@pytest.mark.parametrize(
    "text", ["", " ", "a  b ,c .", " 's n't", "\x00\x7f\u2028\ufeff", "日本語 🏳️‍🌈 é e\u0301"]
)
def test_spaces_and_rare_characters_come_back(text):
    assert TOKENIZER.decode(ids(text)) == text


def test_digits_and_punctuation_are_single_tokens():
    for character in string.digits + string.punctuation + " \n":
        assert len(ids(character)) == 1
    assert tokens("1203+45=1248") == list("1203+45=1248")
    assert tokens("12, 3\n") == ["1", "2", ",", " ", "3", "\n"]


def test_words_of_the_compact_prompts_are_single_tokens():
    assert tokens("sudoku 3102") == ["sudoku", " ", "3", "1", "0", "2"]
    assert tokens("countdown 30") == ["countdown", " ", "3", "0"]


def test_tags_are_single_tokens_that_decoding_shows():
    for tag in TAGS:
        assert len(ids(tag)) == 1
        assert TOKENIZER.decode(ids(tag), skip_special_tokens=True) == tag
    assert tokens("<answer>\\boxed{12}</answer>") == [*TAGS[2:3], TAGS[4], "1", "2", "}", TAGS[3]]


def test_special_tokens_have_the_ids_of_the_model():
    assert TOKENIZER.convert_tokens_to_ids(SPECIAL) == [0, 1, 2, 3, 4]
    config = meta_denoiser("tiny").architecture
    assert (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (0, 0)
    assert (config.eos_token_id, config.values["pad_token_id"]) == (0, 0)
    assert TOKENIZER.mask_token_id == config.mask_token_id == 1
    assert len(TOKENIZER) == config.vocab_size == 384
    assert TOKENIZER.decode([0, 1, 2, 3, 4], skip_special_tokens=True) == ""


def test_chat_template_marks_every_turn():
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1 2"},
        {"role": "assistant", "content": "3"},
    ]
    whole = TOKENIZER.apply_chat_template(turns, tokenize=False)
    assert whole == "<|system|>S<|user|>1 2<|assistant|>3<|endoftext|>"


@given(prompt=TEXT, response=TEXT)
def test_chat_template_of_the_prompt_is_a_prefix_of_the_conversation(prompt, response):
    turn = [{"role": "user", "content": prompt}]
    answer = [{"role": "assistant", "content": response}]
    head = TOKENIZER.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    whole = TOKENIZER.apply_chat_template(turn + answer, tokenize=False)
    assert whole.startswith(head)
    assert ids(whole)[: len(ids(head))] == ids(head)


def test_the_script_builds_the_committed_files(tmp_path):
    root = Path(__file__).resolve().parents[3]
    build = runpy.run_path(str(root / "scripts" / "make_tokenizer.py"))["build"]
    build().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        committed = json.loads((resolve_checkpoint("tiny") / name).read_text())
        assert json.loads((tmp_path / name).read_text()) == committed, name
    template = "chat_template.jinja"
    assert (tmp_path / template).read_text() == (resolve_checkpoint("tiny") / template).read_text()


def test_vocabulary_and_merges_of_dream_are_read_without_its_code(tmp_path):
    """Dream names a tokenizer of its own in ``auto_map``, and has no ``tokenizer.json``."""
    vocab = {chr(code): number for number, code in enumerate(range(33, 127))}
    vocab |= {"ab": 94, "<|endoftext|>": 95, "<|mask|>": 96}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    names = {"eos_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    code = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names | code))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (95, 96)
    assert tokenizer("abc<|mask|>")["input_ids"] == [94, vocab["c"], 96]
    assert tokenizer.decode([94, vocab["c"]]) == "abc"
