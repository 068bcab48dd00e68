"""The memory estimate: closed forms, a counted step, and the refusal of what does not fit."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.problems import random_training_data
from benchmarks.published import write_published
from pipeline.config import LoraSection, ModelSection, RunConfig
from pipeline.errors import ConfigError
from pipeline.train.capacity import (
    RESERVES,
    check_memory,
    largest_shape,
    largest_tokens,
    main_memory,
    needed_bytes,
    on_workers,
    require_fits,
)
from pipeline.train.estimate import describe_training
from pipeline.train.live_bytes import LiveBytes
from pipeline.train.loop import train
from pipeline.train.memory import Shape, step_memory
from pipeline.train.micro_batches import packed_cost, padded_cost
from pipeline.train.optim import build_optimizers
from pipeline.train.plan import plan_of
from pipeline.train.start import start_denoiser
from pipeline.train.state import TrainState
from pipeline.train.world import World

SHAPE = Shape(num_tokens=512, row_length=128, accumulates=True)


def test_live_bytes_count_each_storage_once_and_let_go_of_it() -> None:
    with LiveBytes() as live:
        first = torch.empty(1000)
        assert live.now == 4096  # rounded up to 512
        view = first.view(10, 100).T
        first += 1
        assert live.now == 4096
        second = view + 1
        assert (live.now, live.peak) == (8192, 8192)
        del second
        assert (live.now, live.peak) == (4096, 8192)
        live.restart()
        assert live.peak == 4096
        del first
        assert live.now == 4096  # the view is still there
        del view
        assert live.now == 0


def make_config(folder: Path, *, is_lora: bool = False, **changes: object) -> RunConfig:
    path = write_published(folder, "llada8b", num_layers=3, vocab_size=2048, is_narrow=True)
    config = RunConfig()
    settings = {
        "batch_size": 8,
        "micro_batch_tokens": 512,
        "warmup_steps": 1,
        "head_chunk_mib": 1,
    } | changes
    return dataclasses.replace(
        config,
        model=ModelSection(path=path, init="random"),
        data=dataclasses.replace(config.data, tail_max=0, max_length=128),
        train=dataclasses.replace(config.train, **settings),  # type: ignore[arg-type]
        lora=LoraSection(enabled=is_lora, rank=4, alpha=8),
    )


# Two matrices of 2048 x 32; blocks of 4 x 32 x 32, 3 x 32 x 48 and two norms; a norm.
NUM_WEIGHTS = 2 * 2048 * 32 + 3 * (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32
NUM_ADAPTER = 3 * 3 * 2 * 4 * 32
ROUNDING = 60 * 512


@pytest.mark.parametrize(
    ("changes", "weights", "trained", "moments"),
    [
        ({}, 4 * NUM_WEIGHTS, 4 * NUM_WEIGHTS, 2),
        ({"precision": "bfloat16"}, 4 * NUM_WEIGHTS, 4 * NUM_WEIGHTS, 2),
        ({"precision": "pure_bfloat16"}, 2 * NUM_WEIGHTS, 2 * NUM_WEIGHTS, 2),
        ({"is_lora": True}, 4 * (NUM_WEIGHTS + NUM_ADAPTER), 4 * NUM_ADAPTER, 2),
        (
            {"is_lora": True, "precision": "bfloat16"},
            2 * NUM_WEIGHTS + 4 * NUM_ADAPTER,
            4 * NUM_ADAPTER,
            2,
        ),
    ],
)
def test_weights_gradients_and_moments_are_those_of_the_precision(
    changes, weights, trained, moments, tmp_path
) -> None:
    memory = step_memory(make_config(tmp_path, **changes), SHAPE)
    assert memory.weights == pytest.approx(weights, abs=ROUNDING)
    assert memory.gradients == pytest.approx(trained, abs=ROUNDING)
    assert memory.optimizer == pytest.approx(moments * trained, abs=3 * ROUNDING)


def test_muon_keeps_one_moment_of_the_matrices_in_the_blocks(tmp_path) -> None:
    both, one = (
        step_memory(make_config(tmp_path, optimizer=name), SHAPE) for name in ("adamw", "muon")
    )
    matrices = 3 * (4 * 32 * 32 + 3 * 32 * 48)
    assert both.optimizer - one.optimizer == pytest.approx(4 * matrices, abs=ROUNDING)


def counted_peak(config: RunConfig) -> int:
    """Of the real loop, every micro-batch about as large as it may be, and padded."""
    lengths = [(1, 127 - number) for number in range(config.train.batch_size)]
    data = random_training_data(lengths, vocab_size=2048)
    with LiveBytes() as live:
        denoiser = start_denoiser(config, World())
        state = TrainState(denoiser, build_optimizers(denoiser, config.train, 2))
        plan = plan_of(config, data)
        live.restart()
        train(state, lambda step: data, plan, config, num_steps=2, world=World(), reporter=Silent())
    return live.peak


class Silent:
    def metrics(self, step: int, values: dict[str, float]) -> None:
        pass

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch_tokens": 1024},
        {"micro_batch_tokens": 1024, "gradient_checkpointing": True},
        {"precision": "bfloat16"},
        {"precision": "pure_bfloat16", "packing": True},
        {"precision": "bfloat16", "is_lora": True},
        {"packing": True, "optimizer": "muon"},
    ],
)
def test_the_estimate_is_within_a_tenth_of_a_counted_run(changes, tmp_path) -> None:
    config = make_config(tmp_path, **changes)
    shape = largest_shape(config, config.train.batch_size, 128)
    assert shape.num_tokens == config.train.micro_batch_tokens
    assert step_memory(config, shape).peak == pytest.approx(counted_peak(config), rel=0.1)


def test_checkpointing_keeps_one_width_a_block_and_token(tmp_path) -> None:
    plain, spared = (
        step_memory(make_config(tmp_path, gradient_checkpointing=flag), SHAPE)
        for flag in (False, True)
    )
    assert spared.activations < 0.6 * plain.activations
    assert (spared.weights, spared.optimizer) == (plain.weights, plain.optimizer)


def test_spread_weights_are_shared_by_the_workers(tmp_path) -> None:
    def of(num_workers: int) -> int:
        config = make_config(tmp_path, parallelism="fsdp", num_workers=num_workers)
        memory = step_memory(config, SHAPE)
        return memory.weights + memory.gradients + memory.optimizer

    assert of(2) == pytest.approx(of(1) / 2, rel=0.01)
    assert of(8) == pytest.approx(of(1) / 8, rel=0.01)


def test_what_cannot_fit_is_refused_with_the_largest_micro_batch_that_would(tmp_path) -> None:
    config = make_config(tmp_path, micro_batch_tokens=1024)
    shape = largest_shape(config, 64, 128)
    limit = needed_bytes(config, dataclasses.replace(shape, num_tokens=640))
    require_fits(config, dataclasses.replace(shape, num_tokens=640), limit, "a device")
    with pytest.raises(ConfigError, match=r"micro_batch_tokens: 1024 tokens needs .* a device"):
        require_fits(config, shape, limit, "a device")
    most = largest_tokens(config, shape, limit)
    assert most is not None
    assert 640 - (1024 - 128) // 32 <= most <= 640
    require_fits(config, dataclasses.replace(shape, num_tokens=most), limit, "a device")


def test_a_single_example_that_cannot_fit_is_refused_with_what_would_help(tmp_path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(
        ConfigError, match=r"one example of 128 alone is too large; try train\.grad"
    ):
        require_fits(config, SHAPE, RESERVES["cpu"], "a device")


def test_the_setting_or_else_the_machine_says_what_is_there(tmp_path) -> None:
    cpu = torch.device("cpu")
    check_memory(make_config(tmp_path), SHAPE, cpu, num_workers=1)
    with pytest.raises(ConfigError, match=r"of train\.device_memory_gib"):
        check_memory(make_config(tmp_path, device_memory_gib=0.01), SHAPE, cpu, num_workers=1)
    too_many = main_memory() // RESERVES["cpu"] + 1
    with pytest.raises(ConfigError, match=f"one of the {too_many} workers of this machine"):
        check_memory(make_config(tmp_path), SHAPE, cpu, num_workers=too_many)


def test_padding_that_is_trained_is_not_packed_away(tmp_path) -> None:
    """Under pad_to_batch a micro-batch of one long and many short examples is mostly EOS."""
    config = make_config(tmp_path, packing=True)
    data = random_training_data([(1, 127)] + [(1, 9)] * 40, vocab_size=2048)
    padded = dataclasses.replace(config.data, eos_policy="pad_to_batch")
    for section, cost in ((config.data, packed_cost), (padded, padded_cost)):
        plan = plan_of(dataclasses.replace(config, data=section), data)
        groups = plan.micro_batches(range(41), 0, 1, epoch=0)
        assert max(cost([int(data.lengths[i]) for i in group]) for group in groups) <= 512


@pytest.mark.parametrize(
    ("num_examples", "longest", "changes", "wanted"),
    [
        (64, 60, {}, Shape(480, 60, accumulates=False)),  # 8 examples a step
        (64, 128, {}, Shape(512, 128, accumulates=True)),
        (64, 100, {"micro_batch_tokens": 50}, Shape(100, 100, accumulates=True)),
        (64, 100, {"num_workers": 4}, Shape(200, 100, accumulates=False)),
        (2, 100, {}, Shape(200, 100, accumulates=False)),
    ],
)
def test_the_largest_micro_batch_follows_from_the_plan(
    num_examples, longest, changes, wanted, tmp_path
) -> None:
    assert largest_shape(make_config(tmp_path, **changes), num_examples, longest) == wanted


def test_fewer_workers_need_more_memory_and_are_asked_for_it_before_the_start(
    tmp_path: Path,
) -> None:
    config = make_config(tmp_path, parallelism="fsdp", num_workers=8, min_workers=1)
    fewer = on_workers(config, 1)
    most, least = (
        needed_bytes(one, largest_shape(one, 64, config.data.max_length)) for one in (fewer, config)
    )
    assert least < most
    train = dataclasses.replace(config.train, device_memory_gib=(least + most) / 2**31)
    steady = dataclasses.replace(config, train=dataclasses.replace(train, min_workers=0))
    assert "at the peak" in describe_training(steady, 64, "prepared")
    config = dataclasses.replace(config, train=train)
    with pytest.raises(ConfigError, match=r"train\.device_memory_gib"):
        describe_training(config, 64, "prepared")
