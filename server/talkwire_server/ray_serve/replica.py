"""One replica: an engine, and the handlers of a plain server, which Ray Serve calls by name.

To a handler's name Serve gives the bytes of a request, unread, and a context of its own. Nothing is
raised that another process would have to import vLLM for.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from ray.util import get_node_ip_address
from starlette.requests import Request
from starlette.responses import JSONResponse

from talkwire_server import echo
from talkwire_server.admission import Admission, Bounds
from talkwire_server.callers import Caller
from talkwire_server.chat_service import ChatService
from talkwire_server.decoding import read
from talkwire_server.engine import Engine
from talkwire_server.errors import CallError, EngineDead
from talkwire_server.health import NOT_SERVING, SERVING, Health
from talkwire_server.journal import Journal
from talkwire_server.logs import log_unhandled, start_logging
from talkwire_server.model_service import ModelService
from talkwire_server.open_calls import OpenCalls
from talkwire_server.ray_serve.context import context_of, ending, writable, written
from talkwire_server.ray_serve.gate import ReplicaGate
from talkwire_server.ray_serve.peers import ask_all
from talkwire_server.ray_serve.scaling import CHATS
from talkwire_server.ray_serve.servicers import SERVICES
from talkwire_server.security.guard import Guard
from talkwire_server.settings import Settings
from talkwire_server.settings.tracing import trace_exporters
from talkwire_server.signals import kill_children
from talkwire_server.statuses import Context
from talkwire_server.telemetry import call_metrics, metrics_port, prepare_metrics, readers

log = logging.getLogger("talkwire")

Given: TypeAlias = RayServegRPCContext
Requests: TypeAlias = gRPCInputStream[bytes]

CLOSING = 2.0  # seconds for the last spans

_RPCS = {method.name: method for service in SERVICES for method in service.methods}

_MORE: Sequence[Message] = ()
"""What Serve's generators yield where all was written: Serve takes generators alone."""


class Replica:
    """What a `talkwire_server.server.Server` is, but for the socket, which is Serve's.

    It ends with its engine, and Serve starts another.
    """

    _engine: Engine | None = None  # as long as it has not loaded, as is the next
    _journal: Journal | None = None
    _ending: asyncio.Task[NoReturn] | None = None

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        start_logging(settings)
        if not settings.log_texts:
            asyncio.get_running_loop().set_exception_handler(log_unhandled)
        # The node's own variables say where traces go.
        settings = replace(settings, trace_exporters=trace_exporters(os.environ))
        self._settings = settings
        prepare_metrics(settings)
        self._guards = [Guard(settings)] if settings.wants_tokens else []
        for guard in self._guards:
            await guard.load()
        # In a thread: Serve asks a replica that loads whether it lives.
        engine = await asyncio.to_thread(_load, settings)
        self._gate = ReplicaGate(Bounds.of(engine.capacity, settings), settings)
        self._admission = Admission(engine, settings, self._gate)
        self._open_calls = OpenCalls(settings.slow_reader_timeout)
        self._journal = journal = Journal([*readers(settings)])
        self._chat = ChatService(engine, self._admission, self._open_calls, journal)
        self._models = ModelService(engine)
        self._health = Health([service.full_name for service in SERVICES])
        self._metrics = metrics_port(settings, self._admission.look)
        if self._metrics:
            await self._metrics.listen()
        self._engine = engine
        await engine.launch()
        await engine.ready()
        self._admission.open()
        self._health.set(SERVING)
        watches = (one.watch() for one in call_metrics(settings))  # of its processor time
        self._watching = [*map(asyncio.create_task, (self._open_calls.watch_readers(), *watches))]
        self._ending = asyncio.create_task(self._end_with(engine))

    async def __del__(self) -> None:
        """End the engine: what Serve awaits, once, when no call runs any more; then it kills."""
        engine, self._engine = self._engine, None
        if self._ending:
            self._ending.cancel()
        if engine:
            await engine.stop()
        await self._close_journal()

    async def _end_with(self, engine: Engine) -> NoReturn:
        log.error("the engine died: %s", await engine.failed())
        self._admission.reload()
        self._health.set(NOT_SERVING)
        await self._open_calls.cut(EngineDead())
        await self._close_journal()
        kill_children()
        os._exit(1)  # at once; Serve would first ask several times whether it is healthy

    async def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(journal.close), CLOSING)

    async def abort_here(self, call_id: str, caller: Caller) -> bool:
        """End a call of this replica; other replicas ask."""
        return await self._gate.abort_here(call_id, caller)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve how many chats run or wait here."""
        return {CHATS: self._admission.running + self._admission.waiting}

    async def __call__(self, _: Request) -> JSONResponse:
        """Tell Prometheus by HTTP where the metrics of all replicas are (`http_sd_configs`)."""
        targets = await ask_all("metrics_address") if self._metrics else []
        return JSONResponse([{"targets": sorted(filter(None, targets))}])

    def metrics_address(self) -> str | None:
        """Tell where the metrics of this replica are."""
        if not self._metrics:
            return None
        at = urlsplit(self._metrics.url)
        everywhere = self._settings.metrics_host in ("0.0.0.0", "::")
        return f"{get_node_ip_address()}:{at.port}" if everywhere else at.netloc

    async def Chat(self, request: bytes, grpc_context: Given) -> Message:
        """Answer a chat in one message."""
        return await self._answer("Chat", self._chat.Chat, request, grpc_context)

    async def CountTokens(self, request: bytes, grpc_context: Given) -> Message:
        """Tell how long a prompt is."""
        return await self._answer("CountTokens", self._chat.CountTokens, request, grpc_context)

    async def Abort(self, request: bytes, grpc_context: Given) -> Message:
        """Have a running call of this replica finish where it is."""
        return await self._answer("Abort", self._chat.Abort, request, grpc_context)

    async def ListModels(self, request: bytes, grpc_context: Given) -> Message:
        """List the models."""
        return await self._answer("ListModels", self._models.ListModels, request, grpc_context)

    async def GetModel(self, request: bytes, grpc_context: Given) -> Message:
        """Describe a model."""
        return await self._answer("GetModel", self._models.GetModel, request, grpc_context)

    async def Check(self, request: bytes, grpc_context: Given) -> Message:
        """Tell the health of this replica."""
        return await self._answer("Check", self._health.Check, request, grpc_context)

    async def Watch(self, request: bytes, grpc_context: Given) -> AsyncIterator[Message]:
        """Tell it now, and whenever it changes."""
        context = context_of(grpc_context)
        with ending():
            asked = await self._enter("Watch", request, context)
            await self._health.Watch(asked, await writable(context))
        for message in _MORE:
            yield message

    async def ChatStream(self, request: bytes, grpc_context: Given) -> AsyncIterator[Message]:
        """Answer a chat piece by piece."""
        context = context_of(grpc_context)
        with ending():
            asked = await self._enter("ChatStream", request, context)
            stream = written(partial(self._chat.ChatStream, asked), context)
            async with aclosing(stream) as messages:
                async for message in messages:
                    yield message

    async def ChatMultiplex(self, request: Requests, grpc_context: Given) -> AsyncIterator[Message]:
        """Answer many chats at once."""
        context = context_of(grpc_context)
        with ending():
            await self._identify("ChatMultiplex", context)
            asked = (await self._read("ChatMultiplex", one, context) async for one in request)
            await self._chat.ChatMultiplex(asked, await writable(context))
        for message in _MORE:
            yield message

    async def _answer(
        self, rpc: str, handler: Callable[[Any, Any], Awaitable[Any]], request: bytes, given: Given
    ) -> Message:
        context = context_of(given)
        with ending():
            answer: Message = await handler(await self._enter(rpc, request, context), context)
            return answer
        return GetMessageClass(_RPCS[rpc].output_type)()  # it was aborted: nobody sees this

    async def _enter(self, rpc: str, request: bytes, context: Context) -> Any:
        await self._identify(rpc, context)
        return await self._read(rpc, request, context)

    async def _identify(self, rpc: str, context: Context) -> None:
        path = f"/{_RPCS[rpc].containing_service.full_name}/{rpc}"
        for guard in self._guards:
            try:
                await guard.identify(path, context.invocation_metadata() or ())
            except CallError as error:
                await guard.refuse(error, context)

    async def _read(self, rpc: str, request: bytes, context: Context) -> Any:
        """Make a message of bytes, or what refuses it."""
        size, most = len(request), self._settings.max_message_bytes
        if size > most:
            text = f"Received message larger than max ({size} vs. {most})"  # as gRPC says it
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        return read(GetMessageClass(_RPCS[rpc].input_type), request, self._settings)


def _load(settings: Settings) -> Engine:
    if settings.engine == "echo":
        return echo.load(settings)
    from talkwire_server import vllm_engine

    # A forked child would keep the replica's connections, and Ray from seeing that it died.
    return vllm_engine.load(settings, may_fork=False)
