"""Overlap with benchmark questions: every test item is found, what only resembles one is not."""

import gzip
import json
from pathlib import Path

import pytest

from weft.tasks.contamination import NGRAM_LENGTH, QUESTION_FILES, find_overlap, ngrams


def questions(path: Path) -> list[str]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line)["question"] for line in text.split("\n") if line]


def test_ngrams_are_runs_of_eight_words_without_case_and_marks() -> None:
    assert ngrams("One, two; 3 (four) five six SEVEN eight-nine!") == [
        "one two 3 four five six seven eight",
        "two 3 four five six seven eight nine",
    ]
    assert ngrams("What is 2 + 2?") == ["what is 2 2"]
    assert ngrams("") == []


def test_runs_of_numbers_alone_count_only_where_there_is_nothing_else() -> None:
    numbers = "1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert ngrams(numbers) == ["1 2 3 4 5 6 7 8", "2 3 4 5 6 7 8 9"]
    assert all("of" in gram for gram in ngrams(f"The sum of {numbers}"))


@pytest.mark.parametrize("name", QUESTION_FILES)
def test_every_test_question_is_found_as_itself(shared_data: Path, name: str) -> None:
    for number, question in enumerate(questions(shared_data / "benchmarks" / QUESTION_FILES[name])):
        is_short = len(ngrams(question)[0].split()) < NGRAM_LENGTH  # found when it stands alone
        around = ("", "") if is_short else ("Please solve this.\n", "\nThink first.")
        found = find_overlap(question.upper().join(around))
        assert found is not None
        assert found.share == 1
        if question.count(" ") > 20:  # short ones recur inside of others
            assert (found.benchmark, found.item) == (name, number)


def test_a_question_with_other_numbers_and_names_is_found_by_its_share(shared_data: Path) -> None:
    question = questions(shared_data / "benchmarks" / "gsm8k_test.jsonl")[0]
    changed = question.replace("Janet", "Maria").replace("$2", "$5")
    found = find_overlap(changed)
    assert found is not None
    assert (found.benchmark, found.item) == ("gsm8k", 0)
    assert 0.5 < found.share < 1
    assert found.words in " ".join(ngrams(question))


def test_training_questions_of_the_same_kind_have_little_in_common(shared_data: Path) -> None:
    """At the default share of 0.3; the few that have more are variants of test questions."""
    shares = [
        found.share if found else 0.0
        for question in questions(shared_data / "benchmarks" / "gsm8k_train.jsonl.gz")
        for found in [find_overlap(question)]
    ]
    assert 0 < sum(share > 0 for share in shares) < 100
    assert sum(share > 0.3 for share in shares) <= 3


def test_an_ordinary_text_has_nothing_in_common() -> None:
    assert (
        find_overlap("Add 3 and 4, then tell me whether the sum is odd, even or neither.") is None
    )


@pytest.mark.parametrize(
    "text",
    [
        "Solve the following Sudoku puzzle: 3102200002100320\n",
        "Numbers: [30, 100, 93]\nTarget: 23",
        "Using the numbers [93, 30, 100], create an equation that equals 23.",
    ],
)
def test_puzzles_of_a_benchmark_are_found_in_any_wording(text: str) -> None:
    found = find_overlap(text)
    assert found is not None
    assert found.share == 1


@pytest.mark.parametrize(
    "text",
    [
        "Solve the following Sudoku puzzle: 0002200002100320",
        "Numbers: [30, 100, 93]\nTarget: 24",
        "The code is 53102200002100320.",
    ],
)
def test_other_puzzles_are_not(text: str) -> None:
    assert find_overlap(text) is None
