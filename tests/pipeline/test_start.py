"""What training starts from and what it leaves, for each way of loading and adapting."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from benchmarks.published import write_published
from pipeline.config import LoraSection, ModelSection, RunConfig
from pipeline.config_checks import check_config
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models import check_trainable
from pipeline.train.parallel import whole_state
from pipeline.train.start import meta_start, require_weights, save_result, start_denoiser
from pipeline.train.worker import agreed
from pipeline.train.world import World
from tests.pipeline.test_loop import in_two_ranks
from weft.models import load_denoiser, load_tokenizer, random_denoiser, save_denoiser
from weft.models.lora import LoraSettings, add_lora, save_adapter


def make_config(path: object, *, init: str = "random", lora: object = None, **train: object):
    config = RunConfig()
    return dataclasses.replace(
        config,
        model=ModelSection(path=str(path), init=init),  # type: ignore[arg-type]
        train=dataclasses.replace(config.train, **train),  # type: ignore[arg-type]
        lora=lora or LoraSection(),
    )


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """A ``config.json`` without weights."""
    folder = tmp_path / "sizes"
    write_published(folder, "qwen3_06b", num_layers=2, vocab_size=64, is_narrow=True)
    return folder


@pytest.fixture
def checkpoint(sizes: Path, tmp_path: Path) -> Path:
    denoiser = random_denoiser(str(sizes), generator=torch.Generator().manual_seed(0))
    save_denoiser(denoiser, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path) | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "pure_bfloat16"])
def test_random_weights_have_rotary_frequencies_in_float32(sizes: Path, precision: str) -> None:
    denoiser = start_denoiser(make_config(sizes, precision=precision), World())
    wanted = random_denoiser(str(sizes), generator=torch.Generator())
    assert torch.equal(denoiser.rotary.inv_freq, wanted.rotary.inv_freq)
    low = precision == "pure_bfloat16"
    assert {p.dtype for p in denoiser.parameters()} == {torch.bfloat16 if low else torch.float32}


def test_a_random_start_needs_no_weights_to_be_saved(sizes: Path, tmp_path: Path) -> None:
    config = make_config(sizes)
    denoiser = start_denoiser(config, World())
    save_result(denoiser, tmp_path / "result", config, World())
    loaded = load_denoiser(str(tmp_path / "result"))
    assert torch.equal(loaded.ff_out.weight, denoiser.ff_out.weight)


def test_an_adapter_is_not_trained_further(checkpoint: Path, tmp_path: Path) -> None:
    denoiser, settings = load_denoiser(str(checkpoint)), LoraSettings(rank=2, alpha=4)
    add_lora(denoiser, settings, generator=torch.Generator())
    save_adapter(denoiser, tmp_path / "adapter", settings=settings, base=str(checkpoint))
    with pytest.raises(ConfigError, match=r"is a LoRA adapter, .* jobs/merge\.py"):
        check_trainable(make_config(tmp_path / "adapter", init="pretrained"))


def test_packing_is_refused_where_attention_knows_no_documents(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 512}))
    load_tokenizer("tiny").save_pretrained(tmp_path)
    check_trainable(make_config(tmp_path))
    with pytest.raises(ConfigError, match=r"train\.packing: the attention of"):
        check_trainable(make_config(tmp_path, packing=True))


def test_lora_targets_that_do_not_exist_are_a_users_error(checkpoint: Path) -> None:
    lora = LoraSection(enabled=True, target_modules=("attn_out",))
    with pytest.raises(ConfigError, match=r"lora\.target_modules: wanted some of .*o_proj"):
        meta_start(make_config(checkpoint, init="pretrained", lora=lora))


def test_an_adapter_of_random_weights_is_refused(sizes: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.enabled: an adapter of random weights"):
        check_config(make_config(sizes, lora=LoraSection(enabled=True)))


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone, which FSDP wants."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("alone")
def test_spread_weights_are_those_of_the_checkpoint(checkpoint: Path, dtype: torch.dtype) -> None:
    """In float32 whatever they are stored in, and with the tied output layer stored or not."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = make_config(checkpoint, init="pretrained", parallelism="fsdp")
    require_weights(config)
    found = whole_state(start_denoiser(config, World()), World())
    wanted = load_denoiser(str(checkpoint)).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.usefixtures("alone")
def test_a_spread_adapter_starts_as_one_that_is_not(checkpoint: Path) -> None:
    """Its first matrices come from the run's seed, wherever their parts lie."""
    lora = LoraSection(enabled=True, rank=2, alpha=4)
    start = {
        way: start_denoiser(
            make_config(
                checkpoint, init="pretrained", lora=lora, parallelism=way, precision="bfloat16"
            ),
            World(),
        )
        for way in ("ddp", "fsdp")
    }
    whole, spread = (whole_state(denoiser, World()) for denoiser in start.values())
    assert whole.keys() == spread.keys()
    assert all(torch.equal(whole[name], spread[name]) for name in whole)
    assert {t.dtype for n, t in whole.items() if ".lora_" in n} == {torch.float32}
    assert {t.dtype for n, t in whole.items() if ".lora_" not in n} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__norm__weight": None}, r"missing \['model\.norm\.weight'\]"),
        ({"model__norm__weight": torch.ones(3)}, r"model\.norm\.weight wanted \[32\] got \[3\]"),
        ({"lm_head__weight": torch.ones(64, 32)}, r"left over \['lm_head\.weight'\]"),
    ],
)
def test_weights_that_do_not_fit_are_found_before_any_rank_waits(
    checkpoint: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change_weights(checkpoint, **changes)
    config = make_config(checkpoint, init="pretrained", parallelism="fsdp")
    with pytest.raises(CheckpointError, match=message):
        require_weights(config)


def _agree(rank: int, world: World, folder: str) -> None:
    def fail() -> int:
        if rank == 1:
            raise ConfigError("rank 1 cannot")
        return rank

    with pytest.raises(ConfigError) as caught:
        agreed(fail, world)
    found = f"{caught.value}, {agreed(lambda: rank, world)}"
    (Path(folder) / str(rank)).write_text(found)


def test_what_one_rank_cannot_do_is_an_error_of_all(tmp_path: Path) -> None:
    in_two_ranks(_agree, str(tmp_path))
    found = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert found == ["rank 1 cannot, 0", "rank 1 cannot, 1"]
