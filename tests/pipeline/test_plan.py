"""The batch plan: what belongs to a step, and how ranks and micro-batches share it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.train.micro_batches import packed_cost, padded_cost, share_step
from pipeline.train.plan import BatchPlan, as_lengths, check_world_size, total_steps
from weft.batch import Example, collate
from weft.noise import noise_levels

EPS = 1e-3


def make_plan(lengths: list[int], **changes: object) -> BatchPlan:
    plan = BatchPlan(
        example_ids=[f"example-{index}" for index in range(len(lengths))],
        lengths=as_lengths(lengths),
        seed=0,
        eps=EPS,
        stratified=True,
        batch_size=8,
        micro_batch_tokens=64,
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


some_lengths = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@given(
    lengths=some_lengths,
    batch_size=st.integers(1, 70),
    epoch=st.integers(0, 3),
    stratified=st.booleans(),
)
def test_an_epoch_has_every_example_once_in_steps_of_even_size(
    lengths: list[int], batch_size: int, epoch: int, stratified: bool
) -> None:
    plan = make_plan(lengths, batch_size=batch_size, stratified=stratified)
    steps = plan.epoch_steps(epoch)
    assert sorted(index for step in steps for index in step) == list(range(len(lengths)))
    sizes = [len(step) for step in steps]
    assert len(steps) == plan.steps_per_epoch
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(
    lengths=some_lengths,
    world_size=st.integers(1, 5),
    budget=st.integers(1, 300),
    is_packed=st.booleans(),
)
def test_ranks_partition_a_step_and_keep_the_token_budget(
    lengths: list[int], world_size: int, budget: int, is_packed: bool
) -> None:
    plan = make_plan(
        lengths, batch_size=len(lengths), micro_batch_tokens=budget, is_packed=is_packed
    )
    (step,) = plan.epoch_steps(0)
    shares = [plan.micro_batches(step, rank, world_size, epoch=0) for rank in range(world_size)]
    everything = [index for batches in shares for batch in batches for index in batch]
    assert sorted(everything) == sorted(step)
    assert len({len(batches) for batches in shares}) == 1
    cost = packed_cost if is_packed else padded_cost
    groups = [batch for batches in shares for batch in batches]
    for batch in groups:
        assert len(batch) <= 1 or cost([lengths[index] for index in batch]) <= budget
    # Empty ones fill up the last round alone.
    assert sum(not batch for batch in groups) < world_size or len(lengths) < world_size


@given(lengths=some_lengths, world_size=st.integers(1, 5), is_packed=st.booleans())
def test_ranks_get_nearly_the_same_number_of_tokens(
    lengths: list[int], world_size: int, is_packed: bool
) -> None:
    """Any two ranks differ by at most the dearest micro-batch: of packed ones, by an example."""
    plan = make_plan(lengths, batch_size=len(lengths), is_packed=is_packed)
    (step,) = plan.epoch_steps(0)
    shares = [plan.micro_batches(step, rank, world_size, epoch=0) for rank in range(world_size)]
    cost = packed_cost if is_packed else padded_cost
    costs = [[cost([lengths[i] for i in b]) if b else 0 for b in own] for own in shares]
    loads = [sum(own) for own in costs]
    allowed = max(lengths) if is_packed else max(map(max, costs))
    assert max(loads) - min(loads) <= allowed


@pytest.mark.parametrize(
    ("is_packed", "expected"),
    [
        # Two ranks, a budget of 64: 3 x 20 and 6 x 10 padded; 90 and 30 tokens would be too many.
        (False, [[[0, 1, 2]], [[3, 4, 5, 6, 7, 8]]]),
        (True, [[[0, 2, 5, 7]], [[1, 3, 4, 6, 8]]]),
    ],
)
def test_a_step_by_hand(is_packed: bool, expected: list[list[list[int]]]) -> None:
    lengths = dict(enumerate([20, 20, 20, 10, 10, 10, 10, 10, 10]))
    found = share_step(lengths, world_size=2, budget=64, is_packed=is_packed)
    assert [[sorted(batch) for batch in own] for own in found] == expected


def test_groups_are_cut_evenly_rather_than_filled_to_the_budget() -> None:
    """Twelve equal examples over two ranks: six each, although a budget of ten would fit."""
    found = share_step(dict.fromkeys(range(12), 10), world_size=2, budget=100, is_packed=False)
    assert [[len(batch) for batch in own] for own in found] == [[6], [6]]


def test_fewer_examples_than_ranks_leave_some_micro_batches_empty() -> None:
    found = share_step({0: 9, 1: 9, 2: 9}, world_size=2, budget=9, is_packed=True)
    assert sorted(map(len, found)) == [2, 2]
    assert sorted(len(batch) for own in found for batch in own) == [0, 1, 1, 1]


@pytest.mark.parametrize("epoch", [0, 3])
def test_canvas_lengths_are_those_of_the_batches(epoch: int) -> None:
    """The plan knows each example's random tail before the example is read."""
    examples = [Example(f"example-{n}", [5] * (n % 4), [*[7] * (n % 9), 0]) for n in range(40)]
    lengths = [len(e.prompt_ids) + len(e.response_ids) for e in examples]
    plan = make_plan(lengths, tail_max=12, max_length=16)
    found = [plan.canvas_length(epoch, index) for index in range(len(examples))]
    settings = {"eos_policy": "random_tail", "tail_max": 12, "max_length": 16, "eos_token_id": 0}
    batches = [collate([e], seed=0, epoch=epoch, eps=EPS, **settings) for e in examples]
    assert found == [batch.input_ids.shape[1] for batch in batches]
    assert max(found) == 16
    assert len({tail - length for tail, length in zip(found, lengths, strict=True)}) > 8


def test_random_tails_count_towards_the_token_budget() -> None:
    plan = make_plan([10] * 60, batch_size=60, tail_max=50, max_length=60)
    (step,) = plan.epoch_steps(1)
    batches = plan.micro_batches(step, 0, 1, epoch=1)
    padded = [
        len(batch) * max(plan.canvas_length(1, index) for index in batch) for batch in batches
    ]
    assert max(padded) <= 64
    assert max(map(len, batches)) > 1


def test_micro_batches_do_not_depend_on_the_order_within_a_step() -> None:
    plan = make_plan([5, 9, 9, 2, 7, 7, 7, 1])
    step = list(range(8))
    assert plan.micro_batches(step, 0, 2, epoch=0) == plan.micro_batches(step[::-1], 0, 2, epoch=0)


@pytest.mark.parametrize("stratified", [True, False])
def test_epochs_and_seeds_compose_steps_anew(stratified: bool) -> None:
    plan = make_plan([1] * 40, stratified=stratified)
    assert plan.epoch_steps(0) == plan.epoch_steps(0)
    assert plan.epoch_steps(0) != plan.epoch_steps(1)
    assert plan.epoch_steps(0) != dataclasses.replace(plan, seed=1).epoch_steps(0)


def test_a_stratified_step_has_one_level_of_each_quantile() -> None:
    plan = make_plan([1] * 64)
    levels = noise_levels(0, 2, plan.example_ids, eps=EPS)
    stratum = levels.argsort().argsort() // plan.steps_per_epoch
    for step in plan.epoch_steps(2):
        assert sorted(stratum[step].tolist()) == list(range(8))


def test_check_world_size_names_the_setting_when_a_worker_would_idle() -> None:
    check_world_size(9, batch_size=4, world_size=3)  # steps of 3
    with pytest.raises(ConfigError, match=r"train\.batch_size.*at least 4 examples, got 3.*lower"):
        check_world_size(9, batch_size=4, world_size=4)


@pytest.mark.parametrize(("epochs", "limit", "wanted"), [(3, 0, 30), (3, 12, 12), (1, 12, 10)])
def test_total_steps_is_limited_by_max_steps(epochs: int, limit: int, wanted: int) -> None:
    assert total_steps(10, epochs, limit) == wanted
