"""The training loop on a small random denoiser: what must not change the result, does not."""

import dataclasses
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.config import RunConfig
from pipeline.errors import CheckpointError, ConfigError
from pipeline.train.checkpoints import restore_state, save_state
from pipeline.train.data import TrainingData
from pipeline.train.held_out import NELBO, HeldOut, choose_held_out
from pipeline.train.loop import train
from pipeline.train.optim import build_optimizers
from pipeline.train.parallel import shard, whole_state
from pipeline.train.plan import BatchPlan, as_lengths, plan_of
from pipeline.train.state import TrainState
from pipeline.train.world import World
from weft.models import Denoiser
from weft.models.llada import llada_architecture
from weft.models.llada_config import LladaConfig
from weft.models.lora import LoraSettings, add_lora

NUM_STEPS = 4


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.values.append(values)

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        pass

    def measured(self, step: int, values: dict[str, float]) -> None:
        pass


def small_denoiser() -> Denoiser:
    config = {
        "model_type": "llada",
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "mlp_hidden_size": 32,
        "vocab_size": 64,
        "max_sequence_length": 64,
        "rope_theta": 10000.0,
        "mask_token_id": 1,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    denoiser = llada_architecture(LladaConfig.from_json(config, "test")).build()
    denoiser.initialize(torch.Generator().manual_seed(0))
    return denoiser


def make_data(num_examples: int = 24) -> TrainingData:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(num_examples):
        response = [*rng.integers(2, 64, size=int(rng.integers(2, 12))).tolist(), 0]
        rows.append(
            {
                "example_id": f"example-{index}",
                "prompt_ids": rng.integers(2, 64, size=int(rng.integers(0, 6))).tolist(),
                "response_ids": response,
                "entropy": rng.uniform(0.1, 3.0, size=len(response)).tolist(),
                "tail_entropy": [0.1],
            }
        )
    lengths = np.array([len(r["prompt_ids"]) + len(r["response_ids"]) for r in rows])
    return TrainingData(rows, [r["example_id"] for r in rows], lengths, has_entropies=True)


def make_config(**changes: object) -> RunConfig:
    config = RunConfig()
    settings = {"batch_size": 8, "micro_batch_tokens": 4096, "warmup_steps": 1} | changes
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, tail_max=4, max_length=32),
        train=dataclasses.replace(config.train, **settings),  # type: ignore[arg-type]
    )


def new_state(config: RunConfig) -> TrainState:
    denoiser = small_denoiser()
    return TrainState(denoiser, build_optimizers(denoiser, config.train, NUM_STEPS))


def run(config: RunConfig, state: TrainState, *, stop: int = NUM_STEPS, world: World | None = None):
    data = make_data()
    plan = BatchPlan(
        example_ids=data.example_ids,
        lengths=as_lengths(data.lengths.tolist()),
        seed=0,
        eps=1e-3,
        stratified=True,
        batch_size=config.train.batch_size,
        micro_batch_tokens=config.train.micro_batch_tokens,
        is_packed=config.train.packing,
    )
    reporter = Silent()
    train(
        state,
        lambda step: data,
        plan,
        config,
        num_steps=stop,
        world=world or World(),
        reporter=reporter,
    )
    return reporter


def weights(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.denoiser.parameters()])


def same_bits(first: TrainState, second: TrainState) -> bool:
    return torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 4096])
def test_train_depends_neither_on_the_size_of_micro_batches_nor_on_packing(
    micro_batch_tokens: int, packing: bool
) -> None:
    """With a budget of one token, that is one example at a time."""
    config = make_config()
    whole, parts = new_state(config), new_state(config)
    run(config, whole)
    run(make_config(micro_batch_tokens=micro_batch_tokens, packing=packing), parts)
    # Sums of a few hundred float32 terms in another order; AdamW's first steps divide by the
    # gradient's own size, which passes a relative rounding of 1e-6 on to steps of 1e-3.
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-5)
    assert not torch.equal(weights(whole), weights(new_state(config)))


def test_a_diverged_step_ends_training_before_it_reaches_the_weights() -> None:
    state = new_state(make_config())
    with torch.no_grad():
        state.denoiser.ln_f.weight[0] = float("nan")
    before = weights(state)
    with pytest.raises(ConfigError, match=r"step 2: wanted a finite gradient norm, got nan.*lower"):
        run(make_config(max_skipped_steps=1), state)
    assert torch.equal(before.isnan(), weights(state).isnan())


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    config = make_config(log_every=1)
    state = new_state(config)
    steps, before = [0], [torch.empty(0)]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        before.append(weights(state))
        return gradient * float("nan") if steps[0] == 2 else gradient

    state.denoiser.get_parameter("ln_f.weight").register_hook(spoil)
    reporter = run(config, state)
    assert (state.num_skipped, state.step) == (1, NUM_STEPS)
    # before[k] are the weights that step k starts from: the second step left them as they were.
    assert torch.equal(before[3], before[2])
    assert not torch.equal(before[4], before[3])
    assert bool(weights(state).isfinite().all())
    assert [values["step"] for values in reporter.values] == [1.0, 3.0, 4.0]
    assert reporter.values[-1]["num_skipped"] == 1.0


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_gradients_are_clipped_to_their_global_norm(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(max_grad_norm=limit, log_every=1)
    state = new_state(config)
    parameters, stepped = list(state.denoiser.parameters()), []

    def step() -> None:
        norms = [p.grad.norm() for p in parameters if p.grad is not None]
        stepped.append(float(torch.stack(norms).norm()))

    monkeypatch.setattr(state.optimizers, "step", step)
    reported = [values["grad_norm"] for values in run(config, state).values]
    assert min(reported) > 0.01
    assert stepped == pytest.approx([0.01] * NUM_STEPS if limit else reported, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    config = make_config(optimizer=optimizer)
    whole = new_state(config)
    run(config, whole)
    interrupted = new_state(config)
    run(config, interrupted, stop=3)  # within the epoch's steps, and past the warm-up
    save_state(interrupted, tmp_path, "recipe")
    resumed = new_state(config)
    restore_state(resumed, tmp_path, "recipe")
    assert resumed.step == 3
    run(config, resumed)
    assert same_bits(resumed, whole)


def test_a_resumed_adapter_draws_the_same_dropout(tmp_path: Path) -> None:
    config = make_config(learning_rate=1e-2)

    def adapted() -> TrainState:
        denoiser = small_denoiser()
        settings = LoraSettings(rank=2, alpha=4, dropout=0.5)
        add_lora(denoiser, settings, generator=torch.Generator().manual_seed(0))
        return TrainState(denoiser, build_optimizers(denoiser, config.train, NUM_STEPS))

    whole, interrupted, resumed = adapted(), adapted(), adapted()
    run(config, whole)
    run(config, interrupted, stop=3)
    save_state(interrupted, tmp_path, "recipe")
    torch.manual_seed(1)  # another process has drawn other numbers
    before = torch.get_rng_state()
    restore_state(resumed, tmp_path, "recipe")
    run(config, resumed)
    assert same_bits(resumed, whole)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same_bits(whole, adapted())


def test_restore_state_refuses_another_configuration_and_damaged_files(tmp_path: Path) -> None:
    config = make_config()
    save_state(new_state(config), tmp_path, "one")
    with pytest.raises(CheckpointError, match="wanted a state of configuration two, got one"):
        restore_state(new_state(config), tmp_path, "two")
    for name in ("state.safetensors", "state.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        for content in (whole[:100], b"", b"not a checkpoint"):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="cannot be read"):
                restore_state(new_state(config), tmp_path, "one")
        path.write_bytes(whole)
    restore_state(new_state(config), tmp_path, "one")


def test_train_reports_finite_metrics_that_add_up() -> None:
    config = make_config(log_every=2)
    reporter = run(config, new_state(config))
    assert [values["step"] for values in reporter.values] == [2.0, 4.0]
    for values in reporter.values:
        assert all(np.isfinite(value) for value in values.values())
        assert 0 < values["mask_fraction"] < 1
        assert values["tokens"] > 16 * 3


def test_a_step_without_masked_tokens_changes_nothing_when_these_normalise() -> None:
    config = make_config(batch_size=1, log_every=1, weight_decay=0.0)
    config = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, normalizer="masked")
    )
    state = new_state(config)
    reporter = run(config, state, stop=24)
    empty = [values for values in reporter.values if values["mask_fraction"] == 0.0]
    assert empty
    assert all(values["loss"] == values["grad_norm"] == 0.0 for values in empty)
    assert bool(weights(state).isfinite().all())


def test_bfloat16_trains_float32_weights_to_nearly_the_same() -> None:
    exact, rounded = make_config(), make_config(precision="bfloat16")
    states = [new_state(config) for config in (exact, rounded)]
    losses = [run(c, s).values[-1]["loss"] for c, s in zip((exact, rounded), states, strict=True)]
    assert {p.dtype for p in states[1].denoiser.parameters()} == {torch.float32}
    assert not same_bits(*states)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_train_lowers_the_loss_of_a_problem_it_can_learn() -> None:
    config = make_config(learning_rate=1e-2, log_every=1)
    state = TrainState(small_denoiser(), build_optimizers(small_denoiser(), config.train, 60))
    state.optimizers = build_optimizers(state.denoiser, config.train, 60)
    reporter = run(config, state, stop=60)
    first = np.mean([values["nll"] for values in reporter.values[:6]])
    last = np.mean([values["nll"] for values in reporter.values[-6:]])
    assert last < 0.9 * first


def test_metrics_give_the_learning_rate_of_the_step() -> None:
    config = make_config(learning_rate=1e-2, warmup_steps=2, log_every=1)
    state = TrainState(small_denoiser(), build_optimizers(small_denoiser(), config.train, 4))
    found = [values["learning_rate"] for values in run(config, state).values]
    assert found == pytest.approx([0.0, 0.5e-2, 1e-2, 0.5e-2])


def with_held_out(config: RunConfig, world: World | None = None, **changes: object):
    """The measure on seven examples, the others, and ``config`` with all of it and ``changes``."""
    settings = {"held_out": 7, "held_out_every": 2, "held_out_draws": 3, "log_every": 100} | changes
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))
    data = make_data()
    is_held = choose_held_out(config, data.example_ids)
    measure = HeldOut(data.subset(is_held), config, world or World())
    return measure, data.subset(~is_held), config


def in_two_ranks(work: Callable[..., None], *args: object) -> None:
    """Run ``work(rank, world, *args)`` in two real processes that talk over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_in_rank, args=(port, work, args), nprocs=2)


def _in_rank(rank: int, port: int, work: Callable[..., None], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    work(rank, World(rank, 2), *args)
    dist.barrier()  # neither leaves while the other still exchanges something
    # A thread of gloo may be about to drop the last reference to a tensor, for which it wants
    # Python's lock: while an interpreter shuts down that aborts the process. So it does not.
    os._exit(0)


def sharded_state(config: RunConfig, world: World) -> TrainState:
    denoiser = small_denoiser()
    if config.train.parallelism == "fsdp":
        shard(denoiser, config.train, world)
    return TrainState(denoiser, build_optimizers(denoiser, config.train, NUM_STEPS))


COMPARED = ("loss", "nll", "grad_norm", "tokens", "mask_fraction", "clamp_rate")


def compared(reporter: Silent) -> torch.Tensor:
    """[steps, numbers]: what the loop says of each step."""
    return torch.tensor([[values[name] for name in COMPARED] for values in reporter.values])


def two_rank_config(batch_size: int, objective: str, **changes: object) -> RunConfig:
    """Several micro-batches a step; of a batch of 3 one rank's last one is empty."""
    config = make_config(
        batch_size=batch_size, micro_batch_tokens=5 * batch_size, log_every=1, **changes
    )
    section = dataclasses.replace(config.objective, name=objective)  # type: ignore[arg-type]
    return dataclasses.replace(config, objective=section)


def _train_in_rank(
    rank: int, world: World, parallelism: str, batch_size: int, objective: str, folder: str
) -> None:
    config = two_rank_config(batch_size, objective, parallelism=parallelism)
    state = sharded_state(config, world)
    first = run(config, state, stop=2, world=world)
    save_state(state, make_folder(folder, f"part-{rank}"), "recipe", world)
    second = run(config, state, world=world)
    # Of 40 tokens at a time there are several groups for each rank.
    measured = with_held_out(config, world, micro_batch_tokens=40)[0](state.denoiser)
    gathered = whole_state(state.denoiser, world)
    if rank == 0:
        names = [name for name, _ in state.denoiser.named_parameters()]
        both = {
            "weights": torch.cat([gathered[n].flatten() for n in names]),
            "metrics": torch.cat([compared(first), compared(second)]),
            "measured": torch.tensor(measured),
        }
        torch.save(both, Path(folder) / "whole.pt")
    # The same from the parts that both ranks wrote.
    dist.barrier()
    parts = make_folder(folder, f"all-{rank}")
    for path in Path(folder).glob("part-*/*"):
        shutil.copy(path, parts)
    resumed = sharded_state(config, world)
    restore_state(resumed, parts, "recipe")
    run(config, resumed, world=world)
    again = whole_state(resumed.denoiser, world)
    assert resumed.step == NUM_STEPS
    assert all(torch.equal(again[name], gathered[name]) for name in gathered)


def make_folder(*parts: str) -> Path:
    path = Path(*parts)
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("parallelism", "batch_size", "objective"),
    [
        *(("ddp", 8, "weft"), ("fsdp", 8, "weft"), ("ddp", 3, "weft"), ("fsdp", 3, "weft")),
        *(("ddp", 8, "lift"), ("fsdp", 8, "lift")),
    ],
)
def test_two_gloo_ranks_do_what_one_does(
    parallelism: str, batch_size: int, objective: str, tmp_path: Path
) -> None:
    """Also when they are resumed, and when one rank goes on with what two of them saved."""
    in_two_ranks(_train_in_rank, parallelism, batch_size, objective, str(tmp_path))
    config = two_rank_config(batch_size, objective)
    alone, resumed = new_state(config), new_state(config)
    reporter = run(config, alone)
    both = torch.load(tmp_path / "whole.pt", weights_only=True)
    restore_state(resumed, tmp_path / "all-0", "recipe")
    assert resumed.step == 2
    run(config, resumed)
    # Sums over ranks in another order; see the test of micro-batches.
    torch.testing.assert_close(both["metrics"], compared(reporter), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both["weights"], weights(alone), rtol=0, atol=2e-5)
    expected = with_held_out(config)[0](alone.denoiser)
    assert float(both["measured"]) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(weights(resumed), weights(alone), rtol=0, atol=2e-5)


def test_held_out_examples_are_a_choice_by_the_seed_of_the_data() -> None:
    config, ids = make_config(held_out=7), make_data().example_ids
    chosen = choose_held_out(config, ids)
    assert chosen.sum() == 7
    backwards = choose_held_out(config, ids[::-1])
    assert (backwards[::-1] == chosen).all()
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=1))
    assert (choose_held_out(other, ids) != chosen).any()
    # More of them are these and others.
    more = choose_held_out(make_config(held_out=9), ids)
    assert (more & chosen).sum() == 7


def test_a_subset_is_its_examples_wherever_they_lie() -> None:
    data = make_data()
    is_even = np.arange(24) % 2 == 0
    even = data.subset(is_even)
    assert [even.example(n).example_id for n in range(3)] == ["example-0", "example-2", "example-4"]
    last = even.subset(np.arange(12) == 11)
    assert (last.example(0).example_id, len(last)) == ("example-22", 1)
    assert last.lengths.tolist() == [data.lengths[22]]


@pytest.mark.parametrize("changes", [{"micro_batch_tokens": 40}, {"packing": True}])
def test_what_is_measured_depends_on_neither_seed_objective_nor_batches(changes) -> None:
    measure, _, config = with_held_out(make_config())
    denoiser = small_denoiser()
    wanted = measure(denoiser)
    other = dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, seed=5),
        rates=dataclasses.replace(config.rates, gamma=2.0),
        noise=dataclasses.replace(config.noise, eps=0.1),
        objective=dataclasses.replace(config.objective, name="dft", normalizer="masked"),
    )
    again, _, _ = with_held_out(other, **changes)
    assert again(denoiser) == pytest.approx(wanted, rel=1e-6)


def test_training_is_measured_when_it_is_due_and_changes_nothing_by_it() -> None:
    measure, data, config = with_held_out(make_config())
    plan = dataclasses.replace(plan_of(config, data), tail_max=0, max_length=config.data.max_length)
    states = [new_state(config), new_state(config)]
    reporter = Silent()
    for state, held_out in zip(states, (measure, None), strict=True):
        train(
            *(state, lambda step: data, plan, config),
            num_steps=3,
            world=World(),
            reporter=reporter if held_out else Silent(),
            held_out=held_out,
        )
    assert same_bits(*states)
    found = [(values["step"], values[NELBO]) for values in reporter.values if NELBO in values]
    assert [step for step, _ in found] == [2.0, 3.0]
    assert found[-1][1] == measure(states[0].denoiser)
    assert states[0].denoiser.training
    assert states[0].history == reporter.values
