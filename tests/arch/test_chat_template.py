"""Chat templates: those of a spec, those in Jinja, conversations, and that transformers writes what we say it writes."""

import json

import pytest
import tokenizers
from exported import base

from arch import chat_template, checkpoint, hf, tensors
from arch.chat import Chat
from arch.chat_template import TEMPLATES, frame, is_jinja, jinja
from arch.errors import DataError
from arch.model import new_model
from arch.tokenizer import Ends
from experiments.data.tokenizers.byte import Byte
from tests.chat_templates import NO_SYSTEM, STRICT

ENDS = Ends(bos=1, eos=2)
TALK = [("How are you?", "Well."), ("And your <end_of_turn> friend?", "He sleeps.")]


def tokenizer(*further):
    made = Byte(Byte.Config()).train([])
    made.add_special_tokens(["<start_of_turn>", "<end_of_turn>", *further])
    made.encode_special_tokens = True
    return made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "chat_template.jinja").write_text(STRICT)
    return tmp_path / "strict"


def conversation(template, system="", bos="<bos>", eos="<eos>", talk=TALK):
    """What a template's frame writes of a conversation."""
    said = [*([system] if system else []), *(each for turn in talk for each in turn)]
    return frame(template, len(talk), bool(system), bos, eos).filled(said)


def test_a_conversation_in_gemmas_turns():
    turns = "<bos><start_of_turn>user\nBe short.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>"
    again = "\n<start_of_turn>user\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>"
    talk = [("Hi", "Ho"), ("A", "B")]
    assert conversation("gemma3", "Be short.", talk=talk) == turns + again
    assert conversation("gemma2", "Be short.", talk=talk) == turns + again + "<eos>"
    assert conversation("plain", talk=talk) == "<bos>Hi\nHo\nA\nB<eos>"


@pytest.mark.parametrize("system", ["", "Be short."])
@pytest.mark.parametrize("template", [*TEMPLATES, "Q: {prompt}\nA: {answer}<end_of_turn><eos> 'quoted' \"\\n\" \u00e9\U0001f642"])
def test_the_jinja_that_is_kept_writes_what_the_template_says(template, system):
    kept = jinja(template)
    assert is_jinja(kept) and not is_jinja(template)
    for talk in (TALK, TALK[:1], [*TALK, ("x", " y ")]):
        assert conversation(kept, system, talk=talk) == conversation(template, system, talk=talk)
    assert conversation(kept, system, bos="", eos="</s>") == conversation(template, system, bos="", eos="</s>")
    Chat(tokenizer(), ENDS, kept).check("a", "b", system, TALK)


@pytest.mark.parametrize("template", [*TEMPLATES, "strict"])
def test_transformers_writes_the_same_text_and_reads_the_same_tokens(template):
    transformers = pytest.importorskip("transformers")
    made = tokenizer()
    if template == "strict":
        template = STRICT
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>")
    theirs.chat_template = jinja(template)
    roles = ["system", *["user", "assistant"] * 2]
    talk = [("How are you?", "Well."), ("And your friend?", "He sleeps.")]
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, ["Short.", *(x for t in talk for x in t)], strict=True)
    ]
    assert theirs.apply_chat_template(messages, tokenize=False) == conversation(template, "Short.", talk=talk)
    asked = theirs.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    chat = Chat(made, ENDS, template)
    made.encode_special_tokens = False
    ids = made.encode(asked, add_special_tokens=False).ids
    made.encode_special_tokens = True
    assert chat.prompt(talk[1][0], "Short.", talk[:1]) == ids


def test_a_folders_template_says_where_a_system_prompt_stands_and_what_is_cut_off(folder, tmp_path):
    chat = Chat(tokenizer(), ENDS, chat_template.read(folder))
    assert chat_template.read(folder / "chat_template.jinja") == chat_template.read(folder) == STRICT
    text = lambda words: chat.tokenizer.encode(words, add_special_tokens=False).ids  # noqa: E731
    begin, end = (chat.tokenizer.token_to_id(f"<{name}_of_turn>") for name in ("start", "end"))
    expected = [1, begin, *text("user\nShort.\n\nHi"), end, *text("\n"), begin, *text("model\n")]
    assert chat.prompt("  Hi ", "Short.") == expected
    assert chat.answer(" Ho\n") == [*text("Ho"), end]  # the line behind it begins the next turn
    assert chat.stops == {end, 2}
    later = chat.prompt("A", "Short.", [("Hi", "Ho")])
    assert later == [*expected, *text("Ho"), end, *text("\n"), begin, *text("user\nA"), end, *text("\n"), begin, *text("model\n")]
    (tmp_path / "config").mkdir()
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": NO_SYSTEM}]
    (tmp_path / "config" / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    chat = Chat(tokenizer(), ENDS, chat_template.read(tmp_path / "config"))
    assert chat.prompt("Hi") == Chat(tokenizer(), ENDS, chat_template.read(folder)).prompt("Hi")
    with pytest.raises(DataError, match="refuses the roles system, user, assistant: no system prompt here"):
        chat.check_system()


def test_other_special_tokens_of_a_tokenizer_are_tokens_in_a_template_and_text_in_what_is_said():
    made = tokenizer("<|end|>", "<|ask|>")
    chat = Chat(made, ENDS, "<|ask|>{prompt}\n{answer}<|end|>")
    ids = chat.prompt("a<|end|>")
    ask, end = (made.token_to_id(name) for name in ("<|ask|>", "<|end|>"))
    assert ids[:2] == [1, ask] and end not in ids and chat.tail == [end]


def test_what_is_written_is_what_is_asked():
    for template in (*TEMPLATES, STRICT):
        chat = Chat(tokenizer(), ENDS, template)
        written = chat.written("27+5=", "Sums.")
        chat.tokenizer.encode_special_tokens = False
        assert chat.tokenizer.encode(written, add_special_tokens=False).ids == Chat(tokenizer(), ENDS, template).prompt(
            "27+5=", "Sums."
        )


@pytest.mark.parametrize(
    "jinja, reason",
    [
        ("{{ messages", "cannot be rendered: TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "cannot be rendered: ZeroDivisionError"),
        ("{{ 'x'.index('y') }}", "cannot be rendered: ValueError"),
        ("{% for i in range(10000000) %}{% endfor %}", "cannot be rendered: OverflowError: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot be rendered: RecursionError"),
        ("{{ raise_exception('a\\nb') }}", "refuses the roles user, assistant: a b$"),
        ("{{ raise_exception() }}", "refuses the roles user, assistant: it gives no reason$"),
        ("{{ messages[0].content }}<end_of_turn>", "writes what the role assistant says 0 times; expected once"),
        ("{% for m in messages | reverse %}{{ m.content }}<end_of_turn>{% endfor %}", "in another order"),
        ("{% for m in messages %}{{ m.content }}|{% endfor %}", "lets nothing end the answer"),
        ("{% for m in messages %}{{ m.content.upper() }}{{ m.content }}<end_of_turn>{% endfor %}", "2 times; expected once"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(jinja, reason):
    with pytest.raises(DataError, match=reason) as caught:
        Chat(tokenizer(), ENDS, jinja)
    assert "\n" not in str(caught.value)
    assert caught.value.key == ("data", "source", "template")


def test_a_folder_without_a_template_and_a_damaged_one_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no chat template in it: expected chat_template\.jinja, or chat_template in tokenizer_config"
    ):
        chat_template.read(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(DataError, match="not JSON"):
            chat_template.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": [], "template": "x"}, 3]}))
    with pytest.raises(DataError, match="no chat template in it"):
        chat_template.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}\\ud800"}')
    with pytest.raises(DataError, match="its chat_template is not valid Unicode text"):
        chat_template.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"chat_template": STRICT}).encode())
    assert chat_template.read(tmp_path) == STRICT
    (tmp_path / "chat_template.jinja").write_text("Hello.")
    with pytest.raises(DataError, match="writes nothing of what is said; expected Jinja"):
        chat_template.read(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        chat_template.read(tmp_path)
    with pytest.raises(DataError, match="no such folder or file"):
        chat_template.read(tmp_path / "absent")


LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token ~ '<start_of_turn> ' ~ m.content.strip() ~ ' <end_of_turn>' }}"
    "{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("jinja", "trims"),
    [
        (LLAMA, (True, True)),
        (LLAMA.replace("strip()", "rstrip()"), (False, True)),
        (LLAMA.replace("strip()", "lstrip()"), (True, False)),
    ],
)
def test_white_space_is_cut_off_as_the_template_does_also_where_it_writes_some_itself(jinja, trims):
    assert frame(jinja, 1, False, "<bos>", "<eos>").trims == (trims, trims)
    talk = [("  b\n", "\tc "), (" d", "e ")]
    assert conversation(jinja, talk=talk) == chat_template.rendered(
        jinja, 2, False, [text for turn in talk for text in turn], "<bos>", "<eos>"
    )
    chat = Chat(tokenizer(), ENDS, jinja)
    chat.check(" d", "e ", before=talk[:1])
    space = chat.tokenizer.encode(" ", add_special_tokens=False).ids
    assert chat.tail == [*space, 2] and chat.stops == {2}  # white space before what ends an answer


@pytest.mark.parametrize("change", ["upper()", "replace('a', 'b')", "split('!')[-1]", "strip('\n')"])
def test_a_template_that_changes_what_is_said_is_refused(change):
    chat = Chat(tokenizer(), ENDS, LLAMA.replace("strip()", change))
    for text in ("a!c", "a\n"):
        try:
            chat.check("x", text)
        except DataError as error:
            assert "changes what is said" in str(error) and "'x'" in str(error)
            return
    pytest.fail("nothing was refused")


def test_a_tokenizer_without_the_turns_of_a_folders_template_is_refused():
    bare = Byte(Byte.Config()).train([])
    with pytest.raises(DataError, match="the tokenizer has no <start_of_turn>") as caught:
        Chat(bare, ENDS, STRICT)
    assert caught.value.key == ("data", "tokenizer")
    assert isinstance(bare, tokenizers.Tokenizer)


def test_transformers_asks_an_exported_folder_in_its_template(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec, made = base(vocab_size=261), tokenizer()
    (tmp_path / "ours").mkdir()
    checkpoint.write(spec, tensors.of_mapping(dict(new_model(spec, 0).named_parameters())), tmp_path / "ours")
    made.save(str(tmp_path / "ours" / "tokenizer.json"))
    (tmp_path / "ours" / "chat_template.jinja").write_text(jinja("gemma2"))
    hf.export(tmp_path / "ours", tmp_path / "theirs")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert (theirs.bos_token, theirs.eos_token) == ("<bos>", "<eos>")
    messages = [{"role": "user", "content": "27+5="}]
    chat = Chat(tokenizer(), ENDS, "gemma2")
    assert theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == chat.prompt("27+5=")
    messages += [{"role": "assistant", "content": "32"}]
    assert theirs.apply_chat_template(messages, return_dict=False) == chat.prompt("27+5=") + chat.answer("32")
