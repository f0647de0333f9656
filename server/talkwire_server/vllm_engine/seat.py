"""The place of one frontend at a core that several share. Knows no processes.

A core has its seats from its start on (vLLM's `EngineCoreProc` connects to an address of each, and
to no other). Whoever sits there has the two sockets that listen on its addresses; the supervisor
keeps them, too, for who comes next.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import zmq
from vllm.config import VllmConfig
from vllm.utils.network_utils import ZmqListener
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.async_llm import AsyncLLM

from talkwire_server.engine import StartError

PATIENCE = 1.0  # seconds

STATISTICS = "TALKWIRE_VLLM_STATISTICS"
"""In the environment: where vLLM publishes how much each of several engines has to do, if any."""


@dataclass(frozen=True)
class Seat:
    """One of them.

    Attributes:
        number: Which.
        count: How many there are.
        requests: Where the engines take requests from.
        outputs: Where they send what came of them.
        context: How long a prompt and its answer may be, if the engines have begun already.

    """

    number: int
    count: int
    requests: ZmqListener
    outputs: ZmqListener
    context: int | None

    def take(self, build: Callable[..., AsyncLLM]) -> AsyncLLM:
        """Build an AsyncLLM that waits for engines which begin."""
        return build(**self._place(self.requests.address, self.requests.socket.dup()))

    def take_over(self, build: Callable[..., AsyncLLM], config: VllmConfig) -> AsyncLLM:
        """Build an AsyncLLM for engines that run, in place of one that died.

        An AsyncLLM waits until each engine greets it (vLLM's core_client.py, `MPClient`),
        and an engine greets once, as it begins (core.py, `process_input_sockets`). So it is greeted
        here, on an address of its own, and gets the engines' when it is content.
        """
        config.model_config.max_model_len = self.context  # which a greeting would have said
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="talkwire-"))
            context = stack.enter_context(zmq.Context())
            for name in _names(config):
                engine = stack.enter_context(context.socket(zmq.DEALER))
                engine.setsockopt(zmq.IDENTITY, name)
                engine.setsockopt(zmq.LINGER, 0)
                engine.connect(f"ipc://{folder}/greetings")
                engine.send(b"")
            llm = build(**self._place(f"ipc://{folder}/greetings", None))
        requests = llm.engine_core.input_socket
        requests.setsockopt(zmq.ROUTER_HANDOVER, 1)  # the engines come under the same names
        requests.setsockopt(zmq.USE_FD, self.requests.socket.dup().detach())
        requests.bind(self.requests.address)
        return llm

    def _place(self, address: str, listener: Any) -> dict[str, Any]:
        stats = os.environ.get(STATISTICS)
        addresses = {
            "input_address": address,
            "input_listener": listener,
            "output_address": self.outputs.address,
            "output_listener": self.outputs.socket.dup(),
            **({"stats_update_address": stats} if stats else {}),
        }
        return {
            "client_addresses": addresses,
            "client_count": self.count,
            "client_index": self.number,
        }


async def settle(llm: AsyncLLM) -> None:
    """Wait until engines that run have found an AsyncLLM that took over.

    From then on it has them drop what the one before it asked for, as soon as they answer that.

    Raises:
        StartError: They died meanwhile.

    """
    _abort_strangers(llm)
    llm.engine_core.utility_results = _Waiting()
    llm._run_output_handler()  # else the first request does
    while True:
        if llm.errored:
            raise StartError("the engine died")
        with suppress(TimeoutError):  # what is sent to an engine that is not there yet is lost
            async with asyncio.timeout(PATIENCE):
                await llm.get_supported_tasks()
                return


class _Waiting(dict[int, asyncio.Future[Any]]):
    """Who waits for answers of vLLM's; those that an AsyncLLM before this one asked for, nobody."""

    def pop(self, call: int, *_: Any) -> asyncio.Future[Any]:
        """Return who waits for one, and no more."""
        return super().pop(call, None) or asyncio.get_running_loop().create_future()


def _abort_strangers(llm: AsyncLLM) -> None:
    core, known = llm.engine_core, llm.output_processor.request_states
    process_outputs = llm.output_processor.process_outputs

    def process(outputs: Any, *arguments: Any, **others: Any) -> Any:
        strangers = [
            output.request_id
            for output in outputs
            if output.request_id not in known and output.finish_reason is None
        ]
        if strangers:
            for engine in core.core_engines:
                core._send_input(EngineCoreRequestType.ABORT, strangers, engine)
        return process_outputs(outputs, *arguments, **others)

    llm.output_processor.process_outputs = process


def _names(config: VllmConfig) -> list[bytes]:
    """Name the engines as `MPClient` does."""
    parallel = config.parallel_config
    first = parallel.data_parallel_index
    count = (
        parallel.data_parallel_size_local
        if parallel.local_engines_only
        else parallel.data_parallel_size
    )
    return [rank.to_bytes(2, "little") for rank in range(first, first + count)]
