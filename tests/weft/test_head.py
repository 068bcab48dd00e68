import pytest
import torch
import torch.nn.functional as F

from weft.head import masked_cross_entropy

N, D, V = 23, 6, 17


def problem():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, requires_grad=True)
    targets = torch.randint(0, V, (N,), generator=generator)
    coefficients = torch.rand(N, generator=generator)
    return hidden, weight, targets, coefficients


@pytest.mark.parametrize("chunk_size", [1, 5, 22, 23, 100])
def test_masked_cross_entropy_equals_the_dense_one_in_value_and_gradient(chunk_size):
    hidden, weight, targets, coefficients = problem()
    dense = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    expected = torch.autograd.grad((dense * coefficients).sum(), [hidden, weight])
    got = masked_cross_entropy(hidden, targets, lambda h: h @ weight.T, chunk_size=chunk_size)
    gradients = torch.autograd.grad((got * coefficients).sum(), [hidden, weight])
    # The same float32 arithmetic, in another order.
    assert torch.allclose(got, dense, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_masked_cross_entropy_by_hand():
    hidden = torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]])
    losses = masked_cross_entropy(hidden, torch.tensor([0, 1]), lambda h: h, chunk_size=8)
    assert torch.allclose(losses, torch.log(torch.tensor([2.0, 4 / 3])))


def test_masked_cross_entropy_keeps_no_logits_of_more_than_one_chunk():
    hidden, weight, targets, _ = problem()
    saved = []
    projected = []

    def project(rows):
        projected.append(rows.shape[0])
        return rows @ weight.T

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = masked_cross_entropy(hidden, targets, project, chunk_size=4)
    # Rows of hidden states and the weight may be kept; 4 rows of logits are already more than none.
    assert 4 * V not in saved
    assert sum(saved) <= N * D + V * D + 2 * N
    assert max(projected) == 4
    losses.sum().backward()
    assert sum(projected) == 2 * N


def test_masked_cross_entropy_is_float32_for_bfloat16_logits():
    hidden, weight, targets, _ = problem()
    losses = masked_cross_entropy(
        hidden.bfloat16(), targets, lambda h: h @ weight.bfloat16().T, chunk_size=7
    )
    assert losses.dtype == torch.float32


@pytest.mark.parametrize("chunk_size", [1, 8])
def test_masked_cross_entropy_of_no_rows_reaches_every_parameter(chunk_size):
    hidden, weight, targets, _ = problem()
    none = targets[:0]
    losses = masked_cross_entropy(hidden[:0], none, lambda h: h @ weight.T, chunk_size=chunk_size)
    losses.sum().backward()
    assert losses.shape == (0,)
    assert torch.equal(weight.grad, torch.zeros(V, D))
    assert torch.equal(hidden.grad, torch.zeros(N, D))


def test_masked_cross_entropy_refuses_an_empty_chunk():
    hidden, weight, targets, _ = problem()
    with pytest.raises(ValueError, match="chunk_size"):
        masked_cross_entropy(hidden, targets, lambda h: h @ weight.T, chunk_size=0)
