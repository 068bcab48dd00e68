"""The form of d1's prompts, which all tasks share.

Source: the evaluation protocol of dllm-reasoning/d1 (Apache-2.0). The strings, here and in the
tasks, are that protocol character for character: a changed space changes scores.
"""

from dataclasses import dataclass

D1_PREFILL = "<reasoning>"

D1_FORMAT = (
    "Respond in the following format:\n"
    "<reasoning>\nYour reasoning here\n</reasoning>\n"
    "<answer>\n\\boxed{...}\n</answer>"
)
"""Closing instructions of the tasks whose answer is boxed."""


_D1_SFT_SYSTEM = (
    "\nRespond in the following format:\n"
    "<reasoning>\nYour reasoning here\n</reasoning>\n"
    "<answer>\n...\n</answer>\n"
)
"""Instructions of the examples that d1 fine-tunes on."""


@dataclass(frozen=True)
class Prompt:
    """The content of the user's turn, and the text that the response is made to begin with."""

    text: str
    prefill: str = ""


def d1_sft_prompt(question: str) -> str:
    """The user's turn of an example that d1 fine-tunes on."""
    return f"{_D1_SFT_SYSTEM}\n\n{question}"


def reasoned_response(reasoning: str, answer: str) -> str:
    """The assistant's turn: reasoning and answer in d1's tags."""
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def d1_prompt(system: str, question: str) -> Prompt:
    """Instructions and question as one user turn, the response opened by ``<reasoning>``."""
    return Prompt(f"{system}\n\n{question}", D1_PREFILL)
