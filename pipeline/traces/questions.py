"""Questions to generate traces for, and the verdict on what was generated."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import DataSection, RunConfig, SourceSection
from pipeline.sources import Row, open_source
from weft.tasks.base import Problem


@dataclass(frozen=True)
class Question:
    """One question, and what tells right answers to it from wrong ones."""

    question_id: str
    """16 hexadecimal digits of the SHA-256 of the user's turn."""
    source: str
    question: str
    """What ``prepare`` will read as the question."""
    turn: str
    """The user's turn that the model gets: the question and how to answer it."""
    solution: str = ""
    """The right answer of a question of mathematics; empty where none is known."""
    task: str = ""
    problem: str = ""
    """Of a puzzle, its data as JSON: the task's grader takes it."""


def read_questions(config: RunConfig) -> tuple[list[Question], list[Row]]:
    """The questions of all ``[[traces.sources]]``, each once, and the rows that are none.

    Raises DataError for a source that cannot be used at all.
    """
    found: dict[str, Question] = {}
    refused: list[Row] = []
    for section in config.traces.sources:
        questions = (
            list(_puzzles(config.data, section))
            if section.kind == "task"
            else _of_source(config, section, refused)
        )
        if section.max_examples:
            lots = sorted(questions, key=lambda q: _digest(f"{config.data.seed}:{q.question_id}"))
            chosen = {question.question_id for question in lots[: section.max_examples]}
            questions = [question for question in questions if question.question_id in chosen]
        for question in questions:
            found.setdefault(question.question_id, question)
    return list(found.values()), refused


def _of_source(config: RunConfig, section: SourceSection, refused: list[Row]) -> list[Question]:
    if section.format == "columns":  # what was answered there is of no interest
        section = dataclasses.replace(section, response_column="", reasoning_column="")
    source = open_source(config.data, section)
    instruction = config.traces.instruction
    questions = []
    for part in source.survey():
        for row in source.rows(part, 0, 0, part.num_rows):
            if row.reason:
                refused.append(row)
                continue
            solution = row.solution or (row.answer if section.format == "gsm8k" else "")
            turn = f"{row.question}\n\n{instruction}" if instruction else row.question
            questions.append(Question(_digest(turn), row.source, row.question, turn, solution))
    return questions


def _puzzles(data: DataSection, section: SourceSection) -> Iterator[Question]:
    """Generated problems that no evaluation asks for."""
    from weft.tasks import get_puzzle
    from weft.tasks.fingerprints import is_benchmark_item, is_held_out

    task = get_puzzle(section.task)
    name = open_source(data, section).name
    index = found = 0
    while found < section.count:
        problem = task.generate(seed=data.seed, index=index)
        index += 1
        if is_benchmark_item(problem) or is_held_out(problem):
            continue
        found += 1
        turn = task.prompt(problem, "d1").text
        question = task.prompt(problem, data.prompt_style).text
        values = json.dumps(problem.data, sort_keys=True)
        yield Question(_digest(turn), name, question, turn, task=task.name, problem=values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# The opening tag may be the end of the prompt, as in the templates of the R1 distillations.
_THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>(.*)", flags=re.DOTALL)
_TAGGED = re.compile(
    r"\s*(?:<reasoning>)?(.*?)</reasoning>\s*<answer>(.*?)(?:</answer>.*)?", flags=re.DOTALL
)


def split_generation(text: str) -> tuple[str, str]:
    """``(reasoning, answer)`` of a generation.

    Where it thinks in tags, or answers in d1's, these say which is which; else all of it is the
    reasoning, and its last box, if there is one, the answer.
    """
    from weft.tasks.grading.extraction import last_balanced_box

    for pattern in (_THOUGHT, _TAGGED):
        match = pattern.fullmatch(text)
        if match is not None and match[2].strip():
            return match[1].strip(), match[2].strip()
    box = last_balanced_box(text)
    return text.strip(), boxed(box) if box is not None else ""


def boxed(answer: str) -> str:
    """``answer`` in a box, unless it has one."""
    return answer if "\\boxed" in answer else f"\\boxed{{{answer}}}"


def is_right(values: dict[str, Any], generation: str, answer: str) -> bool | None:
    """The verdict on a generation; None where nothing says what is right.

    ``values`` has ``solution``, ``task`` and ``problem`` as in ``Question``.
    """
    if values["task"]:
        from weft.tasks import get_task

        problem = Problem(values["task"], "", json.loads(values["problem"]))
        return get_task(values["task"]).grade(problem, generation).strict_correct
    if not values["solution"]:
        return None
    from weft.tasks.math_answers import is_same_answer

    return is_same_answer(answer, values["solution"])
