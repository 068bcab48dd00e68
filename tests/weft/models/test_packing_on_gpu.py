"""Packed attention on a GPU, one kernel for all documents: equal to each document alone."""

import pytest
import torch

from weft.models.documents import Documents, document_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

LENGTHS = [70, 1, 300, 129]


def projections(num_heads, num_kv_heads):
    generator = torch.Generator("cuda").manual_seed(0)
    heads = (num_heads, num_kv_heads, num_kv_heads)
    return [
        torch.randn(
            (1, n, sum(LENGTHS), 64), generator=generator, device="cuda", dtype=torch.bfloat16
        ).requires_grad_()
        for n in heads
    ]


@pytest.mark.parametrize("num_kv_heads", [8, 2])
def test_value_and_gradients_equal_those_of_the_documents_one_by_one(num_kv_heads):
    longest = max(LENGTHS)
    mask = torch.arange(longest, device="cuda") < torch.tensor(LENGTHS, device="cuda")[:, None]
    documents = Documents.of(mask)
    packed = projections(8, num_kv_heads)
    found = document_attention(*packed, documents, scale=0.2)
    found.float().square().sum().backward()
    alone = projections(8, num_kv_heads)
    wanted = document_attention(*(p.float() for p in alone), documents, scale=0.2)
    wanted.square().sum().backward()
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)
    for one, other in zip(packed, alone, strict=True):
        difference = (one.grad - other.grad).float().norm()
        assert float(difference) <= 2e-2 * float(other.grad.float().norm())
