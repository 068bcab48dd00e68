"""Decoding with a masked diffusion denoiser."""

from weft.sampling.llada import Generation, generate

__all__ = ["Generation", "generate"]
