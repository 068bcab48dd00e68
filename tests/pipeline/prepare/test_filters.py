"""What is kept out for what it says."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from pipeline.config import DataSection
from pipeline.prepare.filters import known_languages, language_of, refusal
from pipeline.sources import Row

ROW = Row("a", 1, question="What is two and two?", response="It is four.", answer="\\boxed{4}")
DATA = DataSection(languages=("en",))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Bonjour, calculons d'abord la somme des deux nombres.", "fr"),
        ("让我们先计算一下这个问题的答案。", "zh"),
        ("Berechnen wir zuerst die Summe der beiden Zahlen: $\\frac{1}{2} + \\sqrt{3}$.", "de"),
        ("First we compute the sum of the two numbers.", "en"),
    ],
)
def test_languages(text: str, language: str) -> None:
    found, probability = language_of(text)
    assert found == language
    assert probability > 0.5
    assert language in known_languages()


def test_english_traces_are_english(shared_data: Path) -> None:
    for path in sorted((shared_data / "traces").glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            values = json.loads(line)
            row = Row("a", 1, question=values["question"], response=values["reasoning"])
            assert refusal(row, dataclasses.replace(DATA, max_overlap=1.0)) is None


def test_another_language_is_kept_out_and_hardly_any_words_are_not() -> None:
    row = dataclasses.replace(ROW, response="Calculons d'abord la somme des nombres", question="?")
    refused = refusal(row, DATA)
    assert refused is not None
    assert refused.reason == "other_language"
    assert "wanted en, got fr" in refused.detail
    assert refusal(row, DataSection()) is None
    assert refusal(row, DataSection(languages=("en", "fr"))) is None
    assert refusal(dataclasses.replace(ROW, question="3+4", response="x=7"), DATA) is None


def test_a_wrong_answer_is_kept_out_with_both() -> None:
    assert refusal(dataclasses.replace(ROW, solution="4.0"), DATA) is None
    refused = refusal(dataclasses.replace(ROW, solution="5"), DATA)
    assert refused is not None
    assert (refused.reason, refused.detail) == ("wrong_answer", "wanted '5', got '\\\\boxed{4}'")


def test_test_questions_are_kept_out_by_their_share(shared_data: Path) -> None:
    lines = (shared_data / "benchmarks" / "gsm8k_test.jsonl").read_text().splitlines()
    question = json.loads(lines[17])["question"]
    row = dataclasses.replace(ROW, question=question)
    refused = refusal(row, DATA)
    assert refused is not None
    assert refused.reason == "benchmark_overlap"
    assert refused.detail.startswith("100 % of item 17 of gsm8k: '")
    half = dataclasses.replace(row, question=question[: len(question) // 4])
    assert refusal(half, DATA) is None
    assert refusal(half, dataclasses.replace(DATA, max_overlap=0.0)) is not None
    assert refusal(row, dataclasses.replace(DATA, max_overlap=1.0)) is None
    # Text without a question is looked through itself; generated problems where they are made.
    assert refusal(dataclasses.replace(ROW, question="", response=question), DATA) is not None
    assert refusal(dataclasses.replace(row, is_generated=True), DATA) is None


def test_what_the_source_refused_stays_refused() -> None:
    refused = refusal(dataclasses.replace(ROW, reason="malformed_row", detail="why"), DATA)
    assert refused is not None
    assert (refused.reason, refused.detail) == ("malformed_row", "why")
