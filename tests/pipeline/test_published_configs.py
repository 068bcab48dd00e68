"""The configurations for published denoisers: sizes, names, memory, plan, and a narrow step."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.problems import random_training_data, trace_lengths
from benchmarks.published import PublishedName, write_published
from pipeline.config import RunConfig
from pipeline.config_checks import check_config
from pipeline.config_file import load_config
from pipeline.train.capacity import largest_shape, needed_bytes
from pipeline.train.loop import train
from pipeline.train.optim import build_optimizers
from pipeline.train.parallel import whole_state
from pipeline.train.plan import plan_of
from pipeline.train.start import start_denoiser
from pipeline.train.state import TrainState
from pipeline.train.world import World
from weft.models import meta_denoiser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS: dict[str, PublishedName] = {
    "llada8b_s1k_lora": "llada8b",
    "llada8b_s1k_full": "llada8b",
    "dream7b_s1k_lora": "dream7b",
    "a2d_qwen3_06b": "qwen3_06b",
}
GPU_BYTES = 80 * 10**9


def numbered(prefix: str, count: int, names: str) -> set[str]:
    return {f"{prefix}.{number}.{name}" for number in range(count) for name in names.split()}


LLAMA_NAMES = (
    "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.o_proj.weight mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight "
    "input_layernorm.weight post_attention_layernorm.weight"
)
KEYS: dict[str, set[str]] = {
    "llada8b": {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    | numbered(
        "model.transformer.blocks",
        32,
        "q_proj.weight k_proj.weight v_proj.weight attn_out.weight ff_proj.weight up_proj.weight "
        "ff_out.weight attn_norm.weight ff_norm.weight",
    ),
    "dream7b": {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    | numbered(
        "model.layers",
        28,
        LLAMA_NAMES + " self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias",
    ),
    "qwen3_06b": {"model.embed_tokens.weight", "model.norm.weight"}
    | numbered(
        "model.layers", 28, LLAMA_NAMES + " self_attn.q_norm.weight self_attn.k_norm.weight"
    ),
}
NUM_WEIGHTS = {"llada8b": 8_015_581_184, "dream7b": 7_615_616_512, "qwen3_06b": 596_049_920}


def with_model(name: str, path: str) -> RunConfig:
    config = load_config(CONFIGS / f"{name}.toml")
    check_config(config)
    model = dataclasses.replace(config.model, path=path, init="random")
    return dataclasses.replace(config, model=model)


@pytest.mark.parametrize("size", sorted(set(MODELS.values())))
def test_number_and_names_of_the_weights_are_the_published_ones(size, tmp_path) -> None:
    denoiser = meta_denoiser(write_published(tmp_path, size))
    assert sum(p.numel() for p in denoiser.parameters()) == NUM_WEIGHTS[size]
    assert set(denoiser.checkpoint_state()) == KEYS[size]


@pytest.mark.parametrize("name", MODELS)
def test_a_worker_fits_a_gpu_of_80_gb(name, tmp_path) -> None:
    config = with_model(name, write_published(tmp_path, MODELS[name]))
    shape = largest_shape(config, num_examples=1000, longest=config.data.max_length)
    assert 0.02 * GPU_BYTES < needed_bytes(config, shape) < GPU_BYTES


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_of_a_thousand_traces_is_even_and_within_the_budget(
    name, tmp_path, shared_data, monkeypatch
) -> None:
    monkeypatch.setenv("WEFT_SHARED_DATA", str(shared_data))
    config = with_model(name, write_published(tmp_path, MODELS[name]))
    lengths = trace_lengths(config.data.max_length)
    lengths = (lengths * math.ceil(1000 / len(lengths)))[:1000]
    plan = plan_of(config, random_training_data(lengths, vocab_size=8))
    world, budget = config.train.num_workers, config.train.micro_batch_tokens
    seen: list[int] = []
    for step in plan.epoch_steps(0):
        shares = [plan.micro_batches(step, rank, world, epoch=0) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        loads = [0] * world
        for rank, share in enumerate(shares):
            for group in share:
                tokens = sum(plan.canvas_length(0, index) for index in group)
                assert tokens <= budget or len(group) == 1
                loads[rank] += tokens
                seen += group
        # An example is not split, and so a long one may be more than a rank's even part.
        longest = max(plan.canvas_length(0, index) for index in step)
        assert max(loads) <= max(longest, 1.25 * sum(loads) / world)
    assert sorted(seen) == list(range(1000))


class Losses:
    def __init__(self) -> None:
        self.values: list[float] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.values.append(values["loss"])

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        pass


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone, which FSDP wants."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("alone")
def test_two_steps_of_a_narrow_network_change_what_is_to_be_trained(name, tmp_path) -> None:
    path = write_published(tmp_path, MODELS[name], num_layers=2, vocab_size=64, is_narrow=True)
    config = with_model(name, path)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, max_length=64, tail_max=4),
        train=dataclasses.replace(config.train, use_gpu=False, warmup_steps=0, log_every=1),
    )
    data = random_training_data([(5, 20), (3, 30)] * 16, vocab_size=64)
    torch.manual_seed(0)
    denoiser = start_denoiser(config, World())
    before = {k: v.clone() for k, v in whole_state(denoiser, World()).items()}
    state = TrainState(denoiser, build_optimizers(denoiser, config.train, 3))
    reporter = Losses()
    plan = plan_of(config, data)
    train(state, lambda step: data, plan, config, num_steps=2, world=World(), reporter=reporter)
    assert all(math.isfinite(loss) for loss in reporter.values)
    after = whole_state(denoiser, World())
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    named = denoiser.named_parameters(remove_duplicate=False)  # tied ones under both names
    trained = {name for name, p in named if p.requires_grad}
    assert changed == trained
    assert all((".lora_" in name) == config.lora.enabled for name in trained)
