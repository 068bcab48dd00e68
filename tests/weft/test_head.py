import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from weft.head import Head, rows_within, weighted_cross_entropy

N, D, V = 23, 6, 17


def problem():
    """Hidden states, weight and bias as leaves; targets; weights of the rows."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator) for shape in ((N, D), (V, D), (V,))]
    targets = torch.randint(0, V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator)
    return [leaf.requires_grad_() for leaf in leaves], targets, weights


def dense(leaves, targets, weights):
    """The sum with all logits at once, and the losses of the rows."""
    nll = F.cross_entropy(F.linear(*leaves).float(), targets, reduction="none")
    return (nll * weights).sum(), nll


def chunked(leaves, targets, weights, chunk_size):
    hidden, weight, bias = leaves
    return weighted_cross_entropy(
        hidden, targets, weights, Head(weight, bias), chunk_size=chunk_size
    )


@pytest.mark.parametrize("chunk_size", [1, 5, 22, 23, 100])
def test_value_and_gradient_equal_those_of_the_dense_cross_entropy(chunk_size):
    leaves, targets, weights = problem()
    expected, expected_nll = dense(leaves, targets, weights)
    loss_sum, nll = chunked(leaves, targets, weights, chunk_size)
    # The same float32 arithmetic, in another order.
    assert torch.allclose(nll, expected_nll, rtol=1e-5, atol=1e-6)
    assert torch.allclose(loss_sum, expected, rtol=1e-5)
    wanted = torch.autograd.grad(expected / 7, leaves)
    for got, want in zip(torch.autograd.grad(loss_sum / 7, leaves), wanted, strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)


def test_without_gradients_none_is_computed(monkeypatch):
    leaves, targets, weights = problem()
    expected, _ = dense(leaves, targets, weights)
    monkeypatch.setattr("weft.head._Gradients.add", lambda *args: pytest.fail("a gradient"))
    with torch.no_grad():
        loss_sum, _ = chunked(leaves, targets, weights, 5)
    assert torch.allclose(loss_sum, expected, rtol=1e-5)
    assert not loss_sum.requires_grad


@pytest.mark.parametrize("chunk_size", [5, 100])
def test_by_probability_multiplies_each_weight_by_a_constant(chunk_size):
    leaves, targets, weights = problem()
    hidden, weight, bias = leaves
    nll = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
    expected = (weights * torch.exp(-nll).detach() * nll).sum()
    before = weights.clone()
    loss_sum, _ = weighted_cross_entropy(
        hidden, targets, weights, Head(weight, bias), chunk_size=chunk_size, by_probability=True
    )
    assert torch.equal(weights, before)
    assert torch.allclose(loss_sum, expected, rtol=1e-5)
    wanted = torch.autograd.grad(expected, leaves)
    for got, want in zip(torch.autograd.grad(loss_sum, leaves), wanted, strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)


def test_by_hand():
    hidden = torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]], requires_grad=True)
    loss_sum, nll = weighted_cross_entropy(
        hidden, torch.tensor([0, 1]), torch.tensor([1.0, 4.0]), Head(torch.eye(2)), chunk_size=8
    )
    assert torch.allclose(nll, torch.log(torch.tensor([2.0, 4 / 3])))
    assert torch.allclose(loss_sum, torch.log(torch.tensor(2.0 * (4 / 3) ** 4)))
    loss_sum.backward()
    assert torch.allclose(hidden.grad, torch.tensor([[-0.5, 0.5], [1.0, -1.0]]))


class LargestTensor(TorchDispatchMode):
    """The largest number of elements that any operation puts out."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor):
                self.num_elements = max(self.num_elements, part.numel())
        return result


def test_there_are_never_more_logits_than_of_one_chunk():
    leaves, targets, weights = problem()
    with LargestTensor() as largest:
        chunked(leaves, targets, weights, 9)[0].backward()
    # Inputs and their gradients are smaller than 9 rows of logits, which are smaller than all.
    assert largest.num_elements == 9 * V > max(leaf.numel() for leaf in leaves)


def test_logits_of_a_chunk_are_computed_once():
    leaves, targets, weights = problem()
    with torch.profiler.profile() as profile:
        chunked(leaves, targets, weights, 8)[0].backward()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::linear"] == 3


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_what_is_wanted_gets_a_gradient(wanted):
    leaves, targets, weights = problem()
    expected = torch.autograd.grad(dense(leaves, targets, weights)[0], leaves)[wanted]
    for number, leaf in enumerate(leaves):
        leaf.requires_grad_(number == wanted)
    loss_sum, _ = chunked(leaves, targets, weights, 5)
    loss_sum.backward()
    assert torch.allclose(leaves[wanted].grad, expected, rtol=1e-5, atol=1e-6)
    assert all(leaf.grad is None for n, leaf in enumerate(leaves) if n != wanted)


def test_without_gradients_there_is_only_a_value():
    leaves, targets, weights = problem()
    with torch.no_grad():
        loss_sum, nll = chunked(leaves, targets, weights, 5)
    assert torch.allclose(loss_sum, dense(leaves, targets, weights)[0])
    assert not loss_sum.requires_grad
    assert not nll.requires_grad


def test_losses_carry_no_gradient():
    leaves, targets, weights = problem()
    assert not chunked(leaves, targets, weights, 5)[1].requires_grad


def test_a_second_gradient_is_refused_rather_than_wrong():
    leaves, targets, weights = problem()
    loss_sum, _ = chunked(leaves, targets, weights, 5)
    loss_sum.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss_sum.backward()


@pytest.mark.parametrize("is_automatic", [True, False])
def test_bfloat16_stays_near_float32(is_automatic):
    """Losses and sums are float32, gradients come in the dtype of their leaves."""
    leaves, targets, weights = problem()
    wanted = torch.autograd.grad(dense(leaves, targets, weights)[0], leaves)
    if not is_automatic:
        leaves = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_automatic):
        loss_sum, nll = chunked(leaves, targets, weights, 5)
    assert loss_sum.dtype == nll.dtype == torch.float32
    for leaf, got, want in zip(leaves, torch.autograd.grad(loss_sum, leaves), wanted, strict=True):
        assert got.dtype == leaf.dtype
        # bfloat16 keeps 8 bits; sums of about ten such products.
        assert float((got - want).norm() / want.norm()) < 0.02


def test_a_token_that_is_nearly_certain_keeps_its_gradient_in_bfloat16():
    """Probability 1 - 1e-4 is 1 in bfloat16; the difference to the target must not be."""
    hidden = torch.tensor([[9.21]]).bfloat16().requires_grad_()
    weight = torch.tensor([[1.0], [0.0]]).bfloat16()
    loss_sum, _ = weighted_cross_entropy(
        hidden, torch.tensor([0]), torch.ones(1), Head(weight), chunk_size=1
    )
    loss_sum.backward()
    expected = -1 / (1 + float(hidden.detach().float().exp()))
    assert float(hidden.grad) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("chunk_size", [1, 8])
def test_no_rows_reach_every_parameter(chunk_size):
    leaves, targets, weights = problem()
    none = [leaves[0][:0], *leaves[1:]]
    loss_sum, nll = chunked(none, targets[:0], weights[:0], chunk_size)
    loss_sum.backward()
    assert nll.shape == (0,)
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in leaves)


def test_an_empty_chunk_is_refused():
    leaves, targets, weights = problem()
    with pytest.raises(ValueError, match="chunk_size"):
        chunked(leaves, targets, weights, 0)


def test_rows_within_a_budget():
    # LLaDA's vocabulary: 4 x 126,464 bytes a row
    assert rows_within(128, 126464) == 265
    assert rows_within(1, 2**20) == 1
