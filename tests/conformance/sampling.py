"""How to choose tokens, how many answers to give, and who is to wait: in both vocabularies."""

from conformance.cases import case, same

DRAW = {"temperature": 1.2, "seed": 7}
OF_FRANCE = [504, 3575, 282, 4649, 2]  # "The", " capital", " of", " France", the end
SAMPLING = [
    case("greedy"),
    case(
        "the model's own defaults",
        {"sampling": {"temperature": None, "seed": 1}},
        {"temperature": None, "seed": 1},
    ),
    case("no limit", {"sampling": {"max_tokens": None}}, {"max_completion_tokens": None}),
    case("max_tokens", {"sampling": {"max_tokens": 3}}, {"max_completion_tokens": 3}),
    same(temperature=0.7, seed=3),
    same(**DRAW),
    same(**DRAW, top_p=0.5),
    same(**DRAW, top_k=3),
    same(**DRAW, top_k=0),
    same(**DRAW, top_k=-1),
    same(**DRAW, min_p=0.2),
    same(presence_penalty=2, allowed_token_ids=OF_FRANCE),
    same(frequency_penalty=2, allowed_token_ids=OF_FRANCE),
    same(repetition_penalty=1.4),
    same(min_tokens=9),
    same(ignore_eos=True),
    same(ignore_eos=True, skip_special_tokens=False),
    same(stop=["Paris"]),
    same(stop=["zzzz", "of Fr"]),
    case(
        "include_stop",
        {"sampling": {"stop": ["Paris"], "include_stop": True}},
        {"stop": ["Paris"], "include_stop_str_in_output": True},
    ),
    same(stop_token_ids=[6029, 4649]),
    same(stop_token_ids=[4649], min_tokens=9),
    same(bad_words=["Paris", "capital"]),
    same(allowed_token_ids=OF_FRANCE),
    case(
        "logit_bias",
        {"sampling": {"logit_bias": {504: -100.0, 28: 2.5}}},
        {"logit_bias": {"504": -100, "28": 2.5}},
    ),
    same(
        temperature=0.9,
        seed=11,
        top_p=0.9,
        top_k=40,
        min_p=0.01,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        repetition_penalty=1.05,
        stop=["\n"],
    ),
    case("n", {"n": 3, "sampling": DRAW}, {"n": 3, **DRAW}),
    case("priority", {"priority": -5}, {"priority": -5}),
    case("cache_salt", {"cache_salt": "sea"}, {"cache_salt": "sea"}),
    case("request_id", {"request_id": "mine"}, {"request_id": "mine"}),
]
