"""Sizes of memory, for people."""


def size_text(num_bytes: float) -> str:
    """``num_bytes`` as text: ``5.3 MiB``, ``20.4 GiB``."""
    mib = num_bytes / 2**20
    return f"{mib:,.1f} MiB" if mib < 1024 else f"{mib / 1024:,.1f} GiB"
