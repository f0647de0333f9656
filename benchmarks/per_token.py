"""What a token of plain text costs between vLLM's output and the delta, now and at a commit.

    python benchmarks/per_token.py [COMMIT]      (default: HEAD~1; needs talkwire[cpu] and git)

Both trees replay the same vLLM outputs through `VllmEngine.stream`, in processes of their own and
by turns; the figure is CPU time a token, the median of the rounds. No model runs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 7
ROOT = Path(__file__).parent.parent

REPLAY = """
import asyncio, json, time
from contextlib import nullcontext
from types import SimpleNamespace
from vllm.outputs import CompletionOutput, RequestOutput
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.vllm_engine import engine as module

TOKENS, CALLS = 500, 200
IDS = list(range(100))

class Replay:
    async def generate(self, *_args, **_options):
        for i in range(TOKENS):
            end = "length" if i == TOKENS - 1 else None
            part = CompletionOutput(0, " word", [i], None, None, finish_reason=end)
            yield RequestOutput("id", None, IDS, None, [part], finished=bool(end))
    async def abort(self, _id):
        pass

class Prompts:
    async def render(self, _call):
        return {}, None
    async def job(self, _call):
        return module.Job({}, None, IDS, 0)

async def main():
    engine = module.VllmEngine.__new__(module.VllmEngine)
    engine._llm, engine._prompts, engine._vocabulary = Replay(), Prompts(), None
    engine._adapters = SimpleNamespace(using=lambda _model: nullcontext())
    async def answer():
        async for _ in engine.stream(Call("id", "model", pb.ChatRequest(query="x"))):
            pass
    async def bare():
        async for _ in Replay().generate():
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
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "VLLM_CONFIGURE_LOGGING": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare this tree with a commit's."""
    commit = sys.argv[1] if len(sys.argv) > 1 else "HEAD~1"
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        add = ["git", "worktree", "add", "--detach", str(before), commit]
        subprocess.run(add, cwd=ROOT, check=True, capture_output=True)
        try:
            rounds = [(measure(before), measure(ROOT)) for _ in range(ROUNDS)]
        finally:
            remove = ["git", "worktree", "remove", "--force", str(before)]
            subprocess.run(remove, cwd=ROOT, check=True)
    old, new = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    sys.stdout.write(f"{commit}: {old:.2f} us a token; now: {new:.2f}; ratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
