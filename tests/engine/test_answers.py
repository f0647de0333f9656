"""What the real engine answers."""

import asyncio

import pytest

from talkwire import AsyncClient, ContextLengthExceeded, InvalidRequest
from talkwire_server import model

pytestmark = pytest.mark.timeout(300)

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Count from one to ten.",
    "Répète : « déjà vu, naïveté, œuvre ».",
    "Raconte une histoire en français.",
    "日本語で挨拶してください。",
    "「こんにちは世界」を繰り返してください。",
    "Повтори: привет, мир! Ёжик.",
    "कृपया दोहराएं: नमस्ते दुनिया।",
    "Repeat exactly: 👩‍👩‍👧 ☕ 🎉",
]


async def test_the_capital_of_france(llm: AsyncClient) -> None:
    """The embedded model knows it; the end of turn is not in the text."""
    answer = await llm.chat("What is the capital of France?")

    assert "Paris" in answer.text
    assert "<|" not in answer.text
    assert (answer.finish_reason, answer.stopped_by) == ("stop", None)
    assert answer.usage.prompt_tokens > answer.usage.completion_tokens > 0
    assert 0 <= answer.timing.queue <= answer.timing.first_token <= answer.timing.total


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_deltas_add_up_to_the_unary_answer(llm: AsyncClient, prompt: str) -> None:
    """Greedy, in several languages: the stream's concatenation is the unary answer."""
    async with llm.stream(prompt) as stream, asyncio.TaskGroup() as beside:
        asked = beside.create_task(llm.chat(prompt))
        texts = [chunk.text async for chunk in stream]
    unary = asked.result()

    assert "".join(texts) == unary.text
    assert (stream.answer.finish_reason, stream.answer.usage.completion_tokens) == (
        unary.finish_reason,
        unary.usage.completion_tokens,
    )
    assert len(texts) > 1


async def test_32_streams_at_once_equal_their_solo_answers(llm: AsyncClient) -> None:
    """In float32, greedy answers do not depend on the rest of the batch: a third is asked again."""
    prompts = [f"{PROMPTS[i % 5]} ({i})" for i in range(32)]

    async def streamed(prompt: str) -> str:
        async with llm.stream(prompt, max_tokens=12) as stream:
            return (await stream.wait()).text

    together = await asyncio.gather(*map(streamed, prompts))
    alone = [(await llm.chat(prompt, max_tokens=12)).text for prompt in prompts[::3]]

    assert all(together)
    assert together[::3] == alone


async def test_a_stop_word_is_cut_exactly(llm: AsyncClient) -> None:
    """The text ends right before the stop word, also inside a token; the match is named."""
    whole = (await llm.chat(PROMPTS[0])).text
    for stop in ("of Fr", "capital", "Paris"):
        answer = await llm.chat(PROMPTS[0], stop=["never", stop])
        async with llm.stream(PROMPTS[0], stop=stop) as stream:
            streamed = await stream.wait()

        assert answer.text == streamed.text == whole[: whole.index(stop)]
        assert (answer.finish_reason, answer.stopped_by) == ("stop", stop)
    kept = await llm.chat(PROMPTS[0], stop="capital", include_stop=True)
    assert kept.text == whole[: whole.index("capital") + len("capital")]


async def test_a_stop_token_is_named_by_its_id(llm: AsyncClient) -> None:
    """`stop_token_ids` ends the answer; the token is not in the text."""
    answer = await llm.chat(PROMPTS[0], allowed_token_ids=[7042, 2], stop_token_ids=[7042])

    assert (answer.finish_reason, answer.stopped_by, answer.text) == ("stop", 7042, "")


async def test_generation_config_holds_unless_overridden(llm: AsyncClient) -> None:
    """Unset means the model's own value, 0 means 0."""
    served = await llm.model()
    async with AsyncClient(llm.target, max_tokens=32) as plain:
        asked = [plain.chat("Tell me a story.", seed=seed) for seed in (1, 2, 3, 4, 1)]
        asked += [llm.chat("Tell me a story.", seed=seed) for seed in (1, 2)]
        *seeds, again, one, other = await asyncio.gather(*asked)

    assert (served.default_sampling.temperature, served.default_sampling.top_p) == (0.2, 0.9)
    assert (served.default_sampling.max_tokens, served.max_context_tokens) == (256, 2048)
    assert len({answer.text for answer in seeds}) > 1
    assert again.text == seeds[0].text
    assert one.text == other.text


async def test_sampling_fields_reach_the_engine(llm: AsyncClient) -> None:
    """Bias, bans, floors and ceilings all change the answer as they should."""
    query, laugh = PROMPTS[0], "Say ha ha ha ha ha."
    plain, biased, only, banned, long, endless, special, likeliest = await asyncio.gather(
        llm.chat(query),
        llm.chat(query, logit_bias={7042: 100}, max_tokens=3),
        llm.chat(query, allowed_token_ids=[7042], max_tokens=3),
        llm.chat(query, bad_words=["Paris"]),
        llm.chat(query, min_tokens=20, max_tokens=20),
        llm.chat(query, ignore_eos=True, max_tokens=30),
        llm.chat(query, ignore_eos=True, max_tokens=30, skip_special_tokens=False),
        llm.chat(query, temperature=1, min_p=1),
    )
    laughing, penalised = await asyncio.gather(
        llm.chat(laugh), llm.chat(laugh, repetition_penalty=1.9)
    )

    assert biased.text == only.text
    assert likeliest.text == plain.text
    assert only.usage.completion_tokens == 3
    assert "Paris" not in banned.text
    assert (long.usage.completion_tokens, long.finish_reason) == (20, "length")
    assert endless.usage.completion_tokens == 30
    assert "<|im_end|>" in special.text
    assert penalised.text != laughing.text


async def test_a_last_assistant_message_is_continued(llm: AsyncClient) -> None:
    """`continue_final_message` is a prefill: the answer goes on where the message ends."""
    history = [
        {"role": "user", "text": "What is the capital of France?"},
        {"role": "assistant", "text": "The capital of France is"},
    ]
    answer = await llm.chat(messages=history, continue_final_message=True)

    assert answer.text.startswith(" Paris")


async def test_the_prompt_is_the_templates_own(llm: AsyncClient) -> None:
    """System, roles and query are rendered as transformers renders them: token for token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.location())
    system = {"role": "system", "content": "You are a helpful assistant."}
    user, assistant = ({"role": role, "content": f"I am {role}"} for role in ("user", "assistant"))
    query = {"role": "user", "content": "Hi"}
    for expected, options in (
        ([system, query], {}),
        ([query], {"system": ""}),
        ([{**system, "content": "Be brief."}, query], {"system": "Be brief."}),
        ([system, user, assistant, query], {"messages": [user, assistant]}),
        # vLLM shows a developer as a system to templates that know none.
        ([system, query], {"messages": [{**system, "role": "developer"}]}),
    ):
        prompt = tokenizer.apply_chat_template(expected, add_generation_prompt=True)["input_ids"]
        answer = await llm.chat("Hi", max_tokens=1, **options)

        assert answer.usage.prompt_tokens == len(prompt)


async def test_the_prefix_cache_is_shared_within_a_salt_only(llm: AsyncClient) -> None:
    """A repeated prompt is found in the cache by the same salt, not by another."""
    query = "Summarise: " + "The quick brown fox jumps over the lazy dog. " * 30

    async def cached(salt: str) -> int:
        return (await llm.chat(query, cache_salt=salt, max_tokens=1)).usage.cached_tokens

    assert await cached("first") == 0
    assert await cached("first") > 100
    assert await cached("second") == 0


async def test_too_long_a_prompt_tells_its_length(llm: AsyncClient) -> None:
    """The number is the prompt's true length, and a shorter prompt's answer fills the rest."""
    with pytest.raises(ContextLengthExceeded) as caught:
        await llm.chat("word " * 5000)
    full = await llm.chat("word " * 2000, max_tokens=500, ignore_eos=True)

    assert caught.value.max_context_tokens == 2048
    assert 5000 < caught.value.prompt_tokens < 5100
    assert full.usage.prompt_tokens + full.usage.completion_tokens == 2048
    assert full.finish_reason == "length"


async def test_token_ids_outside_the_vocabulary_are_named(llm: AsyncClient) -> None:
    """What only the engine can check comes back as the contract's field."""
    for options in (
        {"allowed_token_ids": [10**6]},
        {"logit_bias": {10**6: 1}},
        {"stop_token_ids": [10**6]},
    ):
        with pytest.raises(InvalidRequest) as caught:
            await llm.chat("Hi", **options)
        (violation,) = caught.value.violations

        assert violation.field == f"sampling.{next(iter(options))}"
        assert "parameter=" not in caught.value.message
