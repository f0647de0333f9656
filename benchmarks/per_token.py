"""What a token of plain text costs between vLLM's output and the delta, now and at a commit.

    python benchmarks/per_token.py [COMMIT]      (default: HEAD~1; needs talkwire[cpu] and git)

Both trees replay the same outputs of vLLM's through `VllmEngine.stream`, in processes of their own
and by turns; the figure is CPU time a token, the median of the rounds. All but the model is there,
a tool call parser, too: were plain text parsed, it would show.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 7
ROOT = Path(__file__).parent.parent

REPLAY = """
import asyncio, json, time
from functools import partial
from types import SimpleNamespace
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import vllm_engine
from talkwire_server.engine import Call
from talkwire_server.settings import Settings

TOKENS, CALLS = 5000, 20  # so many tokens that the prompts cost nothing
engine = vllm_engine.load(
    Settings(engine_args=("--max-model-len=2048",), tool_call_parser="hermes")
)
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers.registry import renderer_from_config

def outputs():
    for i in range(TOKENS):
        end = "length" if i == TOKENS - 1 else None
        part = CompletionOutput(0, " word", [i], None, None, finish_reason=end)
        yield RequestOutput("id", None, [], None, [part], finished=bool(end))

class Collector:
    request_id = "id"
    def __init__(self):
        self.get_nowait = partial(next, outputs())

class Replay:
    output_processor = SimpleNamespace(request_states={})  # no state: one by one
    renderer = renderer_from_config(engine._config)
    observability_config = engine._config.observability_config
    async def get_supported_tasks(self):
        return ["generate"]
    async def add_request(self, *_args, **_options):
        return Collector()
    async def generate(self, *_args, **_options):  # what trees before that asked for
        for output in outputs():
            yield output
    async def abort(self, _id):
        pass

async def main():
    engine._building.set_result(llm := Replay())
    await engine.ready()
    async def answer():
        async for _ in engine.stream(Call("id", engine.models[0].id, pb.ChatRequest(query="x"))):
            pass
    async def bare():
        async for _ in llm.generate():
            pass
    figures = {}
    for name, step in (("warm", answer), ("stream", answer), ("bare", bare)):
        start = time.process_time()
        for _ in range(CALLS):
            await step()
        figures[name] = (time.process_time() - start) / (CALLS * TOKENS) * 1e6
    print(json.dumps(figures["stream"] - figures["bare"]))

asyncio.run(main())
"""


def measure(tree: Path) -> float:
    """Return microseconds of CPU a token in one tree, vLLM's own part taken off."""
    path = ":".join(str(tree / name) for name in ("client", "server", "generated"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REPLAY],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare this tree with a commit's."""
    commit = sys.argv[1] if len(sys.argv) > 1 else "HEAD~1"
    with tempfile.TemporaryDirectory() as folder:
        archive, extract = ["git", "archive", commit], ["tar", "-x"]
        tree = subprocess.run(archive, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(extract, cwd=folder, input=tree, check=True)
        rounds = [(measure(Path(folder)), measure(ROOT)) for _ in range(ROUNDS)]
    old, new = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    sys.stdout.write(f"{commit}: {old:.2f} us a token; now: {new:.2f}; ratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
