"""Decoding with a masked diffusion denoiser."""

from weft.decode_settings import DecodeSettings
from weft.sampling.canvas import Decoded, Request
from weft.sampling.decoder import Generation, decode, generate

__all__ = ["DecodeSettings", "Decoded", "Generation", "Request", "decode", "generate"]
