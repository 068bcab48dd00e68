"""How an optimizer step is cut into forward and backward passes, and these shared among ranks.

Pure functions of lengths: no rank asks another. All ranks get the same number of micro-batches, for
with weights spread over ranks every one of them is a common effort.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence

Group = list[int]
Cost = Callable[[Sequence[int]], int]
"""Lengths of the examples of a micro-batch -> tokens that it computes."""


def padded_cost(lengths: Sequence[int]) -> int:
    """Tokens of examples that are padded to their longest."""
    return max(lengths) * len(lengths)


def packed_cost(lengths: Sequence[int]) -> int:
    """Tokens of examples that stand one behind another."""
    return sum(lengths)


def share_step(
    lengths: Mapping[int, int], *, world_size: int, budget: int, is_packed: bool
) -> list[list[Group]]:
    """Micro-batches of every rank: each example of ``lengths`` once, lists of equal length.

    A micro-batch costs at most ``budget`` tokens, padding included, unless it is one example that
    is longer. The fewest that this allows, a multiple of ``world_size``, as even in cost as groups
    of similar length (padded) or any groups (packed) can be. Where there are fewer examples than
    ranks to fill, some micro-batches are empty.
    """
    order = sorted(lengths, key=lambda index: (-lengths[index], index))
    sizes = [lengths[index] for index in order]
    least = len(_runs(sizes, budget))
    if is_packed:
        least = -(-sum(min(size, budget) for size in sizes) // budget)
    num_groups = -(-least // world_size) * world_size
    split = _packed if is_packed else _padded
    cost = packed_cost if is_packed else padded_cost
    while True:
        groups = split(order, lengths, num_groups)
        costs = [cost([lengths[i] for i in group]) for group in groups if len(group) > 1]
        if not costs or max(costs) <= budget:
            break
        num_groups += world_size
    return _deal(groups, lengths, cost, world_size)


def _padded(order: Sequence[int], lengths: Mapping[int, int], num_groups: int) -> list[Group]:
    """Neighbours in ``order`` (falling length), so that little is padded; the largest the least."""
    sizes = [lengths[index] for index in order]
    low, high = max(sizes), padded_cost(sizes)
    while low < high:  # the smallest bound that so many groups can keep
        bound = (low + high) // 2
        if len(_runs(sizes, bound)) <= num_groups:
            high = bound
        else:
            low = bound + 1
    groups, start = [], 0
    for count in _runs(sizes, low):
        groups.append(list(order[start : start + count]))
        start += count
    while len(groups) < num_groups and any(len(group) > 1 for group in groups):
        largest = max(groups, key=lambda g: (len(g) > 1) * padded_cost([lengths[i] for i in g]))
        place, middle = groups.index(largest), (len(largest) + 1) // 2
        groups[place : place + 1] = [largest[:middle], largest[middle:]]
    return groups + [[] for _ in range(num_groups - len(groups))]


def _runs(sizes: Sequence[int], bound: int) -> list[int]:
    """Numbers of neighbours that can be padded together within ``bound``; ``sizes`` fall."""
    counts = [0]
    longest = sizes[0]
    for size in sizes:
        if counts[-1] and longest * (counts[-1] + 1) > bound:
            counts.append(0)
            longest = size
        counts[-1] += 1
    return counts


def _packed(order: Sequence[int], lengths: Mapping[int, int], num_groups: int) -> list[Group]:
    """The longest first, each to the group that has least so far."""
    groups: list[Group] = [[] for _ in range(num_groups)]
    loads = [(0, number) for number in range(num_groups)]
    heapq.heapify(loads)
    for index in order:
        load, number = heapq.heappop(loads)
        groups[number].append(index)
        heapq.heappush(loads, (load + lengths[index], number))
    return groups


def _deal(
    groups: Sequence[Group], lengths: Mapping[int, int], cost: Cost, world_size: int
) -> list[list[Group]]:
    """Round after round, the dearest groups first, the dearest to the rank with least so far."""
    priced = sorted(
        ((cost([lengths[i] for i in group]) if group else 0, group) for group in groups),
        key=lambda pair: (-pair[0], pair[1]),
    )
    shares: list[list[Group]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for start in range(0, len(priced), world_size):
        ranks = sorted(range(world_size), key=lambda rank: (loads[rank], rank))
        for rank, (price, group) in zip(ranks, priced[start : start + world_size], strict=True):
            shares[rank].append(group)
            loads[rank] += price
    return shares
