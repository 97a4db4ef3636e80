"""Your own prompts and answers: whole conversations, their splits and rows, and what is refused or left out."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from arch.chat import Chat
from arch.errors import SpecError
from experiments.data.dataset import prepare
from experiments.data.exchanges import answers_only
from experiments.data.tokenizers.byte import Byte
from experiments.plan import plan, resolve
from tests.chat_templates import NO_SYSTEM, STRICT


def talks(count=60):
    """Conversations of one to three turns; every third begins with a system prompt."""
    for number in range(count):
        turns = [
            ("user", f"{number} plus {turn}?") if turn % 2 == 0 else ("assistant", f"it is {number}")
            for turn in range(2 * (1 + number % 3))
        ]
        system = [("system", "Be kind.")] if number % 3 == 0 else []
        yield {"messages": [{"role": role, "content": text} for role, text in system + turns]}


def talk(said):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asking(tiny, files, context=160, **source):
    data = {
        "source": {"type": "conversations", "files": [files], **source},
        "tokenizer": {"type": "byte"},
        "context": context,
        "rows": 4,
    }
    return {**tiny, "objective": {"type": "sft"}, "data": data, "evaluate": {"every": 4}}


def dataset(tiny, files, **options):
    spec = resolve(asking(tiny, files, **options))
    return prepare(spec.data, spec.model.vocab_size)


def test_each_answer_is_a_row_that_reads_what_was_said_before(tiny, tmp_path):
    data = dataset(tiny, write(tmp_path / "a.jsonl", talks()))
    found = {split: data.task.splits[split] for split in ("train", "select", "report")}
    assert sum(map(len, found.values())) == 20 + 40 + 60
    whole = {(each.before[0][0] if each.before else each.prompt): split for split, mine in found.items() for each in mine}
    assert all(whole[each.before[0][0]] == split for split, mine in found.items() for each in mine if each.before)
    rows = data.batch("train", 0, 0, 32, 160)["text"]
    for b, exchange in enumerate(data.exchanges(rows)):
        prompt = data.chat.prompt(exchange.prompt, exchange.system or "", exchange.before)
        targets = answers_only(rows).targets_BT[b]
        assert rows.tokens_BT[b, : len(prompt)].tolist() == prompt
        assert targets[targets >= 0].tolist() == data.chat.answer(exchange.answer)
        said = data.chat.tokenizer.decode(prompt)
        assert all(text in said for turn in exchange.before for text in turn) and ("Be kind." in said) == bool(exchange.system)


def test_rows_of_prompts_and_answers_and_of_parquet_are_the_same(tiny, tmp_path):
    rows = [{"question": f"{n}?", "reply": f"{n}!", "system": None if n % 2 else "Shout."} for n in range(60)]
    columns = {"prompt": "question", "answer": "reply"}
    lines = dataset(tiny, write(tmp_path / "a.jsonl", rows), columns=columns)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    table = dataset(tiny, str(tmp_path / "a.parquet"), columns=columns)
    assert lines.task.splits == table.task.splits and sum(map(len, lines.task.splits.values())) == 60
    assert {each.system for mine in lines.task.splits.values() for each in mine} == {None, "Shout."}
    list_table = [{"messages": each["messages"]} for each in talks()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list_table), tmp_path / "b.parquet")
    write(tmp_path / "b.jsonl", list_table)
    assert dataset(tiny, str(tmp_path / "b.parquet")).task.splits == dataset(tiny, str(tmp_path / "b.jsonl")).task.splits


def test_what_is_left_out_is_counted_and_the_content_is_of_the_fingerprint(tiny, tmp_path):
    rows = [{"prompt": f"{n}?", "answer": f"{n}!"} for n in range(60)]
    more = [rows[0], {"prompt": "empty?", "answer": " "}, {"messages": [{"role": "user", "content": "and?"}]}]
    more += [{"prompt": " 1? ", "answer": "1!\n"}]  # the same, but for white space
    long = [{"messages": talk(["long?", "long " * 60, "and?", "yes"])}]
    planned = plan(asking(tiny, write(tmp_path / "a.jsonl", [*rows, *more, *long])))
    skipped = {reason: about["count"] for reason, about in planned.data["skipped"].items()}
    reasons = ["answers that came before", "answers without text", "prompts without an answer", "answers that a row cannot hold"]
    assert skipped == dict(zip(reasons, (2, 1, 1, 2), strict=True))
    assert any("answers that a row cannot hold: 2" in note and "'long?'" in note for note in planned.notes)
    before = planned.data["fingerprint"]
    write(tmp_path / "a.jsonl", [*rows[:-1], {"prompt": "59?", "answer": "other"}])
    assert plan(asking(tiny, str(tmp_path / "a.jsonl"))).data["fingerprint"] != before


def test_a_template_of_a_folder_is_kept_beside_the_weights_and_is_of_the_fingerprint(tiny, tmp_path):
    files = write(tmp_path / "a.jsonl", talks())
    (tmp_path / "chat_template.jinja").write_text(STRICT)
    made = dataset(tiny, files, template=str(tmp_path))
    assert made.chat_template == STRICT
    plain = dataset(tiny, files)
    assert isinstance(made.chat, Chat) and made.ids(made.exchange("train", 0)) == plain.ids(plain.exchange("train", 0))
    before = made.fingerprint
    (tmp_path / "chat_template.jinja").write_text(STRICT.replace("| trim", ""))
    assert (
        "| trim" not in resolve(asking(tiny, files, template=str(tmp_path))).data.source["template"]
    )  # what it holds stands there
    other = dataset(tiny, files, template=str(tmp_path))
    assert other.fingerprint != before and other.summary()["asked"] == made.summary()["asked"] == plain.summary()["asked"]
    assert dataset(tiny, write(tmp_path / "b.jsonl", talks(50))).summary()["asked"] != plain.summary()["asked"]


@pytest.mark.parametrize(
    "row, reason",
    [
        ("not json", r"a\.jsonl:61: not JSON"),
        ("[]", r"a\.jsonl:61: a list; expected an object, with 'messages'"),
        ('{"promt": "a", "answer": "b"}', r"a\.jsonl:61: no key 'prompt' .*did you mean 'promt'"),
        ('{"prompt": 3, "answer": "b"}', r"a\.jsonl:61: prompt: a number; expected text"),
        ('{"messages": "hi"}', r"a\.jsonl:61: the value of 'messages' is text; expected a list"),
        ('{"messages": [{"role": "assistant", "content": "b"}]}', r"message 1: the role is 'assistant'; expected 'user' here"),
        (
            '{"messages": [{"role": "user", "content": "b"}, {"role": "user", "content": "c"}]}',
            r"message 2: the role is 'user'; expected 'assistant'",
        ),
        ('{"prompt": "\\ud800", "answer": "b"}', r"a\.jsonl:61: prompt: not valid Unicode text"),
        ('{"prompt": [{"type": "text", "text": ["a"]}], "answer": "b"}', r"a\.jsonl:61: prompt: a list; expected text"),
        (
            '{"system": "A.", "messages": [{"role": "system", "content": "B."}, {"role": "user", "content": "c"}]}',
            r"message 1: another system prompt than the one beside the messages",
        ),
        ('{"messages": [{"role": "user"}]}', r"message 1: expected an object with the keys 'role' and 'content'"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', r"message 1: a part that is no text"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(row, reason, tiny, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, ({"prompt": f"{n}?", "answer": f"{n}!"} for n in range(60)))
    with open(path, "a") as file:
        file.write(row + "\n")
    with pytest.raises(SpecError, match=reason):
        plan(asking(tiny, str(path)))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"context": 4}, r"the train split has no answer \(\d+ of them, all longer than data\.context = 4 tokens\)"),
        ({"files": "none.jsonl"}, "no file matches"),
        ({"files": "a.txt"}, r"a file of another kind; expected \.jsonl"),
        ({"template": "folder"}, "no such folder or file|expected gemma3"),
        ({"template": "folder.jinja"}, "no such folder or file"),
        ({"template": "x" * 5000}, "expected gemma3, gemma2, plain, a text with one"),
        ({"template": "./folder"}, "no such folder or file"),
        ({"template": "{no_system}"}, "refuses the roles system, user, assistant"),
    ],
)
def test_data_that_cannot_be_is_refused(options, reason, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", talks())
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "no_system").mkdir()
    (tmp_path / "no_system" / "chat_template.jinja").write_text(NO_SYSTEM)
    options = {key: "./no_system" if value == "{no_system}" else value for key, value in options.items()}
    with pytest.raises(SpecError, match=reason):
        plan(asking(tiny, **({"files": "a.jsonl"} | options)))


def test_a_few_conversations_leave_a_split_empty(tiny, tmp_path):
    with pytest.raises(SpecError, match=r"split has no answer \(none\); the files have 1 conversation$"):
        plan(asking(tiny, write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "b"}])))


def test_a_system_prompt_may_stand_beside_messages_and_an_empty_one_means_none(tiny, tmp_path):
    rows = [{"system": "Be kind.", "messages": talk([f"{n}?", "yes"])} for n in range(40)]
    rows += [{"messages": [{"role": "system", "content": ""}, *talk([f"{n} then?", "no"])]} for n in range(40)]
    rows += [{"messages": []}, {"messages": [{"role": "system", "content": "Only this."}]}]
    made = dataset(tiny, write(tmp_path / "a.jsonl", rows), system="Always.")
    found = [each for mine in made.task.splits.values() for each in mine]
    assert {each.system for each in found} == {"Be kind.", ""} and len(found) == 80
    texts = {each.system: made.chat.tokenizer.decode(made.ids(each)[0]) for each in found}
    assert "Be kind." in texts["Be kind."] and not any("Always." in text for text in texts.values())
    assert made.summary()["skipped"]["prompts without an answer"]["count"] == 2


def test_prompts_that_a_template_makes_equal_are_in_one_split(tiny, tmp_path):
    rows = [{"prompt": f"{n}?{' ' * spaces}", "answer": f"{spaces}"} for n in range(40) for spaces in range(3)]
    made = dataset(tiny, write(tmp_path / "a.jsonl", rows))
    asked = {split: {each.prompt.strip() for each in mine} for split, mine in made.task.splits.items()}
    assert not asked["train"] & asked["report"] and not asked["train"] & asked["select"]


def test_special_tokens_of_a_template_count_as_tokens_of_the_data(tiny, tmp_path):
    tokenizer = Byte(Byte.Config()).train([])
    tokenizer.add_special_tokens(["<|ask|>", "<|end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    spec = asking(tiny, write(tmp_path / "a.jsonl", talks()), template="<|ask|>{prompt}\n{answer}<|end|>")
    spec["data"]["tokenizer"] = {"type": "file", "path": str(tmp_path / "tokenizer.json")}
    spec["model"] = {**spec["model"], "vocab_size": 259}
    with pytest.raises(SpecError, match=r"261 tokens but model\.vocab_size is 259"):
        plan(spec)


def test_a_template_that_changes_what_is_said_is_refused(tiny, tmp_path):
    (tmp_path / "chat.jinja").write_text(STRICT.replace("| trim", "| upper"))
    with pytest.raises(SpecError, match="changes what is said") as caught:
        plan(asking(tiny, write(tmp_path / "a.jsonl", talks()), template=str(tmp_path / "chat.jinja")))
    assert caught.value.path == ("data", "source", "template")


def test_an_evaluators_template_is_identified_by_what_its_file_holds(tiny, tmp_path):
    files, path = write(tmp_path / "a.jsonl", talks()), tmp_path / "chat.jinja"
    found = []
    for text in (STRICT, STRICT.replace("| trim", "")):
        path.write_text(text)
        spec = {
            **asking(tiny, files),
            "evaluate": {"every": 4, "report": {"answers": {"type": "answers", "rows": 4, "template": str(path)}}},
        }
        found.append(resolve(spec).evaluate.report["answers"])
    assert found[0] != found[1] and "trim" in found[0]["template"]


def test_a_long_conversation_is_read_no_further_than_a_row_holds(tiny, tmp_path, monkeypatch):
    rows = [{"messages": talk([f"{n}?", "yes"])} for n in range(60)] + [{"messages": talk(["many?", "words"] * 300)}]
    calls = []
    prompt = Chat.prompt
    monkeypatch.setattr(Chat, "prompt", lambda chat, *given: calls.append(given) or prompt(chat, *given))
    made = dataset(tiny, write(tmp_path / "a.jsonl", rows))
    assert len(calls) < 200 and made.summary()["skipped"]["answers that a row cannot hold"]["count"] > 280
