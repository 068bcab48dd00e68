"""Counting the memory of tensors while operations make and drop them."""

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALIGNMENT = 512
"""Bytes that the CUDA allocator rounds a tensor up to."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Under this mode, bytes of the tensors that operations have made and that are still there.

    Each storage counts once, however many tensors share it. Tensors without data
    (``FakeTensorMode``, entered before) count as if they had it.
    """

    def __init__(self) -> None:
        """Nothing is there yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Let the peak be what is there now."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // _ALIGNMENT) * _ALIGNMENT
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
