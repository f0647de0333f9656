"""What an answer carries besides text, and how it may end early or go on, on the real engine."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from support import RunningServer, make
from talkwire import AsyncClient, ContextLengthExceeded, InvalidRequest, Unsupported
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model

pytestmark = pytest.mark.timeout(300)

FRANCE = "What is the capital of France?"


def ask(query: str = FRANCE, **fields: Any) -> pb.ChatRequest:
    """Make a greedy request of few tokens."""
    sampling = {"temperature": 0, "max_tokens": 12, **fields.pop("sampling", {})}
    return make(pb.ChatRequest, query=query, sampling=sampling, **fields)


def forward(token_ids: Sequence[int]) -> Any:
    """Log-probabilities of every next token, as transformers computes them on the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model.prepare(), dtype=torch.float32).eval()
    with torch.no_grad():
        return net(torch.tensor([list(token_ids)])).logits[0].log_softmax(-1)


async def test_log_probabilities_are_those_of_transformers(llm: AsyncClient) -> None:
    """Sampled tokens, alternatives and the prompt's, to 2e-2; ranks and order, too."""
    include = {"logprobs": 3, "prompt_logprobs": 2, "token_ids": True, "prompt_token_ids": True}
    answer = await llm.stub.Chat(ask(include=include))
    prompt = list(answer.prompt_token_ids)
    expected = await asyncio.to_thread(forward, prompt + list(answer.token_ids))

    assert [lp.token_id for lp in answer.logprobs] == list(answer.token_ids)
    assert "".join(lp.token for lp in answer.logprobs).startswith(answer.message.text)
    for i, lp in enumerate(answer.logprobs):
        row = expected[len(prompt) - 1 + i]
        assert lp.logprob == pytest.approx(row[lp.token_id].item(), abs=2e-2)
        assert lp.rank == 1
        assert [a.rank for a in lp.alternatives] == [1, 2, 3]
        for other in lp.alternatives:
            assert other.logprob == pytest.approx(row[other.token_id].item(), abs=2e-2)
    assert [lp.token_id for lp in answer.prompt_logprobs] == prompt
    assert not answer.prompt_logprobs[0].HasField("logprob")
    for i, lp in enumerate(answer.prompt_logprobs[1:]):
        assert lp.logprob == pytest.approx(expected[i][lp.token_id].item(), abs=2e-2)
        assert len(lp.alternatives) == 2


async def test_a_stream_carries_the_same(llm: AsyncClient) -> None:
    """Ids and log-probabilities ride beside their text; those of the prompt come once, first."""
    include = {"logprobs": 1, "prompt_logprobs": 0, "token_ids": True, "prompt_token_ids": True}
    unary = await llm.stub.Chat(ask(include=include))
    deltas = [delta async for delta in llm.stub.ChatStream(ask(include=include))]

    assert len(deltas) > 3
    assert deltas[0].prompt_token_ids == unary.prompt_token_ids
    assert len(deltas[0].prompt_logprobs) == len(unary.prompt_token_ids)
    assert not any(d.prompt_token_ids or d.prompt_logprobs for d in deltas[1:])
    assert [t for d in deltas for t in d.token_ids] == list(unary.token_ids)
    assert [lp.token for d in deltas for lp in d.logprobs] == [lp.token for lp in unary.logprobs]
    assert all(len(d.token_ids) == len(d.logprobs) for d in deltas)


async def test_tokens_that_are_no_text_have_their_bytes(llm: AsyncClient) -> None:
    """Half a character is told in bytes; all bytes together are the text."""
    request = ask("x", include={"logprobs": 0}, output_format={"regex": "鰻🦜ж"})
    answer = await llm.stub.Chat(request)
    made = b"".join(
        lp.token_bytes or lp.token.encode() for lp in answer.logprobs if "<|" not in lp.token
    )

    assert answer.message.text == "鰻🦜ж"
    assert made.decode() == answer.message.text
    assert any(lp.token_bytes for lp in answer.logprobs)


async def test_n_answers_are_reproducible(llm: AsyncClient) -> None:
    """Four drawn answers differ, and come again with the same seed, streamed or not."""
    request = ask("Tell a joke.", n=4, sampling={"temperature": 1, "top_p": 1, "seed": 7})
    first, second = await llm.send(request), await llm.send(request)
    async with llm.send_stream(request) as stream:
        streamed = await stream.wait()

    texts = [[a.text, *(c.message.text for c in a.proto.alternatives)] for a in (first, second)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    assert [streamed.text, *(c.message.text for c in streamed.proto.alternatives)] == texts[0]
    assert first.usage.completion_tokens > 12
    with pytest.raises(InvalidRequest, match="n: must be <= "):
        await llm.send(ask(n=10_000))


async def test_a_seed_holds_however_the_prompt_is_computed(llm: AsyncClient) -> None:
    """In parts, since it is longer than a step or beside others, or at once: the same draws."""
    prompts = ["Me. " * words for words in (10, 500, 600)]
    drawn: Any = {"seed": 1, "temperature": 1.0, "max_tokens": 8}

    alone = [(await llm.chat(prompt, **drawn)).text for prompt in prompts]
    together = await asyncio.gather(*(llm.chat(prompt, **drawn) for prompt in prompts))

    assert [answer.text for answer in together] == alone


async def test_the_first_message_opens_all_answers(llm: AsyncClient) -> None:
    """Whichever of n answers speaks first: id, model and the prompt's ids are there, and once."""
    request = ask(n=4, sampling={"temperature": 1, "seed": 3, "stop": ["The capital of"]})
    request.include.prompt_token_ids = True
    deltas = [delta async for delta in llm.stub.ChatStream(request)]

    assert deltas[0].id
    assert deltas[0].model == model.NAME
    assert len(deltas[0].prompt_token_ids) == deltas[-1].usage.prompt_tokens
    assert not any(d.id or d.model or d.prompt_token_ids for d in deltas[1:])
    assert [d.HasField("usage") for d in deltas] == [False] * (len(deltas) - 1) + [True]


async def test_a_prompt_that_cannot_fit_is_not_even_tokenized(llm: AsyncClient) -> None:
    """Fifteen megabytes are refused before anybody else has to wait for their tokenizing."""
    with pytest.raises(ContextLengthExceeded) as caught:
        await llm.chat("x" * (15 << 20))

    assert caught.value.prompt_tokens > caught.value.max_context_tokens == 2048


async def test_variables_of_the_renderer_are_not_the_templates(llm: AsyncClient) -> None:
    """What would reach the tokenizer, and none of its Python gets out."""
    request = ask()
    request.template.kwargs.update({"self": 1, "padding": True, "max_length": 3})
    with pytest.raises(InvalidRequest) as caught:
        await llm.send(request)

    assert [v.field for v in caught.value.violations] == [
        "template.kwargs.max_length",
        "template.kwargs.padding",
        "template.kwargs.self",
    ]


async def test_biases_and_bounds_of_tokens(llm: AsyncClient) -> None:
    """logit_bias, allowed_token_ids, bad_words, min_tokens do what their names say."""
    plain = await llm.stub.Chat(ask(include={"token_ids": True}))
    first = plain.token_ids[0]
    biased = await llm.stub.Chat(
        ask(include={"token_ids": True}, sampling={"logit_bias": {first: -100}})
    )
    bounded = await llm.stub.Chat(
        ask(include={"token_ids": True}, sampling={"allowed_token_ids": [504, 260]})
    )
    without = await llm.stub.Chat(ask(sampling={"bad_words": ["Paris"]}))
    longer = await llm.stub.Chat(ask(sampling={"min_tokens": 11}))

    assert first not in biased.token_ids
    assert set(bounded.token_ids) == {504, 260} or set(bounded.token_ids) < {504, 260}
    assert "Paris" in plain.message.text
    assert "Paris" not in without.message.text
    assert plain.usage.completion_tokens < 11 <= longer.usage.completion_tokens


async def test_the_prompt_can_be_cut(llm: AsyncClient) -> None:
    """truncate_prompt_tokens keeps the last; -1 makes an over-long prompt fit."""
    whole = await llm.stub.Chat(ask(include={"prompt_token_ids": True}))
    cut = await llm.stub.Chat(
        ask(include={"prompt_token_ids": True}, template={"truncate_prompt_tokens": 9})
    )
    long = await llm.send(ask(FRANCE * 500, template={"truncate_prompt_tokens": -1}))

    assert list(cut.prompt_token_ids) == list(whole.prompt_token_ids)[-9:]
    assert long.usage.completion_tokens > 0
    assert long.usage.prompt_tokens == 2048 - 12


async def test_what_the_template_does_not_use_is_refused(llm: AsyncClient) -> None:
    """Documents and variables that would vanish silently are named."""
    request = ask(template={"documents": [{"text": "a"}]})
    request.template.kwargs["mood"] = "gay"
    with pytest.raises(Unsupported) as caught:
        await llm.send(request)

    assert "template.kwargs.mood" in caught.value.message
    assert "template.documents" in caught.value.message


async def test_priority_reorders_a_full_queue(llm: AsyncClient, vllm: RunningServer) -> None:
    """Of those that wait, the lowest number goes first."""
    order: list[int] = []

    async def run(priority: int) -> None:
        await llm.send(ask(priority=priority, sampling={"max_tokens": 1}))
        order.append(priority)

    full = [
        asyncio.ensure_future(llm.send(ask(sampling={"max_tokens": 24, "ignore_eos": True})))
        for _ in range(32)
    ]
    while vllm.engine.unfinished < 32:  # noqa: ASYNC110  # the engine has no event for it
        await asyncio.sleep(0.01)
    waiting = []
    for priority in (3, 9, 5, -1):
        waiting.append(asyncio.ensure_future(run(priority)))
        while vllm.engine.unfinished < 32 + len(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await asyncio.gather(*full, *waiting)

    assert order == sorted(order)


async def test_count_tokens_tells_what_the_model_sees(llm: AsyncClient) -> None:
    """The prompt's length is that of the answer's usage; its text and ids are the prompt's."""
    request = ask(include={"prompt_token_ids": True})
    answer = await llm.stub.Chat(request)
    told = await llm.stub.CountTokens(
        pb.CountTokensRequest(request=request, include_prompt=True, include_token_ids=True)
    )

    assert told.prompt_tokens == answer.usage.prompt_tokens == len(told.token_ids)
    assert told.token_ids == answer.prompt_token_ids
    assert told.prompt.startswith("<|im_start|>system\n")
    assert told.prompt.endswith(f"{FRANCE}<|im_end|>\n<|im_start|>assistant\n")
    assert told.max_context_tokens == 2048


async def test_the_model_hears_of_tools_and_calls(llm: AsyncClient) -> None:
    """The embedded model's template shows them; a prompt that is cut is shown as it is cut."""
    tool = {"name": "look", "parameters": {"type": "object"}}
    calls = [{"id": "1", "name": "look", "arguments": '{"up": 1}'}]
    called = make(pb.Message, role="ROLE_ASSISTANT", tool_calls=calls)
    told = await llm.count_tokens("x", messages=[called], tools=[tool], include_prompt=True)
    cut = await llm.count_tokens("one two three", truncate_prompt_tokens=4, include_prompt=True)

    assert '<tools>\n{"type": "function", "function": {"name": "look"' in told.prompt
    assert '<tool_call>\n{"name": "look", "arguments": {"up": 1}}\n</tool_call>' in told.prompt
    assert cut.prompt == "<|im_start|>assistant\n"
    assert cut.prompt_tokens == 4


@pytest.mark.parametrize("rpc", ["Chat", "ChatStream"])
async def test_a_time_limit_ends_an_answer_well(llm: AsyncClient, rpc: str) -> None:
    """TIME_LIMIT with the text so far and usage, streamed or not; even before the first token."""
    for seconds, least in ((2, 1), (0.000001, 0)):
        request = ask(sampling={"max_tokens": 2000, "ignore_eos": True})
        request.time_limit.FromNanoseconds(int(seconds * 1e9))
        if rpc == "Chat":
            answer = await llm.send(request)
        else:
            async with llm.send_stream(request) as stream:
                answer = await stream.wait()

        assert answer.finish_reason == "time_limit"
        assert least <= answer.usage.completion_tokens < 2000
        assert bool(answer.text) == bool(least)
        assert answer.complete


async def test_abort_ends_an_answer_well(llm: AsyncClient, vllm: RunningServer) -> None:
    """The stream of another caller finishes ABORTED, with usage, and vLLM is idle."""
    sampling = {"temperature": 1, "max_tokens": 1500, "ignore_eos": True}
    request = ask(request_id="mine", n=2, sampling=sampling)
    deltas = []
    call = llm.stub.ChatStream(request)
    async for delta in call:
        deltas.append(delta)
        if len(deltas) == 4:
            found = await llm.stub.Abort(pb.AbortRequest(id="mine"))

    assert found.found
    assert {d.finish_reason for d in deltas if d.finish_reason} == {pb.FINISH_REASON_ABORTED}
    assert deltas[-1].usage.completion_tokens >= 4
    assert vllm.engine.unfinished == 0
    assert not (await llm.stub.Abort(pb.AbortRequest(id="mine"))).found


async def test_engine_options_are_those_that_the_operator_names(llm: AsyncClient) -> None:
    """An allowed one works, others are refused by name, bad values are named."""
    request = ask(sampling={"max_tokens": 200, "ignore_eos": True})
    request.engine_options.update({"repetition_detection": {"max_pattern_size": 4, "min_count": 3}})
    answer = await llm.send(request)

    assert answer.finish_reason in ("repetition", "length")
    request.engine_options.update({"use_beam_search": True})
    with pytest.raises(Unsupported, match=r"engine_options\.use_beam_search"):
        await llm.send(request)
    bad = ask()
    bad.engine_options.update({"repetition_detection": "often"})
    with pytest.raises(InvalidRequest, match=r"engine_options\.repetition_detection"):
        await llm.send(bad)


async def test_log_probabilities_have_a_limit(llm: AsyncClient) -> None:
    """More than --max-logprobs is refused by the field's name."""
    with pytest.raises(InvalidRequest, match=r"include\.logprobs"):
        await llm.send(ask(include={"logprobs": 1000}))
    with pytest.raises(InvalidRequest, match=r"include\.prompt_logprobs"):
        await llm.send(ask(include={"prompt_logprobs": 1000}))
    assert math.isfinite((await llm.stub.Chat(ask(include={"logprobs": 0}))).logprobs[0].logprob)
