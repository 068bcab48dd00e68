"""Paired comparisons: who is compared with whom, and what is said of it."""

import pytest

from pipeline.artifacts import Manifest
from pipeline.comparisons import compare_all
from pipeline.report.data import Evaluation
from pipeline.seeds import baseline_of, compare_seeds, seed_groups


def evaluation(
    name: str,
    correct: list[bool],
    *,
    items: str = "held-out",
    steps: int = 64,
    seed: int = 0,
    recipe: str = "",
) -> Evaluation:
    rows = [
        {"task": "sudoku", "item_id": f"{items}-{number}", "correct": verdict}
        for number, verdict in enumerate(correct)
    ]
    metrics = {
        "checkpoint": {"seed": seed, "path": name}
        | ({"recipe_but_seed": recipe} if recipe else {}),
        "sampler": {"gen_length": 32, "steps": steps},
        "tasks": {"sudoku": {"accuracy": sum(correct) / len(correct)}},
    }
    manifest = Manifest(stage="evaluate", config={}, inputs={"items_sudoku": items})
    return Evaluation(name, manifest, metrics, rows)


def test_compare_all_pairs_by_item() -> None:
    sft = evaluation("sft", [True] * 8 + [False] * 8)
    weft = evaluation("weft", [True] * 14 + [False] * 2)
    weft.rows.reverse()  # the order of the rows must not matter
    base, found = compare_all([evaluation("base", [False] * 16), sft, weft], "sft")
    assert (base.method, found.method, found.baseline) == ("base", "weft", "sft")
    assert found.result is not None
    assert (found.result.only_first, found.result.only_second) == (6, 0)
    assert found.result.difference == 6 / 16
    assert found.result.p_value == pytest.approx(2 * 0.5**6)  # six discordant pairs, all one way
    assert found.verdict == "weft is better than sft by 37.5 points"
    assert base.verdict == "base is worse than sft by 50.0 points"


def test_compare_all_says_when_there_is_no_difference() -> None:
    sft, weft = (evaluation(name, [True, False, True]) for name in ("sft", "weft"))
    other = evaluation("weft-2", [True, True, True])
    same, similar = compare_all([sft, weft, other], "sft")
    assert same.verdict == "no difference: weft and sft are right on the same items"
    assert similar.verdict == "no difference shown on 3 items"  # so few never show one


def test_compare_all_keeps_item_sets_and_decoders_apart() -> None:
    evaluations = [
        evaluation("sft", [True, False]),
        evaluation("sft-benchmarks", [True, False], items="real"),
        evaluation("weft-benchmarks", [True, True], items="real"),
        evaluation("weft", [True, True], steps=32),
    ]
    found = {c.method: c for c in compare_all(evaluations, "sft")}
    assert found.keys() == {"weft", "weft-benchmarks"}
    assert found["weft-benchmarks"].baseline == "sft-benchmarks"
    assert found["weft"].verdict == "cannot be compared: decoded with steps 32 and 64"


def test_compare_all_refuses_rows_of_other_items() -> None:
    sft, weft = evaluation("sft", [True, False]), evaluation("weft", [True, False])
    weft.rows[0]["item_id"] = "another"
    (found,) = compare_all([sft, weft], "sft")
    assert found.verdict == (
        "cannot be compared: other items (1 only in the first (another), "
        "1 only in the second (held-out-0))"
    )


def test_compare_all_lists_the_items_that_the_baseline_does_not_have() -> None:
    sft = evaluation("sft", [True] * 6)
    weft = evaluation("weft", [True] * 2, items="held-out-2")
    found = {c.method: c.verdict for c in compare_all([sft, weft], "sft")}
    assert found == {
        "weft": "cannot be compared: sft ran on other items (2 only in the first (held-out-2-0, "
        "held-out-2-1), 6 only in the second (held-out-0, held-out-1, held-out-2 and 3 more))"
    }


def test_compare_all_corrects_over_the_tasks_of_a_pair() -> None:
    """0.03125 and 0.125 of two tasks: Holm doubles the smaller one, which then shows nothing."""
    runs = []
    for name, verdict in (("sft", False), ("weft", True)):
        run = evaluation(name, [verdict] * 6)
        other = [{"task": "countdown", "item_id": str(n), "correct": verdict} for n in range(4)]
        run.rows.extend(other)
        run.metrics["tasks"]["countdown"] = {"accuracy": float(verdict)}
        runs.append(run)
    found = {c.task: c for c in compare_all(runs, "sft")}
    assert [found[t].result.p_value for t in ("sudoku", "countdown")] == [2 / 2**6, 2 / 2**4]
    assert [found[t].p_corrected for t in ("sudoku", "countdown")] == [4 / 2**6, 4 / 2**6 * 2]
    assert found["sudoku"].verdict.startswith("no difference shown on 6 items")


def test_compare_all_without_baseline_says_so() -> None:
    (found,) = compare_all([evaluation("base", [True])], "sft")
    assert found.result is None
    assert found.verdict == "cannot be compared: nothing named sft ran on the same items"


def test_compare_all_prefers_the_baseline_of_the_same_seed() -> None:
    evaluations = [
        evaluation("sft", [True, False], seed=0),
        evaluation("sft-s1", [True, False], seed=1),
        evaluation("weft-s1", [True, True], seed=1),
    ]
    found = [(c.method, c.baseline) for c in compare_all(evaluations, "sft")]
    assert found == [("weft-s1", "sft-s1")]


def seeded() -> list[Evaluation]:
    """Two seeds of SFT and of WeFT; a third seed, a base model and another recipe beside them."""
    return [
        evaluation("weft-1", [True, True, True, False], seed=1, recipe="w"),
        evaluation("weft-0", [True, True, False, False], seed=0, recipe="w"),
        evaluation("sft-0", [True, False, False, False], seed=0, recipe="s"),
        evaluation("sft-1", [False, False, True, False], seed=1, recipe="s"),
        evaluation("sft-2", [True, True, True, True], seed=2, recipe="s"),
        evaluation("base", [False] * 4),
        evaluation("sft-high", [True] * 4, seed=0, recipe="another"),
    ]


def test_seed_groups_take_together_what_differs_in_the_seed_alone() -> None:
    sft, weft = seed_groups(seeded())
    assert (sft.label, list(sft.by_seed), sft.accuracies) == ("sft", [0, 1, 2], [0.25, 0.25, 1.0])
    assert (weft.label, list(weft.by_seed), weft.accuracies) == ("weft", [0, 1], [0.5, 0.75])


def test_compare_seeds_pairs_seeds_and_items() -> None:
    sft, weft = groups = seed_groups(seeded())
    assert baseline_of(weft, groups, "sft") is sft
    assert baseline_of(sft, groups, "sft") is None
    found = compare_seeds(weft, sft)
    assert found is not None
    # Seed 2 of SFT has no partner. Item by item, over seeds 0 and 1: 1/2, 1, 0, 0.
    assert (found.by_seed, found.difference) == ((0.25, 0.5), 0.375)
    assert 0 <= found.interval.low < found.difference < found.interval.high <= 1
    assert found.smallest is not None


def test_compare_seeds_needs_the_same_items_and_decoder() -> None:
    evaluations = [
        evaluation(f"{name}-{seed}", [True, False], items=items, steps=steps, seed=seed, recipe=r)
        for name, items, steps, r in (
            ("sft", "held-out", 64, "s"),
            ("weft", "real", 64, "w"),
            ("weft-slow", "held-out", 128, "w"),
        )
        for seed in (0, 1)
    ]
    groups = seed_groups(evaluations)
    assert [group.label for group in groups] == ["sft", "weft", "weft-slow"]
    assert all(baseline_of(group, groups, "sft") is None for group in groups)


def test_compare_seeds_without_a_common_seed_says_nothing() -> None:
    sft, weft = seed_groups(
        [evaluation(f"sft-{s}", [True], seed=s, recipe="s") for s in (0, 1)]
        + [evaluation(f"weft-{s}", [True], seed=s, recipe="w") for s in (2, 3)]
    )
    assert compare_seeds(weft, sft) is None
