"""The denoiser, and what WeFT does with it: rates, noise, objective, reference entropies."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.base import RESOURCE, STRICT


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The denoiser that is fine-tuned."""

    __pydantic_config__ = STRICT

    path: str = "tiny"
    """Folder or hub name of a checkpoint; tiny is the embedded denoiser."""
    init: Literal["pretrained", "random"] = "pretrained"
    """random: keep the architecture and tokenizer of path, draw the weights anew."""
    trust_remote_code: bool = False
    """Whether code that came with a checkpoint may run; nothing built in needs it."""


@dataclass(frozen=True, kw_only=True)
class RatesSection:
    """From reference entropies to masking rates (method.md, "Terms")."""

    __pydantic_config__ = STRICT

    gamma: float = 0.5
    """Exponent of the entropy; 0 is plain SFT."""
    beta_ref: Literal["sequence", "batch", "dataset"] = "sequence"
    """Scope of the mean rate that every rate is divided by."""
    rate_min: float = 0.1
    """Lower clamp of the relative rate."""
    rate_max: float = 10.0
    """Upper clamp of the relative rate."""
    tail: Literal["one", "entropy"] = "one"
    """Rate of the tail EOS tokens: 1 and outside beta_ref, or by the formula."""
    entropies: Literal["frozen", "refreshed", "online"] = "frozen"
    """frozen: read from the reference artifact; refreshed: from it at first, then recomputed beside
    the training; online: recomputed at each step (the paper)."""
    refresh_unit: Literal["epochs", "steps"] = "epochs"
    """What the two keys below count: epochs, or optimizer steps (refreshed)."""
    refresh_every: int = 1
    """Entropies are recomputed with the weights after every so many (refreshed)."""
    refresh_lag: int = 1
    """From those weights on so many pass until their entropies are used (refreshed)."""


@dataclass(frozen=True, kw_only=True)
class NoiseSection:
    """The noise level t of each example."""

    __pydantic_config__ = STRICT

    eps: float = 1e-3
    """Smallest noise level: t is uniform on (eps, 1)."""
    stratified: bool = True
    """Compose every optimizer step of evenly spread noise levels."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSection:
    """Masks, weights and normaliser of the loss."""

    __pydantic_config__ = STRICT

    name: Literal["weft", "token_weights", "dft", "cart", "lift"] = "weft"
    """weft: masks by the rates, SFT with gamma 0; token_weights: plain masks, the rates as weights;
    dft, cart, lift: plain masks without rates, see docs/method.md."""
    weighting: Literal["paper", "elbo", "partial"] = "paper"
    """Weight of a masked token (weft): 1/t_i, the exact ELBO weight, or 1/t_i**alpha."""
    alpha: float = 0.5
    """Exponent of the weighting partial."""
    cart_p: float = 0.1
    """Decay of cart's weight with the distance of visible tokens."""
    normalizer: Literal["tokens", "sequence", "masked"] = "tokens"
    """What the summed loss of an optimizer step is divided by."""


@dataclass(frozen=True, kw_only=True)
class ReferenceSection:
    """The frozen pass that yields the entropies (stage reference)."""

    __pydantic_config__ = STRICT

    name: str = field(default="entropies", metadata=RESOURCE)
    """Folder of the entropies under run.output_dir."""

    checkpoint: str = ""
    """Reference model; empty means model.path."""
    estimator: Literal["full_mask", "expected", "nll", "autoregressive"] = "full_mask"
    """full_mask: one pass (the paper); expected: mean over noise levels; nll: surprisal;
    autoregressive: next-token entropies of a model with the same tokenizer, by vLLM."""
    num_levels: int = 4
    """Passes of the estimator expected."""
    tail: int = 8
    """Further EOS positions masked behind the response in the reference pass."""
    top_logprobs: int = 20
    """Most likely tokens that an autoregressive entropy is computed from; others are bounded."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; entropies are float32 in any case."""
    batch_tokens: int = field(default=16384, metadata=RESOURCE)
    """Token budget of one forward pass, padding included unless packed."""
    packing: bool = field(default=False, metadata=RESOURCE)
    """Take padding out before the network runs; attention stays within each example."""
    head_chunk_mib: int = field(default=128, metadata=RESOURCE)
    """Logits held at once, in MiB of float32."""
    max_rejected: int = field(default=10, metadata=RESOURCE)
    """Examples that may have no finite entropies, and are left out of training."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Model replicas."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one actor."""
    num_gpus: float = field(default=0.0, metadata=RESOURCE)
    """GPUs of one actor."""
