"""Client processes: each loads a server with its share of the streams. Knows no server."""

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic, process_time
from types import TracebackType
from typing import Self, TypeAlias

import uvloop

from load import kernel
from load.chats import DISTINCT, Caller, Reply
from load.servers import end_session

Make: TypeAlias = Callable[[], Caller]
"""Makes the caller of a process, in the process; must be picklable."""


@dataclass(frozen=True)
class Job:
    """What one process does in a run: streams side by side, in each one chat after another.

    Attributes:
        at: When all processes begin.
        prompts: Of each stream, what it asks.

    """

    at: float
    prompts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Share:
    """What one process saw in a run.

    Attributes:
        cpu: Seconds that it computed.
        bytes: What came in over TCP.
        messages: How many came.

    """

    replies: Sequence[Reply]
    cpu: float
    bytes: int
    messages: int


class ClientFailed(Exception):
    """A client process ended; it has said why on standard error."""


class Clients:
    """Processes that ask a server, each over connections of its own. Use its block."""

    def __init__(self, make: Make, count: int, port: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(count)]
        self._pipes = [mine for mine, _ in pipes]
        self._processes = [
            spawn.Process(target=_work, args=(theirs, make, port)) for _, theirs in pipes
        ]
        self._next = 0
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that its end is seen

    def __enter__(self) -> Self:
        try:
            self._receive()  # each is connected
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if error:
                process.terminate()
            else:
                pipe.send(None)
        for process in self._processes:
            process.join()
            end_session(process.pid or 0)  # an engine that a killed process had

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [process.pid or 0 for process in self._processes]

    def run(self, streams: int, rounds: int) -> list[Share]:
        """Ask in so many streams, so many chats in each; prompts go on where the last run ended."""
        begin, self._next = self._next, self._next + streams * rounds
        at = monotonic() + 0.2  # until then each has its job
        for number, pipe in enumerate(self._pipes):
            mine = range(begin + number, begin + streams, len(self._pipes))
            pipe.send(
                Job(at, [[(i + j * streams) % DISTINCT for j in range(rounds)] for i in mine])
            )
        return self._receive()

    def _receive(self) -> list[Share]:
        """Wait for word from each. Raises ClientFailed if one has none."""
        told = []
        for pipe in self._pipes:
            try:
                told.append(pipe.recv())
            except EOFError:
                raise ClientFailed("a client process failed: see above") from None
        return told


def _work(pipe: Connection, make: Make, port: int) -> None:
    os.setsid()
    uvloop.run(_serve(pipe, make, port))


async def _serve(pipe: Connection, make: Make, port: int) -> None:
    async with make() as caller:
        pipe.send(None)
        while job := await asyncio.to_thread(pipe.recv):
            pipe.send(await _run(caller, job, port))


async def _run(caller: Caller, job: Job, port: int) -> Share:
    async def stream(prompts: Sequence[int]) -> list[Reply]:
        return [await caller.ask(prompt) for prompt in prompts]

    await asyncio.sleep(job.at - monotonic())
    messages, before, cpu = caller.messages, kernel.received(port), process_time()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream(prompts)) for prompts in job.prompts]
    cpu = process_time() - cpu
    after = kernel.received(port)
    if before.keys() - after.keys():
        raise RuntimeError("a connection was closed within the run: its bytes are not known")
    return Share(
        replies=[reply for task in tasks for reply in task.result()],
        cpu=cpu,
        bytes=sum(after.values()) - sum(before.values()),
        messages=caller.messages - messages,
    )
