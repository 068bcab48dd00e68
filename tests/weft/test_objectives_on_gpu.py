"""Every objective on a GPU: the loss, the gradient and the measure that a CPU computes."""

import pytest
import torch

from benchmarks.problems import Sizes, random_examples, random_llada
from weft.batch import collate
from weft.method_config import MethodConfig
from weft.nelbo import nelbo_sums
from weft.step import denoising_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SIZES = Sizes(width=64, num_layers=2, num_heads=4, vocab_size=300)
METHODS = {
    "sft": MethodConfig(gamma=0),
    "paper": MethodConfig(),
    "elbo": MethodConfig(weighting="elbo"),
    "partial": MethodConfig(weighting="partial"),
    "online": MethodConfig(entropies="online"),
    "online-nll": MethodConfig(entropies="online", online_estimator="nll"),
    "token_weights": MethodConfig(objective="token_weights"),
    "dft": MethodConfig(objective="dft"),
    "cart": MethodConfig(objective="cart"),
    "lift": MethodConfig(objective="lift"),
}


def problem(device):
    denoiser = random_llada(SIZES, max_length=128).to(device)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(4)  # else all predictions are alike, and so are the objectives
    batch = collate(
        random_examples([(5, 40), (9, 70), (3, 20), (7, 90)], vocab_size=300),
        seed=0,
        epoch=0,
        eps=1e-3,
        eos_policy="random_tail",
        tail_max=8,
        max_length=128,
        eos_token_id=0,
    )
    batch.noise_level = torch.tensor([[0.1], [0.4], [0.6], [0.9]])
    return denoiser, batch.to(torch.device(device))


def step_on(device, method):
    denoiser, batch = problem(device)
    sums = denoising_step(denoiser, batch, method)
    sums.loss_sum.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in denoiser.parameters()])
    return sums.metric_sums(), gradient


@pytest.mark.parametrize("name", METHODS)
def test_loss_counts_and_gradient_equal_those_of_a_cpu(name):
    found, gradient = step_on("cuda", METHODS[name])
    wanted, expected = step_on("cpu", METHODS[name])
    for key, value in wanted.items():
        torch.testing.assert_close(found[key].cpu(), value, rtol=1e-4, atol=1e-4)
    assert float((gradient - expected).norm()) <= 1e-3 * float(expected.norm())


def test_held_out_nelbo_equals_that_of_a_cpu():
    totals = {device: nelbo_sums(*problem(device)) for device in ("cuda", "cpu")}
    torch.testing.assert_close(totals["cuda"][0].cpu(), totals["cpu"][0], rtol=1e-4, atol=1e-4)
    assert int(totals["cuda"][1]) == int(totals["cpu"][1])


def test_packed_bfloat16_is_near_the_loss_in_float32():
    """As an 8B model trains: packed attention and half-precision blocks."""
    denoiser, batch = problem("cuda")
    wanted = denoising_step(denoiser, batch, METHODS["paper"]).loss_sum
    denoiser.cast(torch.bfloat16)
    found = denoising_step(denoiser, batch, METHODS["paper"], packed=True).loss_sum
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=0.0)
