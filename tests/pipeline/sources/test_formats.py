"""Known data sets: rows with exactly their columns become d1's examples; others say why not."""

import gzip
import json
from pathlib import Path

import pytest

from pipeline.config import DataSection, SourceSection
from pipeline.sources import open_source
from pipeline.sources.formats import FORMATS, UnusableRowError

S1K = {
    "solution": "4",
    "question": "2 + 2?",
    "cot_type": "math",
    "source_type": "made by hand",
    "metadata": "{}",
    "cot": None,
    "thinking_trajectories": ["two and two"],
    "attempt": "It is 4.",
}
S1K_11 = {
    "solution": "4",
    "question": "2 + 2?",
    "cot_type": "math",
    "source_type": "made by hand",
    "metadata": "{}",
    "gemini_thinking_trajectory": "of gemini",
    "gemini_attempt": "of gemini",
    "deepseek_thinking_trajectory": "two and two",
    "deepseek_attempt": "It is 4.",
    "gemini_grade": "Yes",
    "deepseek_grade": "Yes",
}
OPENR1 = {
    "problem": "2 + 2?",
    "solution": "4",
    "answer": "4",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "made by hand",
    "uuid": "0",
    "is_reasoning_complete": [True, True, False],
    "generations": [
        "<think>\nfive\n</think>\n\nIt is 5.",
        "<think>\ntwo and two\n</think>\n\nIt is 4.",
        "<think>\nfour, but",
    ],
    "correctness_math_verify": [False, True, True],
    "correctness_llama": None,
    "finish_reasons": None,
    "correctness_count": 2,
    "messages": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nfive\n</think>\n\nIt is 5."},
    ],
}
GSM8K = {"question": "2 + 2?", "answer": "two <<2+2=4>>and two\n#### 4"}
ROWS = {"s1k": S1K, "s1k-1.1": S1K_11, "openr1-math": OPENR1, "gsm8k": GSM8K}
ANSWERS = dict.fromkeys(ROWS, "It is 4.") | {"gsm8k": "\\boxed{4}"}


def read_turns(name, values, prompt_style):
    trace = FORMATS[name].read(values)
    return trace.prompt(prompt_style), trace.response


def rows_of(section):
    source = open_source(DataSection(), section)
    return [row for part in source.survey() for row in source.rows(part, 0, 0, part.num_rows)]


def test_every_known_data_set_has_a_row_here() -> None:
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_the_columns_that_a_format_names_are_those_it_needs(name: str) -> None:
    columns = FORMATS[name].columns
    FORMATS[name].read({column: ROWS[name][column] for column in columns})
    for column in columns:
        with pytest.raises(UnusableRowError):
            FORMATS[name].read({c: v for c, v in ROWS[name].items() if c != column})


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_an_example_in_the_form_of_d1(name: str) -> None:
    response = f"<reasoning>two and two</reasoning>\n<answer>{ANSWERS[name]}</answer>"
    assert read_turns(name, ROWS[name], "compact") == ("2 + 2?", response)


def test_the_prompt_of_d1_is_that_of_the_protocol(shared_data: Path) -> None:
    protocol = json.loads((shared_data / "protocol_d1.json").read_text())["sft"]
    prompt, response = read_turns("s1k", S1K, "d1")
    assert protocol["user_turn"] == 'SYSTEM + "\\n\\n" + QUESTION'
    assert prompt == protocol["system"] + "\n\n" + S1K["question"]
    turn = protocol["assistant_turn"].replace("TRACE", "two and two")
    assert response == turn.replace("ATTEMPT", "It is 4.")


@pytest.mark.parametrize(
    ("name", "changes", "reason", "detail"),
    [
        ("s1k", {"question": None}, "malformed_row", "'question': wanted a string, got nothing"),
        ("s1k", {"thinking_trajectories": []}, "malformed_row", "wanted a list, got nothing"),
        ("s1k", {"thinking_trajectories": "x"}, "malformed_row", "wanted a list, got str"),
        ("s1k", {"thinking_trajectories": [7]}, "malformed_row", "wanted a string, got int"),
        ("s1k", {"attempt": "\ud800"}, "malformed_row", "half of a surrogate pair"),
        ("s1k-1.1", {"deepseek_attempt": 4}, "malformed_row", "wanted a string, got int"),
        ("openr1-math", {"correctness_math_verify": [True]}, "malformed_row", "of 3 gener"),
        ("openr1-math", {"problem": ["x"]}, "malformed_row", "wanted a string, got list"),
        (
            "openr1-math",
            {"correctness_math_verify": [False, False, True]},
            "no_correct_generation",
            "none of 3",
        ),
        ("gsm8k", {"answer": "4"}, "malformed_row", "wanted an answer behind ####"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(name, changes, reason, detail) -> None:
    with pytest.raises(UnusableRowError, match=detail) as caught:
        read_turns(name, ROWS[name] | changes, "compact")
    assert caught.value.reason == reason


def test_rows_of_a_file_are_read_in_its_format_and_refused_ones_keep_their_line(tmp_path) -> None:
    path = tmp_path / "s1k.jsonl"
    bad = S1K | {"attempt": None}
    path.write_text(json.dumps(S1K) + "\n" + json.dumps(bad) + "\n")
    source = SourceSection(kind="files", path=str(path), format="s1k")
    first, second = rows_of(source)
    assert (first.prompt, first.reason) == ("2 + 2?", "")
    assert (second.position, second.reason) == (2, "malformed_row")
    assert json.loads(second.line) == bad


def test_reasoning_and_answer_in_columns_of_their_own(shared_data: Path) -> None:
    for path in sorted((shared_data / "traces").glob("*.jsonl.gz")):
        source = SourceSection(
            kind="files",
            path=str(path),
            prompt_column="question",
            reasoning_column="reasoning",
            response_column="answer",
        )
        rows = rows_of(source)
        assert not [row for row in rows if row.reason]
        with gzip.open(path, "rt", encoding="utf-8") as file:
            values = json.loads(next(file))
        assert rows[0].prompt == values["question"]
        assert rows[0].response == (
            f"<reasoning>{values['reasoning']}</reasoning>\n<answer>{values['answer']}</answer>"
        )


def test_gsm8k_has_no_row_that_cannot_be_used(shared_data: Path) -> None:
    """The shared file has the published column ``answer`` as ``solution``."""
    path = shared_data / "benchmarks" / "gsm8k_train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 7473
    for row in rows:
        values = {"question": row["question"], "answer": row["solution"]}
        prompt, response = read_turns("gsm8k", values, "compact")
        assert prompt == row["question"]
        assert "<<" not in response
        assert response.endswith(f"\n<answer>\\boxed{{{row['answer'].replace(',', '')}}}</answer>")
