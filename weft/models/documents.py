"""Several sequences one behind another in one row, none of which sees the others."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where the documents of a row of T tokens lie."""

    lengths: tuple[int, ...]
    """Tokens of each; none is empty."""
    starts: Tensor
    """[N + 1] int32: where each begins, and T."""
    positions: Tensor
    """[1, T] int64: each token's place in its own document."""

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Documents":
        """Those that the rows of ``attention_mask`` [B, L] make without their padding."""
        lengths = attention_mask.sum(dim=1)
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        return cls(
            lengths=tuple(lengths.tolist()),
            starts=F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
            positions=places.expand_as(attention_mask)[attention_mask][None],
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]  # each call has other documents
def document_attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, *, scale: float | None
) -> Tensor:
    """Attention within each document, in both directions: [1, H, T, D] -> [1, T, H, D].

    ``key`` and ``value`` may have fewer heads than ``query``. On a GPU one kernel does all
    documents (flash attention, which wants 16 bits); elsewhere they are done one by one.
    """
    is_grouped = key.shape[1] != query.shape[1]
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        starts, longest = documents.starts, max(documents.lengths)
        q, k, v = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
        found = varlen_attn(
            *(q, k, v, starts, starts, longest, longest), scale=scale, enable_gqa=is_grouped
        )
        assert isinstance(found, Tensor)
        return found.unsqueeze(0)
    parts = (torch.split(part, list(documents.lengths), dim=2) for part in (query, key, value))
    outputs = [
        F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)
