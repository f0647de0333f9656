"""What vLLM's own OpenAI HTTP server says, talkwire says: one engine, the same flags.

`conformance.cases.Why` lists what differs, and why; the cases say where.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from conformance.answers import FORMS, OPTIONS, TOLD
from conformance.cases import Case, Flags, Why
from conformance.messages import MESSAGES, TEMPLATE
from conformance.normal import Form, differing, spelled_alike
from conformance.parsers import PARSERS
from conformance.refusals import REFUSALS
from conformance.sampling import SAMPLING
from conformance.thoughts import THOUGHTS
from conformance.tools import TOOLS
from fields import leaves, set_leaves
from support import RunningServer
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model

if TYPE_CHECKING:
    from conformance.twins import Twins

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, while its server is built and asked
]

FIELDS = SAMPLING + MESSAGES + TEMPLATE + FORMS + TOOLS + THOUGHTS + TOLD + OPTIONS + REFUSALS
CASES = FIELDS + PARSERS
# Fields of ours that vLLM's HTTP server has no word for.
OURS_ALONE = {
    "chunking.max_delay",
    "chunking.min_chars",
    "continuation.text",
    "continuation.token_ids",
    "time_limit",
    *(
        f"messages.parts.{kind}.{name}"
        for kind in ("image", "audio", "video")
        for name in ("data", "mime_type", "cache_id", "cache_key")  # to it, all is in the URL
    ),
}
UNTOLD = {"documents", "reasoning_effort", "truncate_prompt_tokens"}  # what /tokenize ignores
ONLY_SPELLED = {Why.WHITE, Why.SPELLED}


Answers: TypeAlias = tuple[dict[str, Form], dict[str, Form]]  # ours and theirs, by rpc


class Runs:
    """Asks many things at once, and keeps what was answered."""

    def __init__(self, llm: Any, folder: Path) -> None:
        from conformance.markers import Face, with_markers

        self._llm = llm
        self._face = Face(llm, with_markers(str(model.prepare()), folder))
        self._slots = asyncio.Semaphore(20)
        self._stacks: list[AsyncExitStack] = []
        self._twins: dict[Flags, asyncio.Task[Twins]] = {}
        self._answers: dict[str, asyncio.Task[Answers]] = {}

    def start(self, case: Case) -> None:
        self._answers[case.name] = asyncio.create_task(self._ask(case))

    async def answers(self, case: Case) -> Answers:
        return await self._answers[case.name]

    async def _ask(self, case: Case) -> Answers:
        ours, theirs = pb.ChatRequest(), dict(case.theirs)
        ours.CopyFrom(case.ours)
        if case.says:
            tag, bias = self._face.forced(case.says)
            theirs |= {"structured_outputs": {"structural_tag": tag}, "logit_bias": bias}
            ours.output_format.structural_tag = tag
            ours.sampling.logit_bias.update(bias)
        async with self._slots:
            twins = await self.twins(case.flags)
            return await asyncio.gather(twins.ours(ours), twins.theirs(theirs, ours))

    async def twins(self, flags: Flags) -> "Twins":
        from conformance.twins import twins

        if flags not in self._twins:
            served = twins(self._face if flags.markers else self._llm, flags)
            self._stacks.append(AsyncExitStack())
            entering = self._stacks[-1].enter_async_context(served)
            self._twins[flags] = asyncio.create_task(entering)
        return await self._twins[flags]

    async def close(self) -> None:
        await asyncio.gather(*(stack.aclose() for stack in self._stacks))


@pytest.fixture(scope="module")
async def runs(
    request: pytest.FixtureRequest,
    vllm: RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Runs]:
    """What is compared here, asked all at once: alone each would take a second."""
    llm: Any = vllm.engine.llm  # type: ignore[attr-defined]  # it is a VllmEngine
    from vllm.v1.engine import async_llm

    from conformance.twins import Separate

    made = Runs(llm, tmp_path_factory.mktemp("markers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(async_llm, "RequestOutputCollector", Separate)
        for item in request.session.items:
            params: Mapping[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
            if isinstance(params.get("case"), Case):
                made.start(params["case"])
        yield made
        await made.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_same_request_has_the_same_answer(runs: Runs, case: Case) -> None:
    """Text, thoughts, calls, why it ended, usage, tokens, log-probabilities, unary and streamed."""
    ours, theirs = await runs.answers(case)
    found = {
        f"{rpc}.{name}": (ours[rpc].get(name), theirs[rpc].get(name))
        for rpc in ours
        for name in differing(ours[rpc], theirs[rpc])
    }

    refusals = [form.get("refused", ()) for form in ours.values()]
    assert refusals == [case.refusal] * 2, [form.get("why") for form in ours.values()]
    assert found.keys() == case.differences.keys(), found
    for name, why in case.differences.items():
        assert why not in ONLY_SPELLED or spelled_alike(*found[name]), found[name]
    if case.meaning:
        called = [name for name, _ in theirs["unary"]["tool_calls"][0]]
        assert called == [name for name, _ in case.meaning.calls]
        assert ours["unary"]["reasoning"][0].strip() == case.meaning.thought


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in FIELDS
        if case.ours.include.prompt_token_ids and not UNTOLD & case.theirs.keys()
    ],
    ids=lambda case: case.name,
)
async def test_tokens_are_counted_alike(runs: Runs, case: Case) -> None:
    """CountTokens says what vLLM's /tokenize says: how many, which, and how many there may be."""
    twins = await runs.twins(case.flags)
    told = await twins.stub.CountTokens(
        pb.CountTokensRequest(request=case.ours, include_token_ids=True)
    )
    theirs = json.loads(await twins.post("tokenize", case.theirs))

    assert told.prompt_tokens == theirs["count"]
    assert list(told.token_ids) == theirs["tokens"]
    assert told.max_context_tokens == theirs["max_model_len"]


def test_every_field_is_compared() -> None:
    """Each field of a request is in some case, or has no counterpart."""
    used = set().union(*(set_leaves(case.ours) for case in CASES))
    every = dict(leaves(pb.ChatRequest.DESCRIPTOR)).keys()

    assert every - used == OURS_ALONE


def test_every_difference_is_met() -> None:
    """Each reason is that of some case."""
    assert {why for case in CASES for why in case.differs.values()} == set(Why)
