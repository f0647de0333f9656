"""Answers in models' formats: what is read of them does not depend on how they are cut."""

import json
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from formats import COMMON, MEANINGS, RARE, TOOLS, Format
from outputs import OUTPUTS
from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model, vllm_engine
from talkwire_server.engine import StartError
from talkwire_server.settings import Settings

if TYPE_CHECKING:
    from readers import Read, Reader

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"
)

ALL = COMMON | RARE

# Where more than white space is lost, by vLLM's own parsers: what they do.
ODD = {
    ("gigachat3", "two calls"): "knows one call only",
    ("granite-20b-fc", "text, then a call"): "leaves the call in the text, too",
    ("internlm", "two calls"): "fails at the second, which is text then",
    ("llama3_json", "text, then a call"): "leaves the call in the text, too",
    ("llama4_json", "text, then a call"): "leaves the call in the text, too",
    ("llama4_pythonic", "text, then a call"): "knows calls at the beginning only",
    ("minicpm5", "text, then a call"): "drops the text",
    ("olmo3", "a thought, text, two calls"): "drops the text",
    ("olmo3", "text, then a call"): "drops the text",
    ("phi4_mini_json", "nested"): "ends the calls at the first bracket",
    ("phi4_mini_json", "text, then a call"): "drops the text",
    ("pythonic", "text, then a call"): "knows calls at the beginning only",
    ("step3", "nested"): "takes an object for text",
    ("xlam", "text, then a call"): "knows calls at the beginning only",
}
# Where vLLM's parser fails, and the request to vLLM's HTTP server with it.
FAILING = {("internlm", "two calls")}

# Where vLLM's HTTP server says more than white space apart from us when it does not stream.
UNLIKE_UNARY = {
    ("gigachat3", "two calls"): "gives up",
    ("granite-20b-fc", "text, then a call"): "takes the call out of the text",
    ("llama3_json", "text, then a call"): "drops the text",
    ("llama4_json", "text, then a call"): "drops the text",
    ("qwen3 told not to think", "text"): "forgets the prompt, and takes text for a thought",
    ("qwen3 told not to think", "text, then a call"): "the same",
}

# Parsers of vLLM's that no format here exercises, and why.
UNREAD_TOOLS = {
    "cohere_command3": "needs a package of Cohere's",
    "cohere_command4": "needs a package of Cohere's",
    "hf": "needs a tokenizer that brings a response template along",
    "openai": "gpt-oss's, which has its own test",
}
UNREAD_REASONING = {
    "cohere_command3": "needs a package of Cohere's",
    "cohere_command4": "needs a package of Cohere's",
    "hf": "needs a tokenizer that brings a response template along",
    "hunyuan_a13b": "knows its own tokens by their ids",
    "minimax_m2_append_think": "leaves thoughts in the text, as told",
    "openai_gptoss": "gpt-oss's, which has its own test",
}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import vLLM as the server does, without starting anything."""
    path = str(model.prepare())
    _, on_cpu = vllm_engine.installed()
    for key, value in vllm_engine.environment(Settings(), path, on_cpu=on_cpu).items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own
        import readers  # noqa: F401


def configured(*flags: str) -> Any:
    """Return vLLM's configuration of the embedded model."""
    from talkwire_server.vllm_engine.config import configure

    settings = Settings(engine_args=("--max-model-len", "2048", *flags))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own
        return configure(settings, str(model.prepare()), ["model"])


def renderer(settings: Settings, *flags: str) -> Any:
    """Return a server's renderer, with its parsers."""
    from vllm.renderers.registry import renderer_from_config

    from talkwire_server.vllm_engine.parsers import make_renderer

    config = configured(*flags)
    return make_renderer(config, renderer_from_config(config), None, settings)


def reader_of(name: str, **asked: Any) -> "Reader":
    """Return a reader of a format, or of gpt-oss's."""
    from readers import HarmonyReader, Reader

    if name == "harmony":
        return HarmonyReader(Format("openai", "openai_gptoss"), **asked)
    return Reader(ALL[name], **asked)


def written(name: str) -> dict[str, str]:
    """Return what can be said in a format, by its meaning."""
    every = {what: ALL[name].write(meaning) for what, meaning in MEANINGS.items()}
    return {what: text for what, text in every.items() if text}


def meant(what: str) -> "Read":
    """Return how a meaning reads."""
    from readers import Read

    meaning = MEANINGS[what]
    calls = [(name, json.dumps(arguments)) for name, arguments in meaning.calls]
    return Read(meaning.text, meaning.thought, calls)


# However an answer is cut


@pytest.mark.parametrize("name", OUTPUTS)
async def test_the_echo_engines_stream_reads_as_its_unary_answer(name: str) -> None:
    """What it says in a model's format is read as it is meant, wherever its stream is cut.

    It says each output twice, in one delta and as a stream. Its tokens are words, and their ids are
    places; so each word is given the tokens that the model's tokenizer makes of it. The stream is
    cut after every word and after every token, and after any one of them alone: none is left out.
    """
    from readers import Read, all_cuts, echoed, merged

    reader = reader_of(name)
    for what, output in OUTPUTS[name].items():
        words = await echoed(output.written)
        said = reader.said(words, output.end)
        tokens = [piece for word in said for piece in word]
        unary = reader.read(merged(tokens))

        assert ["".join(words)] == await echoed(output.written, final_only=True)
        assert unary == Read(output.text, output.thought, list(output.calls)), what
        for cut in (*all_cuts([merged(word)[0] for word in said]), *all_cuts(tokens)):
            assert reader.read(cut) == unary, (what, [text for text, _ in cut])


@pytest.mark.parametrize("name", ALL)
def test_a_stream_says_what_a_unary_answer_says(name: str) -> None:
    """Cut after every token, after any one of them alone, and anywhere: the same, to the byte.

    In the formats that the most models write none is left out. In the others every 16th is cut at
    alone, because all of them would take minutes; the cut after every token has all of them.
    """
    from readers import Reader, all_cuts, merged

    reader = Reader(ALL[name])
    for what, text in written(name).items():
        pieces = reader.answer(text)
        whole = reader.read(merged(pieces))
        for cut in all_cuts(pieces, step=1 if name in COMMON else 16):
            assert reader.read(cut) == whole, (what, [text for text, _ in cut])


@pytest.mark.parametrize("name", [*COMMON, "internlm", "harmony"])
def test_a_truncated_answer_reads_the_same_in_a_stream(name: str) -> None:
    """Amid a call, a thought, a character: by its length, or by an abort that brings no token.

    Also where vLLM's parser fails at what is there.
    """
    from readers import merged

    reader, texts = reader_of(name), [output.written for output in OUTPUTS.get(name, {}).values()]
    if name in ALL:
        said = written(name)
        long = ("unicode and escapes", "a thought, text, two calls", "a thought, then text")
        texts += [said[what] for what in long if what in said]
    for text in texts:
        ids = reader.encode(text)
        for end in range(1, len(ids)):
            pieces = reader.pieces(ids[:end])
            whole = reader.read(merged(pieces))
            assert reader.read(pieces) == whole, reader.tokenizer.decode(ids[:end])
            assert reader.read(pieces, aborted=True) == whole


@pytest.mark.parametrize("name", COMMON)
def test_text_that_is_held_back(name: str) -> None:
    """Where text may be a stop word it comes later than its tokens, and what is read is the same.

    The stop words end nothing, the text, or the arguments of a call. The answers are cut after
    every token, and after every 8th alone: all would take minutes.
    """
    from readers import Reader, all_cuts, merged

    reader = Reader(COMMON[name])
    for what in ("text, then a call", "a thought, then text", "unicode and escapes"):
        ids = [*reader.encode(written(name).get(what, "")), reader.tokenizer.eos_token_id]
        for stop in ("never said", "look", "東京", "unit", "Yes"):
            pieces = reader.pieces(ids, ended=True, stop=[stop])
            whole = reader.read(merged(pieces))
            for cut in all_cuts(pieces, step=8):
                assert reader.read(cut) == whole, (what, stop, [text for text, _ in cut])
        assert reader.read(reader.pieces(ids, ended=True, stop=["never said"])) == reader.read(
            reader.pieces(ids, ended=True)
        )


# What is read


@pytest.mark.parametrize("name", ALL)
def test_what_is_read_is_what_was_meant(name: str) -> None:
    """Text, thoughts and calls arrive as such; where vLLM's parsers lose some is listed."""
    from readers import Reader

    reader = Reader(ALL[name])
    for what, text in written(name).items():
        read = reader.read(reader.answer(text))
        alike = read.loosely() == meant(what).loosely()
        assert alike != ((name, what) in ODD), (what, read)


@pytest.mark.parametrize("name", ALL)
def test_what_vllm_says_itself(name: str) -> None:
    """To the byte what its HTTP server streams, but for the parsers whose streaming is broken.

    Unasked to stream it strips white space off, and differs more where that is listed.
    """
    from readers import Reader
    from talkwire_server.vllm_engine.misreadings import AGAIN, WHOLE

    reader = Reader(ALL[name])
    streamed = []
    for what, text in written(name).items():
        pieces = reader.answer(text)
        if (name, what) in FAILING:
            with pytest.raises(ValueError, match="too many values"):
                reader.read_as_vllm_streams(pieces)
            continue
        read = reader.read(pieces)
        streamed.append(read == reader.read_as_vllm_streams(pieces))
        alike = read.loosely() == reader.read_as_vllm_does(pieces).loosely()
        assert alike != ((name, what) in UNLIKE_UNARY), (what, read)
    assert all(streamed) != (type(reader.parser().tool_parser).__name__ in WHOLE | AGAIN)


def test_all_parsers_are_exercised() -> None:
    """Each of vLLM's, or it is listed why it is not."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    tools = {form.tools for form in ALL.values()}
    reasoning = {form.reasoning for form in ALL.values()}

    assert set(ToolParserManager.list_registered()) - tools == UNREAD_TOOLS.keys()
    assert set(ReasoningParserManager.list_registered()) - reasoning == UNREAD_REASONING.keys()


# gpt-oss, and Mistral's own tokenizers


def test_harmony_without_tools() -> None:
    """A call that nobody allowed is not told, nor is it text."""
    from readers import Read

    reader = reader_of("harmony", tools=None, tool_choice="none")
    output = OUTPUTS["harmony"]["a thought, a call"]

    assert reader.read(reader.answer(output.written)) == Read("", output.thought, [])


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tekken_240911.json", "tekken.json"),
        ("mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model.v7"),
    ],
)
def test_the_tokenizers_of_mistral(source: str, name: str, tmp_path: Path) -> None:
    """Which are not Hugging Face's, and whose text vLLM makes in another way."""
    from readers import MistralReader, Read, all_cuts, mistral_tokenizer

    calls = [("get_weather", '{"city": "Zürich \\"東京\\""}'), ("now", "{}")]
    array = ", ".join(f'{{"name": "{n}", "arguments": {arguments}}}' for n, arguments in calls)
    reader = MistralReader(mistral_tokenizer(tmp_path, source, name))
    pieces = reader.answer(f"Let me look: 日本語.[TOOL_CALLS][{array}]")

    for cut in all_cuts(pieces):
        assert reader.read(cut) == Read("Let me look: 日本語.", "", calls)


def test_where_a_parser_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What it has told stays, the rest is text, and the log has the cause by the request's id."""
    from readers import Read, Reader

    reader = Reader(ALL["internlm"])
    first, rest = written("internlm")["two calls"].split("<|action_end|>", 1)
    ended = reader.read(reader.answer(first + "<|action_end|>"))
    read = reader.read(reader.answer(f"{first}<|action_end|>{rest} And so on."))

    assert read == Read(f"<|action_end|>{rest} And so on.", "", ended.calls)
    assert [record.getMessage() for record in caplog.records if record.name == "talkwire"] == [
        f"request {reader.request.request_id}: vLLM cannot read its answer; what is left is text"
    ]


def test_a_call_without_a_name() -> None:
    """What its arguments would be is text, and the calls beside it are numbered without it."""
    from readers import Read, Reader

    nameless = '[TOOL_CALLS][{"name!": "now", "arguments": {"city": "Paris"}}]'
    reader = Reader(ALL["mistral before 2025"])
    assert reader.read(reader.answer(nameless)) == Read('{"city": "Paris"}', "", [])

    written = "<tool_call>\n<{}>\n</function>\n</tool_call>"
    answer = written.format("func") + written.format("function=now")
    reader = Reader(ALL["qwen3_coder"])
    assert reader.read(reader.answer(answer)).calls == [("now", "{}")]


# What the request says of calls and thoughts


def reader_of_two(name: str = "qwen3 with hermes", **asked: Any) -> tuple["Reader", list[Any]]:
    """Return a reader and an answer with a thought, text and two calls."""
    from readers import Reader

    reader = Reader(ALL[name], **asked)
    return reader, reader.answer(written(name)["a thought, text, two calls"])


def test_only_one_call() -> None:
    """Without parallel calls the first is told."""
    reader, pieces = reader_of_two(parallel_tool_calls=False)

    assert reader.read(pieces).calls == meant("one call").calls


def test_no_calls() -> None:
    """With the choice `none` the markup stays text, and no call is told."""
    reader, pieces = reader_of_two(tool_choice="none")
    reading = reader.reading()
    delta = pb.ChatStreamResponse()
    for text, ids in pieces:
        reading.read(delta, text, ids, finished=False)

    assert not delta.tool_calls
    assert not reading.called
    assert "<tool_call>" in delta.text


def test_thoughts_that_are_not_asked_for() -> None:
    """They are counted, but not sent; the rest is the same."""
    reader, pieces = reader_of_two("deepseek_r1 with hermes")
    plain, silent = reader.reading(), reader.reading(exclude_reasoning=True)
    told, untold = pb.ChatStreamResponse(), pb.ChatStreamResponse()
    for i, (text, ids) in enumerate(pieces, 1):
        plain.read(told, text, ids, finished=i == len(pieces))
        silent.read(untold, text, ids, finished=i == len(pieces))

    assert told.reasoning == MEANINGS["a thought, text, two calls"].thought
    assert untold.reasoning == ""
    assert untold.text == told.text
    assert [call.arguments for call in untold.tool_calls] == [c.arguments for c in told.tool_calls]
    assert plain.reasoning_tokens == silent.reasoning_tokens
    assert plain.reasoning_tokens == len(reader.encode(told.reasoning))


# Forced calls, without a parser of calls

FORCED: dict[str, tuple[Any, str, list[tuple[str, str]]]] = {
    "required": (
        "required",
        '[{"name": "get_weather", "parameters": {"city": "Zürich \\"東京\\""}},'
        ' {"name": "now", "parameters": {}}]',
        [("get_weather", '{"city": "Zürich \\"東京\\""}'), ("now", "{}")],
    ),
    "a function": (
        {"type": "function", "function": {"name": "now"}},
        '{"city": "Zürich \\"東京\\""}',
        [("now", '{"city": "Zürich \\"東京\\""}')],
    ),
}


@pytest.mark.parametrize("reasoning", [None, "deepseek_r1", "qwen3"])
@pytest.mark.parametrize("how", FORCED)
def test_a_forced_call_needs_no_parser(how: str, reasoning: str | None) -> None:
    """Grammar makes it JSON; whole, cut or truncated anywhere it reads the same."""
    from readers import Read, Reader, all_cuts, merged

    choice, text, calls = FORCED[how]
    think = ("<think>", "</think>")
    form = Format(None, reasoning, None, think if reasoning else None, added=think)
    reader = Reader(form, tools=TOOLS, tool_choice=choice)
    thought = "Hm, 東京." if reasoning else ""
    ids = reader.encode(thought and f"<think>{thought}</think>") + reader.encode(text)
    pieces = reader.pieces([*ids, reader.tokenizer.eos_token_id], ended=True)

    assert reader.request.structured_outputs.json
    for cut in all_cuts(pieces):
        assert reader.read(cut) == Read("", thought, calls)
    for end in range(1, len(ids)):
        pieces = reader.pieces(ids[:end])
        assert reader.read(pieces) == reader.read(merged(pieces))


async def test_vllm_renders_forced_calls_without_a_parser() -> None:
    """Where it would ask for --tool-call-parser it is content, and constrains the answer."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    made = renderer(Settings())
    for choice, *_ in FORCED.values():
        request = ChatCompletionRequest(
            messages=[{"role": "user", "content": "Hi"}],
            tools=TOOLS,
            tool_choice=choice,
            max_completion_tokens=8,
        )
        rendered = await made.render_chat(request)

        assert isinstance(rendered, tuple), rendered
        assert request.structured_outputs.json


NOW = {"tools": [{"function": {"name": "now"}}]}


def test_when_a_parser_is_needed() -> None:
    """Where the model may call tools or think. Plain text is passed on as it is."""
    from talkwire_server.vllm_engine.parsers import needs_parser

    plain = renderer(Settings())
    calling = renderer(Settings(tool_call_parser="hermes"))
    thinking = renderer(Settings(), "--reasoning-parser", "granite")
    text, may = make(pb.ChatRequest, query="Hi"), make(pb.ChatRequest, query="Hi", **NOW)
    none = make(pb.ChatRequest, query="Hi", tool_choice={"mode": pb.ToolChoice.MODE_NONE}, **NOW)

    assert [needs_parser(plain, request) for request in (text, none, may)] == [False, False, True]
    assert [needs_parser(calling, request) for request in (text, none, may)] == [False, False, True]
    assert [needs_parser(thinking, request) for request in (text, none, may)] == [True, True, True]


# What an operator reads


def test_a_parser_that_there_is_not() -> None:
    """The flag, the parser that may have been meant, and all that there are."""
    from talkwire_server.vllm_engine.parsers import check_parsers

    with pytest.raises(StartError) as caught:
        check_parsers(Settings(tool_call_parser="qwen3_code"), configured())
    assert str(caught.value).startswith(
        "--tool-call-parser qwen3_code: no such parser; did you mean qwen3_coder? There are apertus"
    )
    with pytest.raises(StartError) as caught:
        configured("--reasoning-parser", "qwen")
    assert str(caught.value).startswith(
        "--reasoning-parser qwen: no such parser; did you mean qwen3? There are cohere"
    )


def test_a_parser_that_does_not_fit_the_tokenizer() -> None:
    """The reason that vLLM gives, with its flag."""
    with pytest.raises(StartError, match="--tool-call-parser jamba cannot be used"):
        renderer(Settings(tool_call_parser="jamba"))


PLUGIN = """
from vllm.tool_parsers import ToolParser, ToolParserManager

@ToolParserManager.register_module("mine")
class Mine(ToolParser):
    pass
"""


def test_plugins(tmp_path: Path) -> None:
    """A file's parser is found by the name it gives; a file that fails is named."""
    from vllm.tool_parsers import ToolParserManager

    from talkwire_server.vllm_engine.parsers import check_parsers

    good, bad = tmp_path / "my_parser.py", tmp_path / "my_fault.py"
    good.write_text(PLUGIN)
    bad.write_text("1 / 0")
    check_parsers(Settings(tool_call_parser="mine", tool_parser_plugin=str(good)), configured())
    del ToolParserManager.lazy_parsers["mine"]

    with pytest.raises(StartError, match=f"^--tool-parser-plugin {bad} cannot be imported"):
        check_parsers(Settings(tool_parser_plugin=str(bad)), configured())
    with pytest.raises(StartError, match=f"^--reasoning-parser-plugin {bad} cannot be imported"):
        configured("--reasoning-parser-plugin", str(bad))


def test_a_model_whose_format_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt-oss calls tools in its own format alone, so that nobody need name the parser."""
    from talkwire_server.vllm_engine.parsers import tool_parser

    config = configured()
    assert tool_parser(Settings(), config) is None
    monkeypatch.setattr(config.model_config.hf_config, "model_type", "gpt_oss")
    assert tool_parser(Settings(), config) == "openai"
