"""Which rows are examples: duplicates, nearly equal texts, samples and mixtures."""

import itertools
from collections import Counter

import numpy as np
import pytest

from pipeline.config import DataSection, SourceSection
from pipeline.prepare.near_duplicates import NearDuplicates, signature_bytes
from pipeline.prepare.selection import Candidate, choose
from pipeline.sources import Row


def data_of(*sources, **keys):
    made = tuple(SourceSection(kind="files", path="x", **source) for source in sources)
    return DataSection(sources=made, **keys)


def candidates(*counts):
    """Rows of sources of these sizes, ten a shard."""
    numbers = itertools.count()
    for source, count in enumerate(counts):
        for _ in range(count):
            number = next(numbers)
            yield Candidate(number // 10, number % 10, f"{number:016x}", source)


def kept(counts, data):
    dropped = choose(candidates(*counts), data)
    found = [c for c in candidates(*counts) if c.row not in dropped.get(c.shard, {})]
    reasons = Counter(why.reason for rows in dropped.values() for why in rows.values())
    assert len(found) + sum(reasons.values()) == sum(counts)
    return found, reasons


def sizes(found):
    return Counter(candidate.source for candidate in found)


def test_without_wishes_all_are_kept():
    found, reasons = kept((30, 7), data_of({}, {}))
    assert (len(found), reasons) == (37, {})


def test_a_sample_has_its_size_and_depends_on_the_seed_alone():
    data = data_of({"max_examples": 12}, {})
    found, reasons = kept((40, 5), data)
    assert (sizes(found), reasons) == ({0: 12, 1: 5}, {"not_chosen": 28})
    # Neither on the order of the rows nor on the shards.
    ids = {candidate.example_id for candidate in found}
    backwards = [Candidate(0, n, c.example_id, c.source) for n, c in enumerate(candidates(40, 5))]
    dropped = choose(reversed(backwards), data)
    assert {c.example_id for c in backwards if c.row not in dropped[0]} == ids
    other, _ = kept((40, 5), data_of({"max_examples": 12}, {}, seed=1))
    assert {candidate.example_id for candidate in other} != ids


def test_a_larger_sample_contains_the_smaller_one():
    small, _ = kept((40,), data_of({"max_examples": 10}))
    large, _ = kept((40,), data_of({"max_examples": 20}))
    assert set(small) < set(large)


@pytest.mark.parametrize(
    ("counts", "weights", "wanted"),
    [
        ((30, 30), (1.0, 1.0), {0: 30, 1: 30}),
        ((30, 90), (1.0, 1.0), {0: 30, 1: 30}),
        ((30, 90), (1.0, 2.0), {0: 30, 1: 60}),
        ((30, 20), (0.75, 0.25), {0: 30, 1: 10}),
        ((30, 20, 11), (1.0, 1.0, 0.0), {0: 20, 1: 20, 2: 11}),
        ((30, 0, 20), (1.0, 1.0, 1.0), {0: 20, 2: 20}),
    ],
)
def test_mixtures_have_the_ratio_of_their_weights(counts, weights, wanted):
    found, _ = kept(counts, data_of(*({"weight": weight} for weight in weights)))
    assert sizes(found) == wanted


def test_a_mixture_counts_what_the_samples_left():
    data = data_of({"weight": 1.0, "max_examples": 8}, {"weight": 1.0})
    assert sizes(kept((30, 30), data)[0]) == {0: 8, 1: 8}


def test_the_first_of_equal_ids_stays():
    rows = [Candidate(0, n, example_id, 0) for n, example_id in enumerate("abacb")]
    dropped = choose(rows, data_of({}))
    assert sorted(dropped[0]) == [2, 4]
    assert dropped[0][2].reason == "duplicate"
    assert "example a before it" in dropped[0][2].detail


QUESTION = (
    "A warehouse holds 43 crates. Each crate contains 11 boxes. 34 boxes are removed for "
    "inspection, then 21 more full crates arrive. How many boxes are in the warehouse now, if no "
    "further crate arrives before the evening and nobody takes another one away from it?"
)


def signature(question, response="r", **keys):
    row = Row("a", 1, question=question, response=response)
    return signature_bytes(row, DataSection(near_duplicates=0.7, **keys))


def test_estimated_similarity_is_near_the_exact_one():
    """Standard error sqrt(J (1 - J) / 128) <= 0.045; 0.15 is more than three of them."""
    words = [str(n) for n in range(400)]
    for shared in (100, 200, 300):
        one, other = words[: 200 + shared // 2], words[200 - shared // 2 :]
        runs = [{" ".join(text[i : i + 5]) for i in range(len(text) - 4)} for text in (one, other)]
        exact = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        values = [np.frombuffer(signature(" ".join(t)), "<u4") for t in (one, other)]
        assert abs(float((values[0] == values[1]).mean()) - exact) < 0.15


def test_a_question_with_another_word_is_a_near_duplicate():
    similar = NearDuplicates(0.7)
    capital = "What is the capital of the country of which Rome is the capital?"
    assert similar.visit(0, signature(capital)) is None
    assert similar.visit(1, signature(QUESTION)) is None
    number, same = similar.visit(2, signature(QUESTION.replace("evening", "night")))
    assert (number, 0.7 <= same < 1) == (1, True)
    assert similar.visit(3, signature(QUESTION))[1] == 1
    assert similar.visit(4, signature("How many prime numbers are there below a hundred?")) is None


def test_texts_of_one_template_are_not_compared_with_all_of_them():
    """They resemble each other by 6 of 8 shingles, which is near 0.8 and less."""
    similar = NearDuplicates(0.85)
    questions = [f"What is the sum of the 17 numbers of list {number}?" for number in range(3000)]
    found = [similar.visit(number, signature(q)) for number, q in enumerate(questions)]
    kept = [number for number, repeated in enumerate(found) if repeated is None]
    assert len(kept) > 2000  # by the estimate's error some are taken for duplicates
    # Most have more than 500 others among their candidates, once there are so many.
    assert len(similar._numbers) == len(kept) - similar.num_crowded < 1500
    # Those that were remembered are found again.
    last = similar._numbers[-1]
    assert similar.visit(3000, signature(questions[last])) == (last, 1.0)


def test_what_is_compared_is_the_question_or_the_whole_example():
    assert signature(QUESTION, "one trace") == signature(QUESTION, "another trace")
    whole = [
        signature(QUESTION, response, near_duplicates_of="example")
        for response in ("one trace", "another trace")
    ]
    assert whole[0] != whole[1]
    assert signature_bytes(Row("a", 1, question=QUESTION), DataSection()) is None
    generated = Row("a", 1, question=QUESTION, is_generated=True)
    assert signature_bytes(generated, DataSection(near_duplicates=0.7)) is None


def test_near_duplicates_are_dropped_in_favour_of_the_first():
    texts = [QUESTION, "Something else is asked here.", QUESTION.replace("evening", "night")]
    rows = [Candidate(0, n, f"id{n}", 0, signature(text)) for n, text in enumerate(texts)]
    dropped = choose(rows, data_of({}, near_duplicates=0.7))
    assert list(dropped[0]) == [2]
    assert dropped[0][2].reason == "near_duplicate"
    assert "to example id0 before it" in dropped[0][2].detail
    assert choose(rows, data_of({})) == {}
