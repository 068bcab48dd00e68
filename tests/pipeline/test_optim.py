"""Which optimizer gets which parameter, schedules, and state that survives saving."""

import dataclasses
import json

import pytest
import torch

from pipeline.config import TrainSection
from pipeline.train.optim import Optimizers, build_optimizers
from weft.models import Denoiser
from weft.models.llada import llada_architecture
from weft.models.llada_config import LladaConfig

NUM_STEPS = 10


def small_denoiser() -> Denoiser:
    config = {
        "model_type": "llada",
        "d_model": 8,
        "n_layers": 2,
        "n_heads": 2,
        "mlp_hidden_size": 12,
        "vocab_size": 16,
        "max_sequence_length": 32,
        "rope_theta": 10000.0,
        "mask_token_id": 1,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    denoiser = llada_architecture(LladaConfig.from_json(config, "test")).build()
    denoiser.initialize(torch.Generator().manual_seed(0))
    return denoiser


def section(**changes: object) -> TrainSection:
    settings = {"warmup_steps": 4, "learning_rate": 0.01, "muon_learning_rate": 0.1} | changes
    return dataclasses.replace(TrainSection(), **settings)  # type: ignore[arg-type]


def built(model: Denoiser, **changes: object) -> Optimizers:
    return build_optimizers(model, section(**changes), NUM_STEPS)


def names_of(model: Denoiser, group: dict[str, object]) -> set[str]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}  # type: ignore[attr-defined]


def step(model: Denoiser, optimizers: Optimizers, number: int) -> None:
    """One update from gradients that are a function of the step's number alone."""
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizers.step()
    optimizers.zero_grad()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_belongs_to_one_group(optimizer: str) -> None:
    model = small_denoiser()
    groups = [g for o in built(model, optimizer=optimizer).optimizers for g in o.param_groups]
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


def test_muon_takes_the_matrices_of_the_blocks_only() -> None:
    model = small_denoiser()
    muon, adamw = built(model, optimizer="muon").optimizers
    assert isinstance(muon, torch.optim.Muon)
    taken = names_of(model, muon.param_groups[0])
    assert len(taken) == 2 * 7  # q, k, v, o, gate, up and down of each block
    assert all(name.startswith("blocks.") for name in taken)
    left = set.union(*(names_of(model, group) for group in adamw.param_groups))
    assert {"wte.weight", "ff_out.weight"} <= left


def test_norms_have_no_weight_decay() -> None:
    model = small_denoiser()
    decay = {
        name: group["weight_decay"]
        for group in built(model, weight_decay=0.3).optimizers[0].param_groups
        for name in names_of(model, group)
    }
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.3 if parameter.ndim == 2 else 0.0)


@pytest.mark.parametrize(
    ("schedule", "last"), [("linear", 1 / 6), ("cosine", 0.067), ("constant_with_warmup", 1.0)]
)
def test_schedules_warm_up_and_end_as_named(schedule: str, last: float) -> None:
    """Linear: (N - s) / (N - warm-up); cosine: (1 + cos(pi x)) / 2 at x = 5/6."""
    model = small_denoiser()
    optimizers = built(model, schedule=schedule)
    rates = []
    for number in range(NUM_STEPS):
        rates.append(optimizers.learning_rate)
        step(model, optimizers, number)
    assert rates[:5] == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01])
    assert rates[-1] == pytest.approx(0.01 * last, rel=1e-2)


def test_a_warm_up_longer_than_the_run_never_falls() -> None:
    model = small_denoiser()
    optimizers = built(model, warmup_steps=50)
    step(model, optimizers, 0)
    assert optimizers.learning_rate == pytest.approx(0.01 / NUM_STEPS)


def test_both_optimizers_follow_the_schedule() -> None:
    model = small_denoiser()
    optimizers = built(model, optimizer="muon")
    step(model, optimizers, 0)
    rates = [s.get_last_lr()[0] for s in optimizers.schedulers]
    assert rates == pytest.approx([0.1 / 4, 0.01 / 4])
    assert optimizers.learning_rate == pytest.approx(0.01 / 4)


def test_zero_grad_forgets_all_gradients() -> None:
    model = small_denoiser()
    optimizers = built(model, optimizer="muon")
    step(model, optimizers, 0)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_schedules_survive_json(optimizer: str) -> None:
    """All else that an optimizer keeps is a tensor; see the loop's test of a resumed run."""
    model, other = small_denoiser(), small_denoiser()
    optimizers, resumed = built(model, optimizer=optimizer), built(other, optimizer=optimizer)
    for number in range(3):
        step(model, optimizers, number)
    resumed.restore_schedules(json.loads(json.dumps(optimizers.schedules())))
    for number in range(3, 6):
        assert resumed.learning_rate == optimizers.learning_rate
        step(model, optimizers, number)
        step(other, resumed, number)


def test_state_of_another_kind_of_optimizer_is_refused() -> None:
    state = built(small_denoiser(), optimizer="muon").schedules()
    with pytest.raises(ValueError, match="zip"):
        built(small_denoiser()).restore_schedules(state)


def test_a_skipped_step_changes_the_learning_rate_alone() -> None:
    model = small_denoiser()
    optimizers = built(model)
    step(model, optimizers, 0)
    before = [p.clone() for p in model.parameters()]
    rate = optimizers.learning_rate
    optimizers.skip()
    assert optimizers.learning_rate > rate
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
