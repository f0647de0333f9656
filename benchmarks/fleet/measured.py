"""What was measured of one engine, its frontends, a proxy and a connection. Simulates nothing."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from load.report import OURS, Result

RESULTS = Path(__file__).parents[1] / "results"
FILES = ("engines-h100", "footprint-cpu", "proxy-cpu")


class Curve:
    """A figure by the number of streams: a line from each level that was measured to the next.

    Below the least level and above the highest it is what it was there: nobody looked.
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        self._points = sorted(points)

    def at(self, streams: float) -> float:
        """Return the figure at so many streams."""
        right = bisect_left(self._points, (streams,))
        if right in (0, len(self._points)):
            return self._points[max(0, right - 1)][1]
        (a, low), (b, high) = self._points[right - 1 : right + 1]
        return low + (high - low) * (streams - a) / (b - a)


@dataclass(frozen=True)
class Measured:
    """The figures of one way to ask.

    Attributes:
        way: Its name in the results.
        clients: Processes that asked, each over one connection, or one call of it.
        least: The lowest level.
        most: The highest level.
        rate: Tokens a second of all streams of an engine.
        first: Seconds to the first token.
        frontend_us: CPU of all of an engine's frontends, microseconds a token.
        messages: From a server to its clients, a token.
        proxy_us: CPU of a proxy, microseconds a message.
        connection_kb: Of an idle connection at a frontend, kilobytes.
        stream_kb: Of a stream that waits for its next token, kilobytes.
        sources: The results that these are of, with their commits and machines.

    """

    way: str
    clients: int
    least: int
    most: int
    rate: Curve
    first: Curve
    frontend_us: Curve
    messages: Curve
    proxy_us: float
    connection_kb: float
    stream_kb: float
    sources: dict[str, str]

    def each(self, streams: int) -> float:
        """Return the tokens a second of each of so many streams; of fewer than measured no more."""
        streams = max(streams, self.least)
        return self.rate.at(streams) / streams

    @classmethod
    def read(cls, way: str, folder: Path = RESULTS) -> "Measured":
        """Read the figures of a way from the results.

        Raises:
            ValueError: Nobody measured it; names those that were.

        """
        engines, footprint, proxied = (Result.read(folder / f"{name}.json") for name in FILES)
        ways = [name for name in engines.ways if name.startswith(OURS)]
        if way not in ways:
            msg = f"no such way: {way!r}; there are {', '.join(map(repr, ways))}"
            raise ValueError(msg)
        runs = [(level, engines.median(way, level)) for level in engines.levels]
        multiplexed = "multiplexed" in way
        held = footprint.content["ways"]["talkwire"]
        hop = "talkwire multiplexed" if multiplexed else "talkwire"
        return cls(
            way=way,
            clients=int(engines.content["settings"]["clients"]),
            least=min(engines.levels),
            most=max(engines.levels),
            rate=Curve([(level, seen["rate"]) for level, seen in runs]),
            first=Curve([(level, seen["ttft_p50"] / 1000) for level, seen in runs]),
            frontend_us=Curve([(level, seen["server_us"]) for level, seen in runs]),
            messages=Curve([(level, seen["messages"]) for level, seen in runs]),
            proxy_us=proxied.content["ways"][f"{hop}, through Envoy"]["proxy_us_message"],
            connection_kb=held["connection_kb"],
            stream_kb=held["multiplexed_kb" if multiplexed else "stream_kb"],
            sources={
                name: f"{machine['commit']} {machine.get('gpu') or machine['cpu']}"
                for name, machine in (
                    (name, result.content["machine"])
                    for name, result in zip(FILES, (engines, footprint, proxied), strict=True)
                )
            },
        )
