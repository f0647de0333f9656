"""Coverage-guided fuzzing of what stands between a caller's bytes and the engine: `make fuzz`.

Whatever the bytes are, a message or a refusal comes out of them, and no other exception; what is
let through can be spelled for vLLM, and answered by the echo engine or refused.
"""

import sys
from contextlib import suppress
from hashlib import sha1
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

with atheris.instrument_imports(include=["talkwire_server"]):
    from fields import leaves, set_leaf
    from talkwire_proto.v1 import chat_pb2 as pb
    from talkwire_server.checks import violations
    from talkwire_server.decoding import read
    from talkwire_server.echo.prompt import prompt
    from talkwire_server.echo.script import script
    from talkwire_server.echo.support import unsupported
    from talkwire_server.errors import CallError, InvalidRequest
    from talkwire_server.settings.limits import LimitSettings
    from talkwire_server.texts import change_texts, characters
    from talkwire_server.vllm_engine.request import vllm_request

LIMITS = LimitSettings(max_request_fields=200)
SMALL = LimitSettings(max_request_fields=16, max_words=1, max_schema_chars=64)


def one(data: bytes) -> None:
    """Read bytes as requests, and do with them what a server does."""
    for message in (
        read(pb.CountTokensRequest, data, SMALL),
        read(pb.ChatRequest, data, LIMITS),
    ):
        with suppress(CallError):
            use(message.request if isinstance(message, pb.CountTokensRequest) else message)


def use(request: object) -> None:
    """Go the way of a request; raises CallError where the server would refuse it."""
    if faults := violations(request):  # type: ignore[arg-type]  # or it stands for a refusal
        raise InvalidRequest(faults)
    assert isinstance(request, pb.ChatRequest)
    vllm_request(request, "")
    list(unsupported(request))
    prompt(request, "")
    characters(request)
    before = request.SerializeToString(deterministic=True)
    change_texts(request, lambda _path, text, _by_model: text)
    assert request.SerializeToString(deterministic=True) == before
    script(request)


if __name__ == "__main__":
    seeds = ROOT / "build/fuzzing"  # what was found stays there, for the next time
    seeds.mkdir(parents=True, exist_ok=True)
    for path, field in leaves(pb.ChatRequest.DESCRIPTOR):
        request = pb.ChatRequest(query="x")
        set_leaf(request, path, field)
        data = request.SerializeToString()
        (seeds / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    atheris.Setup([*sys.argv, str(seeds)], one)
    atheris.Fuzz()
