"""Fine-tuning, of all weights or of an adapter."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.base import RESOURCE, STRICT


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Fine-tuning (stage train)."""

    __pydantic_config__ = STRICT

    name: str = field(default="weft", metadata=RESOURCE)
    """Folder of the checkpoint under checkpoints/."""
    epochs: int = 10
    """Passes over the data, unless max_steps ends training sooner."""
    max_steps: int = 0
    """Optimizer steps at most; 0 means no limit."""
    batch_size: int = 64
    """Examples of one optimizer step, over all workers and micro-batches."""
    micro_batch_tokens: int = field(default=4096, metadata=RESOURCE)
    """Token budget of one forward and backward pass, padding included unless packed."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: torch.optim.Muon for the matrices of the blocks, AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    beta1: float = 0.9
    """AdamW's first moment decay."""
    beta2: float = 0.95
    """AdamW's second moment decay."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; norms have none."""
    max_grad_norm: float = 1.0
    """Clipping of the global gradient norm; 0 turns it off."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning-rate schedule after the warm-up."""
    warmup_steps: int = 20
    """Optimizer steps of linear warm-up."""
    precision: Literal["float32", "bfloat16", "pure_bfloat16"] = "float32"
    """bfloat16: computed in it, trained weights kept in float32; pure_bfloat16: all of it."""
    packing: bool = field(default=False, metadata=RESOURCE)
    """Take padding out before the network runs; attention stays within each example."""
    head_chunk_mib: int = field(default=128, metadata=RESOURCE)
    """Logits held at once in the loss, in MiB of float32."""
    gradient_checkpointing: bool = field(default=False, metadata=RESOURCE)
    """Recompute the activations of each block in the backward pass."""
    parallelism: Literal["ddp", "fsdp"] = field(default="ddp", metadata=RESOURCE)
    """ddp: each worker has all weights; fsdp: they are spread over the workers (FSDP2)."""
    cpu_offload: bool = field(default=False, metadata=RESOURCE)
    """Under fsdp on GPUs: weights, gradients and optimizer state stay in main memory."""
    compile: bool = field(default=False, metadata=RESOURCE)
    """Compile the blocks with torch.compile."""
    num_workers: int = field(default=1, metadata=RESOURCE)
    """Data-parallel workers."""
    min_workers: int = field(default=0, metadata=RESOURCE)
    """Go on with no fewer while machines are missing, up to num_workers; 0: wait for all."""
    resize_every_s: float = field(default=60.0, metadata=RESOURCE)
    """With min_workers: seconds between looks for room for more; a change goes back to the last
    saved state."""
    cpus_per_worker: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one worker."""
    use_gpu: bool = field(default=False, metadata=RESOURCE)
    """One GPU for each worker."""
    device_memory_gib: float = field(default=0.0, metadata=RESOURCE)
    """Memory that a worker may use; a run that needs more is refused. 0: all that there is."""
    checkpoint_every: int = field(default=200, metadata=RESOURCE)
    """Optimizer steps between checkpoints to resume from."""
    export_every: int = field(default=0, metadata=RESOURCE)
    """Optimizer steps between checkpoints that are kept, to evaluate or measure; 0: none."""
    log_every: int = field(default=10, metadata=RESOURCE)
    """Optimizer steps between logged metrics."""
    held_out: int = 0
    """Examples kept out of training, a choice by data.seed, on which its NELBO is measured."""
    held_out_every: int = field(default=0, metadata=RESOURCE)
    """Optimizer steps between such measures; 0: at the end only."""
    held_out_draws: int = field(default=1, metadata=RESOURCE)
    """Draws of noise for each held-out example."""
    max_skipped_steps: int = field(default=10, metadata=RESOURCE)
    """Steps of a run that may be skipped because their gradient is not finite."""
    max_failures: int = field(default=3, metadata=RESOURCE)
    """How often a broken worker group is started again."""


@dataclass(frozen=True, kw_only=True)
class LoraSection:
    """A LoRA adapter instead of all weights; the sizes are those of d1's recipe."""

    __pydantic_config__ = STRICT

    enabled: bool = False
    """Train an adapter, and save it alone."""
    rank: int = 128
    """Rank of the two matrices of an adapted layer."""
    alpha: int = 256
    """Their product is scaled by alpha / rank."""
    dropout: float = 0.05
    """Dropout before the first matrix, while training."""
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of adapted layers; empty: query, key and value projections."""
