"""The negative ELBO of plain masked diffusion: one measure for denoisers of any objective."""

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.batch import Batch
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.noise import example_generator
from weft.step import denoising_step

PLAIN = MethodConfig(gamma=0, normalizer="tokens")


def even_levels(seed: int, draw: int, example_ids: Sequence[str], *, eps: float) -> Tensor:
    """Noise levels of N examples, one in each of N equal parts of ``(eps, 1)`` -> [N] float32.

    Which example has which part is drawn, and so is the place within the parts, the same in all of
    them: each level is uniform, and their mean nearly that of the interval. The same for the same
    ``seed``, ``draw`` and ids.
    """
    generator = example_generator(seed, draw, "", "held_out")
    num = len(example_ids)
    places = torch.randperm(num, generator=generator).double()
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    return (eps + (1.0 - eps) * (places + offset) / num).float()


@torch.no_grad()
def nelbo_sums(
    denoiser: Denoiser, batch: Batch, *, chunk_rows: int = 8192, packed: bool = False
) -> tuple[Tensor, Tensor]:
    """``(sum, count)``: ``sum_i m_i / t * nll_i`` in nats, and the maskable tokens: [] each.

    Over draws of the batch's noise the quotient of the totals is the negative ELBO a token, an
    upper bound of the negative log-likelihood. Both add up over batches and ranks. Source: LLaDA
    (arXiv 2502.09992), equation 4; MDLM (arXiv 2406.07524). The denoiser's mode is left as it is:
    switch dropout off before.
    """
    sums = denoising_step(denoiser, batch, PLAIN, chunk_rows=chunk_rows, packed=packed)
    return sums.loss_sum, sums.normalizer_count
