"""From a prompt and a response in text to token ids, with an exact boundary between the two."""

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pipeline.errors import CheckpointError


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the response ends with EOS unless it was cut."""

    prompt_ids: list[int]
    response_ids: list[int]
    is_truncated: bool = False


@dataclass(frozen=True)
class Refused:
    """Why a row is kept out: a short ``reason`` to count by, and the ``detail`` of this row."""

    reason: str
    detail: str


def example_id(prompt: str, response: str, place: int | None = None) -> str:
    """Stable identity of an example: 16 hexadecimal digits of the SHA-256 of its text.

    ``place`` tells repeated texts of a corpus apart, where repetition is meant.
    """
    text = json.dumps([prompt, response, *([] if place is None else [place])], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_ids(tokenizer: Any, prompt: str, prefill: str = "") -> list[int]:
    """Ids of one user turn through the chat template, up to where the response begins."""
    turn = [{"role": "user", "content": prompt}]
    return _ids(tokenizer, _in_template(tokenizer, turn, for_answer=True) + prefill)


def _in_template(tokenizer: Any, turns: list[dict[str, str]], *, for_answer: bool) -> str:
    import jinja2

    try:
        text = tokenizer.apply_chat_template(
            turns, add_generation_prompt=for_answer, tokenize=False
        )
        return str(text if isinstance(text, str) else text[0])
    except (ValueError, TypeError, jinja2.TemplateError) as error:
        reason = str(error).split(". ")[0]
        raise CheckpointError(
            f"{tokenizer.name_or_path}: wanted a chat template for a user's and an assistant's "
            f"turn, got an error: {reason}; add or correct chat_template.jinja"
        ) from error


def encode(
    tokenizer: Any,
    prompt: str,
    response: str,
    *,
    max_length: int,
    too_long: str,
    is_chat: bool = True,
) -> Encoded | Refused:
    """Ids of the example, or why it cannot be used.

    With ``is_chat`` the two are turns of the chat template; else one plain text that goes on where
    the prompt ends. An empty prompt is always plain text, as in pre-training.

    The prompt's ids must be an exact prefix of the ids of the whole conversation: a boundary inside
    a token would train the model on a sequence that decoding never starts from. ``too_long`` says
    what happens over ``max_length`` tokens: "reject", or "truncate" the end of the response.
    """
    if not response:
        return Refused("empty_response", "the response is an empty string")
    is_chat = is_chat and bool(prompt)
    head = prompt_ids(tokenizer, prompt) if is_chat else _ids(tokenizer, prompt)
    whole = _ids(tokenizer, _conversation(tokenizer, prompt, response, is_chat))
    if whole[: len(head)] != head:
        return Refused(
            "prompt_is_no_prefix", "the prompt's tokens are not a prefix of the conversation's"
        )
    body = _close(whole[len(head) :], tokenizer.eos_token_id)
    if tokenizer.eos_token in _without_closing(response, tokenizer.eos_token):
        return Refused("eos_in_text", "the response goes on behind an EOS token")
    if tokenizer.mask_token_id in whole:
        return Refused("mask_token_in_text", "the text contains the mask token itself")
    return _fit(head, body, max_length, too_long)


def _conversation(tokenizer: Any, prompt: str, response: str, is_chat: bool) -> str:
    if not is_chat:
        return prompt + response
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = _in_template(tokenizer, turns, for_answer=False)
    return text.removesuffix(_constant_header(tokenizer))


@functools.lru_cache(maxsize=4)
def _constant_header(tokenizer: Any) -> str:
    """The answer's header where a template ends with it unasked, as LLaDA's does; else nothing."""
    turn = [{"role": "user", "content": "1"}]
    unasked, asked = (_in_template(tokenizer, turn, for_answer=asked) for asked in (False, True))
    if unasked != asked:
        return ""
    # A batch of one conversation without a turn: only what stands behind all turns is left.
    empty: list[Any] = [[]]
    return _in_template(tokenizer, empty, for_answer=False)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _without_closing(response: str, eos_token: str) -> str:
    while response.endswith(eos_token):
        response = response.removesuffix(eos_token)
    return response


def _close(body: list[int], eos_token_id: int) -> list[int]:
    """``body`` with exactly one EOS at its end; the template's own end-of-turn token stays."""
    while body and body[-1] == eos_token_id:
        body = body[:-1]
    return [*body, eos_token_id]


def _fit(head: list[int], body: list[int], max_length: int, too_long: str) -> Encoded | Refused:
    length = len(head) + len(body)
    if length <= max_length:
        return Encoded(head, body)
    room = max_length - len(head)
    if too_long == "reject" or room < 1:
        return Refused("too_long", f"{length} tokens, data.max_length is {max_length}")
    # The end of a response that was cut is not its end: no EOS is added.
    return Encoded(head, body[:room], is_truncated=True)
