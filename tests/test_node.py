"""A second language: Node's own gRPC packages hold a conversation with the server."""

import json
import signal

import pytest

from processes import ROOT, launched, run
from talkwire import Client

pytestmark = pytest.mark.skipif(
    not (ROOT / "tests/node/node_modules/@grpc/grpc-js").exists(),
    reason="needs npm's packages: scripts/setup.sh --dev",
)


def test_node_converses() -> None:
    """Tools and back, a picture in bytes, a cancel that stops the server, an error with details."""
    with launched("--echo-delay=0.01", "--grace=0") as server:
        done = run("node", "tests/node/chat.js", server.target)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        with Client(server.target) as client:
            assert client.chat("alive").text == "alive"
        server.signal(signal.SIGTERM)
        status, log = server.ends()

    assert seen["tools"] == {
        "finish_reason": "FINISH_REASON_TOOL_CALLS",
        "name": "weather",
        "answer": "sunny in Paris",
    }
    size = seen["picture"].pop("bytes")
    assert seen["picture"] == {"text": f"See:\n[image/png {size} bytes]", "media_tokens": 1}
    assert seen["cancelled"] == {"code": 1, "read": 3}
    assert seen["refused"]["code"] == 3
    assert "sampling.temperature" in seen["refused"]["details"]
    assert seen["refused"]["rich"] == 1
    assert status == 0  # no call was left to be cut
    assert "0 calls running" in log
