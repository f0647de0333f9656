"""The figures of a run: what the clients saw and the kernel counted, in numbers a person reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median
from typing import TypeAlias

from load.chats import distinct
from load.clients import Share

Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """A figure: how its column is called, how many digits it has, and whether less is better."""

    title: str
    digits: int = 0
    less: bool | None = True


METRICS = {
    "rate": Metric("tok/s", less=False),
    "ttft_p50": Metric("TTFT p50 ms", 1),
    "ttft_p99": Metric("TTFT p99 ms", 1),
    "gap_p50": Metric("gap p50 ms", 1),
    "gap_p99": Metric("gap p99 ms", 1),
    "server_us": Metric("server us/tok", 1),
    "client_us": Metric("client us/tok", 1),
    "bytes": Metric("bytes/tok", 1),
    "messages": Metric("msg/tok", 3, less=None),
    "server_mb": Metric("server MB"),
    "busiest_client": Metric("busiest client", 2, less=None),
    "texts": Metric("texts", less=None),
    "same": Metric("same text", 3, less=None),
}
"""A gap is between two pieces of one answer, of however many tokens. The busiest client is the part
of a run in which one process of the clients computed: near 1 it would be the limit. Texts are those
that differ: were they few, a text at the wrong place would not be seen. The same text is the share
of answers that are word for word as expected; the others' tokens were counted."""


OF_CLIENTS = ("client_us", "bytes", "messages", "busiest_client")


def figures(shares: Sequence[Share], server_cpu: float, server_mb: float, same: float) -> Figures:
    """Sum a run up: seconds in; tokens a second, milliseconds and microseconds a token out."""
    replies = [reply for share in shares for reply in share.replies]
    tokens = sum(reply.tokens for reply in replies)
    wall = max(reply.at[-1] for reply in replies) - min(reply.begun for reply in replies)
    first = sorted(reply.at[0] - reply.begun for reply in replies)
    gaps = sorted(b - a for reply in replies for a, b in pairwise(reply.at)) or [0.0]
    return {
        "rate": tokens / wall,
        **marks("ttft", first),
        **marks("gap", gaps),
        "server_us": 1e6 * server_cpu / tokens,
        "client_us": 1e6 * sum(share.cpu for share in shares) / tokens,
        "bytes": sum(share.bytes for share in shares) / tokens,
        "messages": sum(share.messages for share in shares) / tokens,
        "server_mb": server_mb,
        "busiest_client": max(share.cpu for share in shares) / wall,
        "texts": distinct(replies),
        "same": same,
    }


def without_clients(figures: Figures) -> Figures:
    """Leave out what is only there where the clients are processes of their own."""
    return {name: value for name, value in figures.items() if name not in OF_CLIENTS}


def marks(name: str, seconds: Sequence[float]) -> Figures:
    """Return milliseconds at p50 and p99 of sorted times; of less than 100 p99 is the most."""
    percents = (50, 99) if len(seconds) >= 100 else (50,)
    return {f"{name}_p{percent}": 1000 * percentile(seconds, percent) for percent in percents}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return what so many percent of sorted values are not above."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def middle(repeats: Sequence[Figures]) -> Figures:
    """Return the median of each figure that all have."""
    names = [name for name in repeats[0] if all(name in one for one in repeats)]
    return {name: median(one[name] for one in repeats) for name in names}
