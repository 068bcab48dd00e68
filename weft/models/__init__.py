"""Denoisers: loading, saving, and the interface that the method sees."""

from weft.models.base import Denoiser
from weft.models.checkpoints import (
    load_denoiser,
    load_tokenizer,
    meta_denoiser,
    random_denoiser,
    read_architecture,
    resolve_checkpoint,
    save_denoiser,
)

__all__ = [
    "Denoiser",
    "load_denoiser",
    "load_tokenizer",
    "meta_denoiser",
    "random_denoiser",
    "read_architecture",
    "resolve_checkpoint",
    "save_denoiser",
]
