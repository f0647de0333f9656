"""What was said so far, and how a chat template puts it: in both vocabularies."""

from conformance.cases import ASKED, FRANCE, IDS, PLAIN, RICH, Flags, Why, case
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model

SAID = [
    {"text": "Hi."},
    {"role": pb.ROLE_ASSISTANT, "text": "Hello!"},
    {"text": "Who are you?"},
]
SAID_TO_VLLM = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Who are you?"},
]
CALLED = [
    {"text": FRANCE, "name": "ann"},
    {
        "role": pb.ROLE_ASSISTANT,
        "reasoning": "Look it up.",
        "tool_calls": [{"id": "1", "name": "look", "arguments": '{"up": "France"}'}],
    },
    {"role": pb.ROLE_TOOL, "tool_call_id": "1", "name": "look", "text": "Paris"},
]
CALLED_TO_VLLM = [
    {**ASKED, "name": "ann"},
    {
        "role": "assistant",
        "content": "",
        "reasoning": "Look it up.",
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"up": "France"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "1", "name": "look", "content": "Paris"},
]
MESSAGES = [
    case("a conversation", {"messages": SAID}, {"messages": SAID_TO_VLLM}),
    case(
        "a conversation and a query",
        {"messages": SAID[:2], "query": "Who are you?"},
        {"messages": SAID_TO_VLLM},
    ),
    case(
        "system",
        {"system": "Be rude.", **IDS},
        {"messages": [{"role": "system", "content": "Be rude."}, ASKED]},
    ),
    case(
        "the server's system",
        IDS,
        {"messages": [{"role": "system", "content": "Be brief."}, ASKED]},
        Flags(default_system="Be brief."),
    ),
    case("no system", {"system": "", **IDS}, {}, Flags(default_system="Be brief.")),
    case(
        "roles",
        {
            "messages": [
                {"role": pb.ROLE_SYSTEM, "text": "Be brief."},
                {"role": pb.ROLE_DEVELOPER, "text": "Be kind."},
                {"role": pb.ROLE_USER, "text": FRANCE},
            ],
            **IDS,
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": "Be kind."},
                ASKED,
            ]
        },
    ),
    case(
        "parts",
        {"messages": [{"parts": [{"text": "What is"}, {"text": "France?"}]}], **IDS},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is"},
                        {"type": "text", "text": "France?"},
                    ],
                }
            ]
        },
    ),
    case("a tool's result", {"messages": CALLED, **IDS}, {"messages": CALLED_TO_VLLM}),
    case(
        "a tool's result, names and thoughts in the prompt",
        {"messages": CALLED, **IDS},
        {"messages": CALLED_TO_VLLM},
        RICH,
    ),
    case("model", {"model": model.NAME}, {"model": model.NAME}),
]

DOCUMENTS = [{"title": "Atlas", "text": "France: Paris."}, {"title": "B", "text": "C"}]
TEMPLATE = [
    case(
        "continue_final_message",
        {
            "messages": [{"text": FRANCE}, {"role": pb.ROLE_ASSISTANT, "text": "It is, I"}],
            "template": {"continue_final_message": True},
            **IDS,
        },
        {
            "messages": [ASKED, {"role": "assistant", "content": "It is, I"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    case(
        "kwargs",
        {"template": {"kwargs": {"tone": "rude", "times": 3}}, **IDS},
        {"chat_template_kwargs": {"tone": "rude", "times": 3}},
        RICH,
    ),
    case(
        "unused kwargs",
        {"template": {"kwargs": {"tone": "rude"}}},
        {"chat_template_kwargs": {"tone": "rude"}},
        PLAIN,
        {"refused": Why.UNUSED},
        refusal=("FAILED_PRECONDITION", "template.kwargs.tone"),
    ),
    case(
        "documents", {"template": {"documents": DOCUMENTS}, **IDS}, {"documents": DOCUMENTS}, RICH
    ),
    case(
        "unused documents",
        {"template": {"documents": DOCUMENTS}},
        {"documents": DOCUMENTS},
        PLAIN,
        {"refused": Why.UNUSED},
        refusal=("FAILED_PRECONDITION", "template.documents"),
    ),
    case(
        "truncate_prompt_tokens",
        {"template": {"truncate_prompt_tokens": 9}, **IDS},
        {"truncate_prompt_tokens": 9, "truncation_side": "left"},
    ),
    case(
        "truncate_prompt_tokens to the context",
        {"query": "So. " * 1200, "template": {"truncate_prompt_tokens": -1}},
        {
            "messages": [{"role": "user", "content": "So. " * 1200}],
            "truncate_prompt_tokens": -1,
            "truncation_side": "left",
        },
        PLAIN,
        dict.fromkeys(("text", "prompt_tokens", "completion_tokens"), Why.ROOM),
    ),
]
