"""Denoisers: loading, saving, and the interface that the method sees."""

from weft.models.base import Denoiser
from weft.models.checkpoints import (
    EMBEDDED,
    load_denoiser,
    load_tokenizer,
    meta_denoiser,
    random_denoiser,
    read_architecture,
    resolve_checkpoint,
    save_denoiser,
)

__all__ = [
    "EMBEDDED",
    "Denoiser",
    "load_denoiser",
    "load_tokenizer",
    "meta_denoiser",
    "random_denoiser",
    "read_architecture",
    "resolve_checkpoint",
    "save_denoiser",
]
