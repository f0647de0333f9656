"""What the process of one grammar does: compile it, and follow answers in it, within its limits.

The kernel holds it to them: it refuses memory, and ends the process when a step takes too long. A
line is for one answer; the process ends with its last line. Knows no requests.
"""

import resource
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple

import numpy as np

from talkwire_server.signals import ProcessorTime
from talkwire_server.vllm_engine.grammars.compiler import Compiler
from talkwire_server.vllm_engine.grammars.peer import listening

CHECK = "check"
"""Stands for a name where nothing shall be compiled."""

_READING = 0.25  # seconds: vLLM does it again, and all calls wait
_AT_ONCE = 50  # looks whose time may be taken by one
_TRIED = 8  # tokens


class Limits(NamedTuple):
    """What a grammar may cost.

    Attributes:
        compiling: Seconds of a processor's time.
        look: Seconds of it for a look at the next token, on average.
        memory: Bytes.

    """

    compiling: float
    look: float
    memory: int


class Follower:
    """Compiles what its first line brings."""

    def __init__(self, compiler: Compiler, folder: Path, limits: Limits) -> None:
        self._compiler = compiler
        self._folder = folder
        self._limits = limits
        self._looking = ProcessorTime(_AT_ONCE * limits.look, limits.look)

    def serve(self, first: Connection) -> None:
        """Answer on all lines until the last is closed."""
        name, *wanted = first.recv()
        _bound_memory(self._limits.memory)
        if name == CHECK:
            first.send(self._checked(wanted[0]))
            return
        fault, grammar = self._begin(*wanted)
        if fault:
            first.send(fault)
            return
        self._bitmask = self._compiler.bitmask()
        path = self._folder / name
        with listening(path) as listener:
            first.send("")
            self._follow(listener, {first: grammar})
            path.unlink(missing_ok=True)

    def _follow(self, listener: socket, lines: dict[Connection, Any]) -> None:
        while lines:
            for ready in wait([listener, *lines]):
                if isinstance(ready, socket):
                    lines[Connection(ready.accept()[0].detach())] = None
                    continue
                assert isinstance(ready, Connection)
                try:
                    self._answer(ready, lines)
                except (EOFError, OSError):
                    del lines[ready]

    def _answer(self, line: Connection, lines: dict[Connection, Any]) -> None:
        method, *arguments = line.recv()
        grammar = lines[line]
        if grammar is None:
            fault, lines[line] = self._begin(*arguments)
            line.send(fault)
        elif method == "try":
            self._try(grammar)
            line.send("")
        else:
            with self._looking:
                result = self._look(grammar, method, arguments)
            line.send((result, grammar.is_terminated()))

    def _begin(self, constraint: Any, stop_token_ids: set[int]) -> tuple[str, Any]:
        if fault := self._checked(constraint):
            return fault, None
        with ProcessorTime(self._limits.compiling):
            grammar = self._compiler.grammar(constraint, stop_token_ids)
        if isinstance(grammar, Exception):
            return "cannot be compiled", None
        return "", grammar

    def _checked(self, constraint: Any) -> str:
        with ProcessorTime(_READING):
            return self._compiler.fault(constraint)

    def _look(self, grammar: Any, method: str, arguments: list[Any]) -> Any:
        if method != "fill_bitmask":
            return getattr(grammar, method)(*arguments)
        grammar.fill_bitmask(self._bitmask, 0)
        return self._bitmask.numpy().tobytes()

    def _try(self, grammar: Any) -> None:
        """Follow an answer for a while, that may be none of the model's."""
        chance = np.random.default_rng(0)
        for _ in range(_TRIED):
            with self._looking:
                bits = np.frombuffer(self._look(grammar, "fill_bitmask", []), np.uint8)
                allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
                if not allowed.size or not grammar.accept_tokens("", [int(chance.choice(allowed))]):
                    break
            if grammar.is_terminated():
                break


def _bound_memory(more: int) -> None:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            now = int(line.split()[1]) << 10
            resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))
