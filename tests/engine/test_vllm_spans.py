"""vLLM's own spans, as a receiver of OpenTelemetry's gets them, below those of the chats."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from otlp import collecting
from processes import ServerProcess
from talkwire import Client

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]
FLAGS = ("--max-model-len=512", f"--kv-cache-memory-bytes={128 << 20}", "--max-num-seqs=4")


def test_vllm_s_spans_are_part_of_the_chat_s() -> None:
    """Whatever rpc brings the chat; each has the id of its request, and all come before the end."""
    with collecting() as collector:
        command = [sys.executable, "-m", "talkwire_server", "--port=0", *FLAGS]
        with subprocess.Popen(
            [*command, f"--otlp-traces-endpoint={collector.target}"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.target},
        ) as process:
            try:
                server = ServerProcess(process)
                with Client(server.target, max_tokens=4) as client:
                    client.chat("Say hi", metadata={"x-request-id": "one"})
                with (
                    Client(server.target, max_tokens=4, multiplex=True) as client,
                    client.stream("Say hi", request_id="two") as stream,
                ):
                    stream.wait()
                process.terminate()
                status, _ = server.ends()
            finally:
                process.kill()
        chats = {one.span_id: one for one in collector.spans(2, lambda one: "chat" in one.name)}
        requests = collector.spans(2, lambda one: one.name == "llm_request")

    assert status == 0
    assert [one.attributes["gen_ai.request.id"] for one in requests] == ["one", "two"]
    for one in requests:
        above = chats[one.parent_id]
        assert one.trace_id == above.trace_id
        assert above.attributes["gen_ai.response.id"] == one.attributes["gen_ai.request.id"]
        assert above.attributes["gen_ai.usage.output_tokens"] == 4
