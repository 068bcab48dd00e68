"""Build the tokenizer of the embedded denoiser: ``python scripts/make_tokenizer.py``.

Byte-level BPE, so that any text survives a round trip; every digit, space and punctuation mark is a
token of its own, and merges happen inside words only.
"""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 384
SPECIAL = ["<|endoftext|>", "<|mask|>", "<|user|>", "<|assistant|>", "<|system|>"]
TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\\boxed{"]
# Whole words of the compact prompts and of the traces, then common English for everything else.
WORDS = ["sudoku", "countdown", "ok", "no"]
ENGLISH = (
    "the of and to in is that for it as with be on by at this are from or an was which not have "
    "has each row column box must contain digits exactly once solve following puzzle provided "
    "numbers target number operations used expression answer format reasoning your step final "
    "only using"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|endoftext|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, always the same."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\p{L}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TAGS),
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS * 1000), " ".join([ENGLISH] * 3)], trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mask|>",
        additional_special_tokens=SPECIAL[2:],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "weft" / "assets" / "tiny"
    build().save_pretrained(folder)
    print(f"{len(build())} tokens -> {folder}")
