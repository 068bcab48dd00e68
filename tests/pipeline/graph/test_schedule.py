"""When steps start, and what becomes of those behind one that failed."""

import pytest

from pipeline.config import JobSection, RunConfig
from pipeline.graph.schedule import Schedule
from pipeline.graph.steps import Step

BEFORE = {"a": (), "b": ("a",), "c": ("a",), "d": ("b",), "e": ("c", "d"), "f": ()}


def schedule_of(**changes: int) -> Schedule:
    section, config = JobSection(stage="train"), RunConfig()
    steps = [Step(name, section, config, after) for name, after in BEFORE.items()]
    return Schedule.of(steps, **changes)


def ready(schedule: Schedule) -> list[str]:
    return [step.name for step in schedule.ready()]


def statuses(schedule: Schedule) -> dict[str, str]:
    return {name: one.status for name, one in schedule.progress.items()}


def test_independent_steps_are_ready_together_and_others_behind_theirs() -> None:
    schedule = schedule_of()
    assert ready(schedule) == ["a", "f"]
    schedule.mark("a", "running")
    assert ready(schedule) == ["f"]
    schedule.mark("a", "finished")
    schedule.mark("f", "skipped")
    assert ready(schedule) == ["b", "c"]
    for name in "bcde":
        assert not schedule.is_over
        schedule.mark(name, "finished")
    assert schedule.is_over
    assert schedule.succeeded


@pytest.mark.parametrize("fault", ["failed", "stopped"])
def test_a_failure_blocks_its_dependants_alone(fault: str) -> None:
    schedule = schedule_of()
    for name in "acf":
        schedule.mark(name, "finished")
    schedule.mark("b", "running")
    schedule.mark("b", fault)  # type: ignore[arg-type]
    blocked = {"d": "blocked", "e": "blocked"}
    assert statuses(schedule) == dict.fromkeys("acf", "finished") | {"b": fault} | blocked
    assert schedule.progress["e"].note == "waits for d"
    assert schedule.is_over
    assert not schedule.succeeded


def test_no_more_at_a_time_than_asked_for() -> None:
    schedule = schedule_of(max_parallel=1)
    assert ready(schedule) == ["a"]
    schedule.mark("a", "running")
    assert ready(schedule) == []
    schedule.mark("a", "finished")
    assert ready(schedule) == ["b"]


def test_what_is_left_out_of_the_graph_is_not_waited_for() -> None:
    steps = [one.step for one in schedule_of().progress.values() if one.step.name in "bd"]
    schedule = Schedule.of(steps)
    assert ready(schedule) == ["b"]


def test_time_runs_from_the_start_to_the_end_of_a_step() -> None:
    schedule = schedule_of()
    assert schedule.progress["a"].seconds() is None
    schedule.mark("a", "running")
    assert schedule.progress["a"].seconds() is not None
    schedule.mark("a", "failed")
    assert schedule.progress["a"].seconds() == schedule.progress["a"].seconds()
