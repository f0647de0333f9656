"""Which of vLLM's parsers misread a format, and how they are to be asked so that they do not."""

from dataclasses import dataclass

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser

# Tool parsers whose streaming is broken in vLLM, so that they read an answer only once it is whole.
WHOLE = {
    "FunctionGemmaToolParser",  # closes the arguments after the first of them
    "HunyuanA13BToolParser",  # misses calls that follow text, and nested arguments
    "JambaToolParser",  # garbles nested arguments
    "MiniCPM5XMLToolParser",  # sends the markup as text, too
    "Olmo3PythonicToolParser",  # sends the markup as text
    "Phi4MiniJsonToolParser",  # sends nothing
    "xLAMToolParser",  # loses nested arguments
}

# And one where it is, if a structural tag holds the answer: it loses a `<` of the text.
GUIDED = {"HYV4ToolParser"}

# And those whose streaming misses calls that follow text, or empty arguments: what they find in
# the whole is sent at the end. Their markup is in the text by then. To read only the whole would
# take it out, but for some of them the text as well, and nobody's text would be streamed.
AGAIN = {
    "Granite20bFCToolParser",
    "Internlm2ToolParser",
    "Llama3JsonToolParser",
    "MiniMaxM2AppendThinkReasoningParser",  # hides calls in a thought that does not end
    "Step3ToolParser",
}

# And one that must not be told of the end, because no token comes with it.
ENDLESS = {"HunyuanA13BReasoningParser"}


@dataclass(frozen=True)
class Way:
    """How a parser is to be asked about an answer.

    Attributes:
        whole: Only once the answer is whole.
        again: Token by token, and again once the answer is whole.
        endless: Without being told of the end.

    """

    whole: bool
    again: bool
    endless: bool


def way(parser: Parser, request: ChatCompletionRequest) -> Way:
    """Find the way to ask a parser about the answer to a request."""
    names = {type(part).__name__ for part in (parser.tool_parser, parser.reasoning_parser)}
    held = request.structured_outputs and request.structured_outputs.structural_tag
    return Way(
        whole=bool(names & (WHOLE | GUIDED if held else WHOLE)) and request.tool_choice == "auto",
        again=bool(names & AGAIN) and request.tool_choice != "none",
        endless=bool(names & ENDLESS),
    )
