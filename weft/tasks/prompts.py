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


@dataclass(frozen=True)
class Prompt:
    """The content of the user's turn, and the text that the response is made to begin with."""

    text: str
    prefill: str = ""


def d1_prompt(system: str, question: str) -> Prompt:
    """Instructions and question as one user turn, the response opened by ``<reasoning>``."""
    return Prompt(f"{system}\n\n{question}", D1_PREFILL)
