"""Prompts with answers: templates and their tokens, splits that share no prompt, rows, and what is refused."""

import ast

import pytest
import tokenizers
import torch

from arch.chat import Chat
from arch.chat_template import END_OF_TURN, START_OF_TURN
from arch.errors import SpecError
from arch.tokenizer import Ends
from experiments.data.dataset import prepare
from experiments.data.exchange import Exchange
from experiments.data.exchanges import Exchanges, answers_only
from experiments.data.sources.python_bodies import functions
from experiments.data.tokenizers.byte import Byte
from experiments.plan import plan, resolve

SOURCES = [
    {"type": "arithmetic"},
    {"type": "arithmetic", "operations": ["subtract", "multiply"], "template": "plain"},
    {"type": "copying", "template": "gemma2", "system": "Repeat."},
    {"type": "python_bodies", "characters": 60},
]


def asking(tiny, source, **more):
    data = {"source": source, "tokenizer": {"type": "byte"}, "context": 160, "rows": 4}
    return {**tiny, "objective": {"type": "sft"}, "data": data, "evaluate": {"every": 4}, **more}


def dataset(tiny, source):
    spec = resolve(asking(tiny, source))
    return prepare(spec.data, spec.model.vocab_size)


def gemma(first):
    """A tokenizer of bytes in which `<start_of_turn>` has the id `first`, as in Gemma's: its bytes stand around it."""
    alphabet = [token for token, _ in sorted(Byte(None).train([]).get_vocab().items(), key=lambda item: item[1])]
    order = ["<pad>", "<eos>", "<bos>", "<unk>", *alphabet[3 : first - 1], START_OF_TURN, END_OF_TURN, *alphabet[first - 1 :]]
    built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={token: i for i, token in enumerate(order)}, merges=[]))
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    built.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", START_OF_TURN, END_OF_TURN])
    built.encode_special_tokens = True
    return built


@pytest.mark.parametrize("template, first, tail", [("gemma3", 105, [106]), ("gemma2", 106, [107, 1])])
def test_turns_are_gemmas_and_a_system_prompt_stands_in_the_first(template, first, tail):
    chat = Chat(gemma(first), Ends(bos=2, eos=1), template)
    text = lambda words: chat.tokenizer.encode(words, add_special_tokens=False).ids  # noqa: E731
    asked, ended = text("user\nBe short.\n\nHello?"), [first + 1]
    assert chat.prompt("Hello?", "Be short.") == [2, first, *asked, *ended, *text("\n"), first, *text("model\n")]
    assert chat.answer("Hi.") == [*text("Hi."), *tail]
    assert chat.prompt("Hello?") == [2, first, *text("user\nHello?"), *ended, *text("\n"), first, *text("model\n")]
    assert chat.stops == {first + 1, 1} and chat.said([*text("Hi."), first + 1, 5]) == "Hi."


def test_the_name_of_a_turn_in_a_prompt_is_text():
    chat = Chat(gemma(105), Ends(bos=2, eos=1), "gemma3")
    ids = chat.prompt(f"x{END_OF_TURN}\n{START_OF_TURN}model\nyes")
    assert ids.count(105) == 2 and ids.count(106) == 1


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source['type']} {source.get('template', '')}")
def test_rows_hold_prompts_and_answers_and_only_answers_are_left_as_targets(source, tiny):
    data = dataset(tiny, source)
    rows = data.batch("train", 3, 5, 6, 160)["text"]
    scored = answers_only(rows)
    for b, exchange in enumerate(data.exchanges(rows)):
        start, length = int(rows.extra["start"][b]), int(rows.layout.seen_BT[b].sum()) + 1
        prompt, answer = data.chat.prompt(exchange.prompt, source.get("system", "")), data.chat.answer(exchange.answer)
        whole = [*rows.tokens_BT[b, :1].tolist(), *rows.targets_BT[b, : length - 1].tolist()]
        assert whole == prompt + answer and start == len(prompt)
        assert rows.tokens_BT[b, : length - 1].tolist() == whole[:-1]
        assert scored.targets_BT[b][scored.targets_BT[b] >= 0].tolist() == answer
        assert data.chat.said(answer) == exchange.answer


@pytest.mark.parametrize("source", SOURCES[:3], ids=lambda source: source["type"])
def test_a_row_is_a_function_of_its_number_and_splits_share_no_prompt(source, tiny):
    data = dataset(tiny, source)
    several, alone = (data.numbered("report", numbers, 160)["text"] for numbers in ([7, 3, 9], [3]))
    assert torch.equal(several.tokens_BT[1], alone.tokens_BT[0])
    assert not torch.equal(data.batch("train", 0, 0, 2, 160)["text"].key_B, data.batch("train", 0, 1, 2, 160)["text"].key_B)
    prompts = {split: {data.exchange(split, number).prompt for number in range(300)} for split in ("train", "select", "report")}
    assert not prompts["train"] & (prompts["select"] | prompts["report"]) and not prompts["select"] & prompts["report"]


def test_a_sum_turned_round_is_in_the_same_split(tiny):
    data = dataset(tiny, {"type": "arithmetic", "digits": 1})
    sums = {split: {data.exchange(split, number).prompt for number in range(400)} for split in ("train", "select", "report")}
    turned = {"+".join(reversed(prompt.rstrip("=").split("+"))) + "=" for prompt in sums["report"]}
    assert turned & sums["report"] and not turned & sums["train"]


def test_bodies_of_functions_are_python_and_in_one_split(tiny):
    data = dataset(tiny, SOURCES[3])
    splits = data.task.splits
    assert min(map(len, splits.values())) > 10
    texts = {split: {text for each in splits[split] for text in each[:2]} for split in splits}
    assert not texts["train"] & texts["report"] and not texts["train"] & texts["select"]
    for split in splits:
        for each in splits[split][:50]:
            ast.parse("\n".join(each[:2]))
    rows = [len(batch["text"]) for batch in data.evaluation("report", 10**6, 160, 64)]
    assert sum(rows) == len(splits["report"])


def test_functions_are_found_with_their_indentation():
    text = "class A:\n    def f(self):\n        return 1\n\n    def g(self): return 2\n\ndef long(\n    a):\n    pass\n"
    assert functions(text, 100) == [Exchange("def f(self):", "    return 1")]
    assert functions("def f(:\n", 100) == []


@pytest.mark.parametrize(
    "change, path, text",
    [
        ({"source": {"type": "arithmetic", "template": "turns"}}, ("data", "source", "template"), "expected gemma3, gemma2, plain"),
        ({"source": {"type": "arithmetic", "template": "{answer} {prompt}"}}, ("data", "source", "template"), "one {prompt} and"),
        (
            {"source": {"type": "arithmetic", "template": "{prompt}{answer}"}},
            ("data", "source", "template"),
            "nothing ends the answer",
        ),
        ({"context": 20}, ("data", "context"), "cannot hold a prompt with its answer, which take"),
        ({"source": {"type": "copying", "letters": 1}}, ("data", "source", "letters"), "at least 1,000"),
        ({"source": {"type": "python_bodies", "characters": 5}}, ("data", "source", "characters"), "no function"),
        ({"tokenizer": None}, ("data", "tokenizer"), "makes its rows from texts"),
    ],
)
def test_data_that_cannot_be_is_refused_at_its_key(change, path, text, tiny):
    spec = asking(tiny, {"type": "arithmetic"})
    spec["data"] = {**spec["data"], **change}
    with pytest.raises(SpecError) as caught:
        plan(spec)
    assert (caught.value.path, text in str(caught.value)) == (path, True), str(caught.value)


def test_a_tokenizer_without_the_turns_is_refused_and_one_with_them_is_read(tiny, tmp_path):
    Byte(None).train([]).save(str(tmp_path / "bytes.json"))
    gemma(105).save(str(tmp_path / "gemma.json"))
    spec = asking(tiny, {"type": "arithmetic"})
    spec["data"]["tokenizer"] = {"type": "file", "path": str(tmp_path / "bytes.json")}
    with pytest.raises(SpecError, match=r"data\.tokenizer: the tokenizer has no <start_of_turn>, which the template 'gemma3'"):
        plan(spec)
    spec["data"]["tokenizer"] = {"type": "file", "path": str(tmp_path / "gemma.json")}
    complete = resolve(spec)
    rows = prepare(complete.data, complete.model.vocab_size).batch("train", 0, 0, 1, 160)["text"]
    assert rows.tokens_BT[0, :2].tolist() == [2, 105]
    spec["data"]["source"]["template"] = "plain"
    spec["data"]["tokenizer"]["path"] = str(tmp_path / "bytes.json")
    assert plan(spec).data["vocabulary"] == 259


def test_a_template_may_begin_with_the_prompt_where_nothing_begins_a_text(tiny):
    data, ends = dataset(tiny, {"type": "arithmetic", "template": "{prompt}{answer}<eos>"}), Ends(bos=None, eos=2)
    chat = Chat(data.tokenizer, ends, data.config.template)
    made = Exchanges(data.task, "arithmetic", data.config, chat, data.vocabulary, data.spec)
    assert made.begin == data.tokenizer.encode("9", add_special_tokens=False).ids[0]


def test_a_model_without_room_for_the_turns_is_refused(tiny):
    spec = asking(tiny, {"type": "arithmetic"})
    spec["model"] = {**spec["model"], "vocab_size": 260}
    with pytest.raises(SpecError, match=r"261 tokens but model\.vocab_size is 260"):
        plan(spec)
