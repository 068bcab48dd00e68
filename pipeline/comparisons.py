"""Which evaluations may be compared item by item, and what the comparison says in words."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from pipeline.report.data import Evaluation
from pipeline.statistics import (
    SIGNIFICANCE,
    PairedComparison,
    compare_items,
    holm,
    item_difference,
)

_DECODER_SETTINGS = (
    "engine",
    "prompt_style",
    "gen_length",
    "block_length",
    "steps",
    "temperature",
    "remasking",
    "cfg_scale",
    "threshold",
    "cache",
    "logits_eos_inf",
    "confidence_eos_eot_inf",
    "precision",
)
"""What two decodings must share; that one of them stopped early changes no verdict of ours."""


@dataclass(frozen=True)
class Comparison:
    """One evaluation against its baseline on one task; ``reason`` says why there is no result."""

    task: str
    method: str
    baseline: str
    result: PairedComparison | None
    reason: str = ""
    p_corrected: float = 1.0
    """Corrected (Holm) for the tasks on which the two are compared."""

    @property
    def verdict(self) -> str:
        """The outcome in plain words."""
        if self.result is None:
            return self.reason
        return _verdict(self.method, self.baseline, self.result, self.p_corrected)


def _verdict(method: str, baseline: str, result: PairedComparison, p_corrected: float) -> str:
    if result.only_first + result.only_second == 0:
        return f"no difference: {method} and {baseline} are right on the same items"
    if p_corrected >= SIGNIFICANCE:
        could = "" if result.smallest is None else f"; {100 * result.smallest:.1f} points would be"
        return f"no difference shown on {result.num_items} items{could}"
    word = "better" if result.difference > 0 else "worse"
    return f"{method} is {word} than {baseline} by {abs(100 * result.difference):.1f} points"


def compare_all(evaluations: list[Evaluation], baseline: str) -> list[Comparison]:
    """Every evaluation against the baseline of its group: those of one task on the same items.

    The baseline is an evaluation whose name starts with ``baseline``; of several, one that was
    decoded and seeded alike is taken before the one of exactly that name.
    """
    found = []
    for (task, _), group in _groups(evaluations).items():
        candidates = [e for e in group if is_named(e.name, baseline)]
        for evaluation in group:
            if not candidates:
                reason = _no_baseline(task, evaluation, evaluations, baseline)
                found.append(Comparison(task, evaluation.name, "-", None, reason))
                continue
            other = min(candidates, key=lambda c: _distance(c, evaluation, task, baseline))
            if other is not evaluation:
                found.append(_compare(task, evaluation, other))
    return _corrected(found)


def is_named(name: str, baseline: str) -> bool:
    """Whether the evaluation or recipe ``name`` is one of the ``baseline``, of whichever run."""
    return name.rpartition("/")[2].startswith(baseline)


def _corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With p-values corrected over the tasks of each pair of evaluations."""
    pairs: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, found in enumerate(comparisons):
        if found.result is not None:
            pairs[found.method, found.baseline].append(number)
    corrected = list(comparisons)
    for numbers in pairs.values():
        p_values = [r.p_value for n in numbers if (r := comparisons[n].result) is not None]
        for number, p in zip(numbers, holm(p_values), strict=True):
            corrected[number] = replace(comparisons[number], p_corrected=p)
    return corrected


def _no_baseline(
    task: str, evaluation: Evaluation, evaluations: list[Evaluation], baseline: str
) -> str:
    """Why ``evaluation`` is compared with nothing: no baseline, or one over other items."""
    others = [e for e in evaluations if is_named(e.name, baseline) and task in e.metrics["tasks"]]
    if not others:
        return f"cannot be compared: nothing named {baseline} ran on the same items"
    differing = item_difference(verdicts(evaluation, task), verdicts(others[0], task))
    what = differing or "the same ids, but other problems"
    return f"cannot be compared: {others[0].name} ran on other items ({what})"


def _groups(evaluations: list[Evaluation]) -> dict[tuple[str, str], list[Evaluation]]:
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        for task in evaluation.metrics["tasks"]:
            key = task, evaluation.items_identity(task)
            groups.setdefault(key, []).append(evaluation)
    return dict(sorted(groups.items(), key=lambda group: group[0][0]))


def _distance(
    candidate: Evaluation, evaluation: Evaluation, task: str, baseline: str
) -> tuple[bool, bool, bool, str]:
    seeds = [e.metrics["checkpoint"].get("seed") for e in (candidate, evaluation)]
    is_other_decoder = bool(_decoder_difference(candidate, evaluation, task))
    return is_other_decoder, seeds[0] != seeds[1], candidate.name != baseline, candidate.name


def decoder_settings(evaluation: Evaluation, task: str) -> dict[str, Any]:
    """The settings of decoding ``task`` that two evaluations must share to be compared."""
    own = evaluation.metrics["tasks"].get(task, {}).get("flags", {})
    sampler = evaluation.metrics["sampler"] | own
    return {name: sampler.get(name) for name in _DECODER_SETTINGS}


def _decoder_difference(first: Evaluation, second: Evaluation, task: str) -> str:
    a, b = decoder_settings(first, task), decoder_settings(second, task)
    return ", ".join(f"{name} {a[name]} and {b[name]}" for name in a if a[name] != b[name])


def _compare(task: str, evaluation: Evaluation, other: Evaluation) -> Comparison:
    names = task, evaluation.name, other.name
    difference = _decoder_difference(evaluation, other, task)
    if difference:
        return Comparison(*names, None, f"cannot be compared: decoded with {difference}")
    first, second = verdicts(evaluation, task), verdicts(other, task)
    if first.keys() != second.keys() or not first:
        differing = item_difference(first, second)
        return Comparison(*names, None, f"cannot be compared: other items ({differing})")
    return Comparison(*names, compare_items(first, second))


def verdicts(evaluation: Evaluation, task: str) -> dict[str, bool]:
    """Whether each item of ``task``, by its id, is right."""
    return {row["item_id"]: row["correct"] for row in evaluation.rows if row["task"] == task}
