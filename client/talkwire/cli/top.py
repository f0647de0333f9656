"""`talkwire top`: what servers do just now, from their metrics; in place, or once for a pipe."""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from talkwire.cli.metrics import Reading, Window
from talkwire.cli.status import FAILED, Complaint, harmless

WIDE = 200  # columns, where no terminal says how many it has


def main(argv: Sequence[str]) -> int:
    """Show until Ctrl-C; 1 if a server that is shown once has no metrics."""
    parser = ArgumentParser(
        prog="talkwire top",
        description="Show what servers do just now, from their metrics (--metrics-port).",
        epilog="Rates and quantiles are of the window; without vLLM tokens count as a chat ends.",
    )
    text = "host:port of a server's metrics, or a URL; default: localhost:9090"
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=text)
    parser.add_argument("--once", action="store_true", help="show once, as without a terminal")
    text = "seconds between looks (%(default)g)"
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help=text)
    text = "seconds that rates and quantiles are of (%(default)g); with --once an interval"
    parser.add_argument("--window", type=float, default=30.0, metavar="S", help=text)
    arguments = parser.parse_args(argv)
    for name in ("interval", "window"):
        if getattr(arguments, name) <= 0:
            raise Complaint(f"--{name} must be > 0")
    targets = [*dict.fromkeys(arguments.targets)] or ["localhost:9090"]
    window = Window(arguments.window)
    window.add(Reading(targets))
    if arguments.once or not sys.stdout.isatty():
        time.sleep(arguments.interval)
        window.add(Reading(targets))
        console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
        console.print(picture(window, targets, console))
        return FAILED if window.now.failures else 0
    console = Console()
    first = picture(window, targets, console)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(arguments.interval)
            window.add(Reading(targets))
            live.update(picture(window, targets, console), refresh=True)


def picture(window: Window, targets: Sequence[str], console: Console) -> Group:
    """Draw all servers, in as many columns as there is room for, and callers counted by name."""
    servers = _table("server", *_COLUMNS)
    for target in targets:
        why = window.now.failures.get(target)
        cells = [Text(harmless(why), "red")] if why else _cells(window, target=target)
        servers.add_row(Text(harmless(target)), *cells)
    if len(targets) > 1:
        servers.add_row("all", *_cells(window))
    roomy = console.options.update_width(1000)
    while servers.columns[2:] and console.measure(servers, options=roomy).maximum > console.width:
        servers.columns.pop()
    callers = _table("caller", "tok/s", "chats/s")
    named = _callers(window) - {"other"}  # which all are, where none is named
    for caller in (*sorted(named), "other"):
        tokens = window.rate("talkwire_caller_tokens_total", caller=caller, kind="completion")
        chats = window.rate("talkwire_caller_chats_total", caller=caller)
        callers.add_row(Text(harmless(caller)), _number(tokens), _number(chats, 1))
    return Group(servers, "", callers) if named else Group(servers)


def _cells(window: Window, **labels: str) -> Iterator[Text | str]:
    for show in _COLUMNS.values():
        yield show(window, labels)


def _callers(window: Window) -> set[str]:
    return {dict(key)["caller"] for key, _ in window.now.values("talkwire_caller_chats_total")}


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _number(value: float, digits: int = 0) -> str:
    return "-" if isnan(value) else f"{value:,.{digits}f}"


def _state(window: Window, labels: Mapping[str, str]) -> Text | str:
    serving = [bool(value) for _, value in window.now.values("talkwire_serving", **labels)]
    if not serving:
        return "-"
    if len(serving) > 1:
        return f"{sum(serving)} serving"
    return "serving" if all(serving) else Text("closed", "red")


def _of(value: str, most: str) -> Callable[[Window, Mapping[str, str]], str]:
    def show(window: Window, labels: Mapping[str, str]) -> str:
        return "/".join(_number(window.now.total(name, **labels)) for name in (value, most))

    return show


def _first_token(share: float) -> Callable[[Window, Mapping[str, str]], str]:
    def show(window: Window, labels: Mapping[str, str]) -> str:
        seconds = window.quantile(share, "talkwire_first_token_seconds", **labels)
        return _number(seconds * 1000)

    return show


def _rate(name: str) -> Callable[[Window, Mapping[str, str]], str]:
    return lambda window, labels: _number(window.rate(name, **labels), 1)


def _cache(window: Window, labels: Mapping[str, str]) -> str:
    used = [value for _, value in window.now.values("vllm:kv_cache_usage_perc", **labels)]
    return f"{max(used):.0%}" if used else "-"


def _cost(window: Window, labels: Mapping[str, str]) -> str:
    tokens = window.tokens(**labels)
    cpu = window.rate("talkwire_frontend_cpu_seconds_total", **labels)
    return _number(cpu / tokens * 1e6, 1) if tokens > 0 else "-"


_COLUMNS: Mapping[str, Callable[[Window, Mapping[str, str]], Text | str]] = {
    "state": _state,
    "running": _of("talkwire_chats_running", "talkwire_places"),
    "waiting": _of("talkwire_chats_waiting", "talkwire_queue_places"),
    "tok/s": lambda window, labels: _number(window.tokens(**labels)),
    "chats/s": _rate("talkwire_chats_total"),
    "TTFT p50 ms": _first_token(0.5),
    "p99 ms": _first_token(0.99),
    "KV": _cache,
    "refused/s": _rate("talkwire_chats_rejected_total"),
    "cut/s": _rate("talkwire_chats_aborted_total"),
    "CPU us/tok": _cost,
}
