"""What holds an answer in form: named with its field where it cannot, or costs too much."""

import json
import re
from collections.abc import Sequence

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.request import get_structured_output_key

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import InvalidRequest, Violation
from talkwire_server.vllm_engine.grammars.peer import Peer
from talkwire_server.vllm_engine.grammars.plain import is_plain
from talkwire_server.vllm_engine.grammars.trials import Refused, Trials
from talkwire_server.vllm_engine.request import structured_outputs

_CODES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")


class Constraints:
    """Looks at formats and tools before the engine hears of them."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    async def check_format(self, request: pb.ChatRequest) -> None:
        """Try the format of an answer, before vLLM's renderer looks into it.

        Raises:
            InvalidRequest: It is refused.

        """
        if not request.HasField("output_format"):
            return
        wanted = StructuredOutputsParams(**structured_outputs(request.output_format))
        try:
            await self._trials.held(wanted)
        except Refused as error:
            raise InvalidRequest([Violation(held_field(request), str(error))]) from None

    async def hold(
        self, request: pb.ChatRequest, constraint: StructuredOutputsParams | None
    ) -> Peer | None:
        """Try what vLLM's renderer made of format and tools; return what follows it, if need be.

        Raises:
            InvalidRequest: It is refused, for a tool or altogether.

        """
        if constraint is None:
            return None
        try:
            return await self._trials.held(constraint)
        except Refused as error:
            faults = await self._faulty_tools(request, str(error))
            whole = Violation(held_field(request), str(error))
            raise InvalidRequest(faults or [whole]) from None

    async def _faulty_tools(self, request: pb.ChatRequest, cost: str) -> Sequence[Violation]:
        """Find the tools that are to blame; for what all cost, the only one that is not plain."""
        faults, dear = [], []
        for i, tool in enumerate(request.tools):
            path = f"tools[{i}].function.parameters"
            schema = StructuredOutputsParams(json=tool.function.parameters or "{}")
            if fault := await self._trials.fault(schema):
                faults.append(Violation(path, fault))
            elif not is_plain(*get_structured_output_key(schema)):
                dear.append(Violation(path, cost))
        return faults or (dear if len(dear) == 1 else [])


def held_text(request: pb.ChatRequest) -> str:
    """Return what that field says, with the characters that JSON or a regex spells as codes."""
    form, kind = request.output_format, request.output_format.WhichOneof("format")
    if kind == "choice":
        return "".join(form.choice.values)
    said = [str(getattr(form, kind))] if kind else [t.function.parameters for t in request.tools]
    return _CODES.sub(lambda found: str(json.loads(f'"{found[0]}"')), "".join(said))


def held_field(request: pb.ChatRequest) -> str:
    """Name the field to whose form an answer is held."""
    if kind := request.output_format.WhichOneof("format"):
        return f"output_format.{kind}"
    return "tools" if request.tools else "request"
