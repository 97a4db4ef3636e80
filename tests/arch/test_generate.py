"""Sampled text: reproducible, by the given options, stopped at the end of a text, and never from non-finite logits."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_specs import model_spec, resolved

from arch import __main__ as command
from arch import chat_template, checkpoint, digests, tensors
from arch.cost import tensors as tensors_in
from arch.errors import DataError
from arch.generate import generate, kept, prefill, sample, writing
from arch.model import new_model
from arch.tokenizer import TextTokens
from experiments.data.tokenizers.byte import Byte

PROMPT = torch.tensor([[1, 5, 9]])


@pytest.fixture
def model():
    """A model with a recurrent and a windowed layer, for the byte tokenizer's vocabulary."""
    attention = {"type": "attention", "heads": 2, "window": 4}
    model = new_model(model_spec(attention, {"type": "rg_lru"}, vocab_size=259), seed=0).eval()
    with torch.no_grad():
        model.norm.weight.add_(20)  # else all tokens are about equally likely
    return model


@pytest.fixture
def folder(model, tmp_path):
    """The same model as a checkpoint folder with a tokenizer."""
    path = tmp_path / "model"
    path.mkdir()
    checkpoint.write(model.spec, tensors.of_mapping(dict(model.state_dict())), path)
    Byte(Byte.Config()).train([]).save(str(path / "tokenizer.json"))
    return path


def run(*arguments, stdin=None):
    command = [sys.executable, "-m", "arch", *(word if isinstance(word, bytes) else str(word) for word in arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, input=stdin, env={**os.environ, "COLUMNS": "200"})


def test_the_seed_decides(model):
    first, again, other = (generate(model, PROMPT, 20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_greedy_is_what_every_narrow_choice_comes_to(model):
    greedy = generate(model, PROMPT, 20, temperature=0)
    for options in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(generate(model, PROMPT, 20, **options), greedy), options
    scores = model(torch.cat([PROMPT, greedy], dim=1))[:, PROMPT.shape[1] - 1 : -1]
    assert torch.equal(scores.argmax(-1), greedy)
    assert torch.equal(generate(model, PROMPT, 20, temperature=1e-40), greedy)


def test_tokens_come_one_by_one_as_all_at_once(model):
    one_by_one = [int(token_B[0]) for token_B in sample(model, PROMPT, 12, top_k=9, seed=5)]
    assert one_by_one == generate(model, PROMPT, 12, top_k=9, seed=5)[0].tolist()
    assert generate(model, PROMPT, 0).shape == (1, 0)


MIXERS = {
    "global": {"type": "attention", "heads": 2, "kv_heads": 1, "softcap": 5.0},
    "window": {"type": "attention", "heads": 2, "window": 5, "qk_norm": True},
    "recurrent": {"type": "rg_lru", "blocks": 2},
}


def of_mixers(names):
    model = new_model(model_spec(*(MIXERS[name] for name in names), vocab_size=259), seed=0).eval()
    with torch.no_grad():
        model.norm.weight.add_(20)
    return model


@pytest.mark.parametrize("lengths", [None, [17, 9, 1]], ids=["alike", "lengths"])
@pytest.mark.parametrize("names", [["global"], ["window"], ["recurrent"], ["recurrent", "window", "global"]], ids=str)
def test_a_prompt_in_chunks_is_the_prompt_at_once(names, lengths):
    """Chunks smaller and larger than the window give the same logits and the same state as one chunk.

    Some chunks are only padding. The logits equal those of the whole sequence without a state. No layer sees more than
    one chunk.
    """
    model, seen = of_mixers(names), set()
    prompt = torch.randint(259, (3, 17), generator=torch.Generator().manual_seed(0))
    lengths = None if lengths is None else torch.tensor(lengths)
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.add(inputs[0].shape[1]))
    scores, state = prefill(model, prompt, model.init_state(3, 20), lengths)
    for row, length in enumerate([17] * 3 if lengths is None else lengths.tolist()):
        alone = model(prompt[row : row + 1, 17 - length :])[0, -1]
        torch.testing.assert_close(scores[row], alone, rtol=1e-4, atol=1e-4)
    for chunk in (1, 3, 8, 16):
        seen.clear()
        got, after = prefill(model, prompt, model.init_state(3, 20), lengths, chunk)
        assert max(seen) == chunk and after.seen == state.seen == 17
        torch.testing.assert_close(got, scores, rtol=1e-4, atol=1e-4)
        for mine, theirs in zip(tensors_in(after.layers), tensors_in(state.layers), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_prompts_of_different_lengths_together_are_each_alone():
    model, lengths = of_mixers(["recurrent", "window", "global"]), torch.tensor([9, 4, 1])
    prompt = torch.randint(259, (3, 9), generator=torch.Generator().manual_seed(1))
    together = generate(model, prompt, 12, temperature=0, lengths_B=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = generate(model, prompt[row : row + 1, 9 - length :], 12, temperature=0)
        assert together[row].tolist() == alone[0].tolist()
    for wrong in ([9, 4], [9, 0, 1], [10, 4, 1]):
        with pytest.raises(ValueError, match="3 prompts of 1 to 9 tokens cannot have the lengths"):
            generate(model, prompt, 1, lengths_B=torch.tensor(wrong))


def test_which_tokens_are_kept():
    scores = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log()
    chosen = lambda **options: kept(scores, **options).isfinite()[0].tolist()  # noqa: E731
    assert chosen() == [True] * 4
    assert chosen(top_k=2) == [True, False, True, False] and chosen(top_k=9) == [True] * 4
    assert chosen(top_p=0.4) == [True, False, False, False] and chosen(top_p=0.41) == [True, False, True, False]
    assert chosen(top_p=0.0) == [True, False, False, False] and chosen(top_p=1.0) == [True] * 4
    assert chosen(top_k=3, top_p=0.5) == [True, False, True, False]


def test_chosen_as_often_as_likely(model):
    """3000 rows at temperature 2 with top_k = 3: frequencies are within five standard deviations."""
    rows = 3000
    with torch.no_grad():
        p_V = kept(model(PROMPT)[:, -1] / 2, top_k=3).softmax(-1)[0]
    counts_V = torch.bincount(generate(model, PROMPT.expand(rows, -1), 1, temperature=2, top_k=3)[:, 0], minlength=259)
    assert ((counts_V / rows - p_V).abs() <= 5 * (p_V * (1 - p_V) / rows).sqrt() + 1e-9).all()


def test_scores_that_are_no_numbers_stop_it(model):
    with torch.no_grad():
        model.norm.weight.fill_(float("inf"))
    with pytest.raises(DataError, match=r"not finite.*bfloat16"):
        generate(model, PROMPT, 3)


@pytest.mark.slow
def test_float16_overflows_where_bfloat16_does_not(folder):
    """The error of the command names the option that may help."""
    _, found = checkpoint.open_checkpoint(folder)
    held = dict(found.read())
    held["embedding"] = (held["embedding"] * 3e5).contiguous()
    (folder / "model.safetensors").unlink()
    tensors.write(tensors.of_mapping(held), folder / "model.safetensors")
    digests.discard(folder)  # the weights are changed on purpose
    half = run("generate", folder, "--prompt", "a", "--tokens", 3, "--dtype", "float16")
    assert half.returncode == 2 and "--dtype bfloat16" in half.stderr and "Traceback" not in half.stderr
    assert run("generate", folder, "--prompt", "a", "--tokens", 3, "--dtype", "bfloat16").returncode == 0


def test_the_beginning_of_a_text_stands_in_front_once(folder):
    text = TextTokens(folder)
    begin = text.tokenizer.token_to_id("<bos>")
    assert text.encode("ab")[0] == begin and text.encode("ab").count(begin) == 1
    assert text.encode("<bos>ab") == text.encode("ab")
    assert text.ends == {text.tokenizer.token_to_id("<eos>")}


def with_byte_fallback():
    """A tokenizer like Gemma's: "\u2581" for a space, bytes for characters that the vocabulary lacks."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {"<eos>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    for token in ("\u2581", "a", "b", "ab", "\u2581ab"):
        vocabulary[token] = len(vocabulary)
    built = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("\u2581", "ab")], byte_fallback=True))
    built.normalizer = normalizers.Replace(" ", "\u2581")
    built.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    built.add_special_tokens(["<eos>"])
    return built


@pytest.mark.parametrize("kind", ["byte", "fallback"])
def test_text_comes_as_it_is_completed(kind, folder):
    """The pieces add up to the text and have only whole characters. Bytes that are no text still give some output."""
    if kind == "fallback":
        with_byte_fallback().save(str(folder / "tokenizer.json"))
    text = TextTokens(folder)
    for prompt, rest in (("ab", " ab ab é 日本 👩‍👩‍👧‍👦 x"), ("é", "日" * 9), ("", "größer  \n\tend "), ("x ", " y")):
        first = text.tokenizer.encode(prompt, add_special_tokens=False).ids
        ids = text.tokenizer.encode(rest, add_special_tokens=False).ids
        pieces = list(text.stream(first, ids))
        assert "".join(pieces) == rest and "\ufffd" not in "".join(pieces)
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = torch.randint(3, text.tokenizer.get_vocab_size(), (30,), generator=draw).tolist()
        assert len("".join(text.stream([5], ids))) > 5


def test_which_tokens_begin_and_end_a_text_can_be_said(folder):
    said = {"bos_token_id": 7, "eos_token_id": [8, 9]}
    (folder / "generation_config.json").write_text(json.dumps(said))
    text = TextTokens(folder)
    assert text.begin == 7 and text.ends == {8, 9}


def test_a_text_ends_where_its_end_is_drawn(folder):
    text = TextTokens(folder)
    ids = text.encode("héllo")[1:]
    end = next(iter(text.ends))
    assert "".join(text.stream(text.encode("x"), [*ids, end, *ids])) == "héllo"


@pytest.mark.slow
def test_the_command_writes_the_same_each_time(folder):
    first, again = (run("generate", folder, "--prompt", "def f", "--tokens", 20, "--top-k", 30) for _ in "ab")
    assert first.returncode == 0 and first.stdout == again.stdout and first.stdout.strip()
    piped = run("generate", folder, "--prompt", "-", "--tokens", 20, "--top-k", 30, stdin="def f")
    assert piped.stdout == first.stdout


def test_a_prompt_is_asked_in_the_chat_template_of_its_folder(tmp_path, capsys, monkeypatch):
    made = Byte(Byte.Config()).train([])
    made.add_special_tokens(["<|ask|>", "<|end|>"])
    model = new_model(model_spec({"type": "attention", "heads": 2}, vocab_size=261), seed=0)
    checkpoint.write(model.spec, tensors.of_mapping(dict(model.state_dict())), tmp_path)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text(chat_template.jinja("<|ask|>{prompt}\n{answer}<|end|>"))
    read = []

    def writing(model, ids, *_, **__):
        read.append(ids)
        yield from [*text("Hi"), end, *text("more")]

    monkeypatch.setattr("arch.generate.writing", writing)
    text = lambda words: made.encode(words, add_special_tokens=False).ids  # noqa: E731
    begin, end = (made.token_to_id(f"<|{name}|>") for name in ("ask", "end"))
    command.generate(tmp_path, "27+5=", chat=True, system="Sums.")
    assert read == [[1, begin, *text("Sums.\n\n27+5=\n")]]
    assert capsys.readouterr().out == "Hi\n"  # the end of the turn ends it
    command.generate(tmp_path, "27+5=")
    assert read[1] == [1, *text("27+5=")] and capsys.readouterr().out == "Himore\n"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--prompt", "a", "--system", "b"], "--system: only a chat template has a place for it; expected --chat too"),
        (["--prompt", "a", "--chat"], "no chat template in it: expected chat_template.jinja"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--top-p", "1.5"], "top-p"),
        (["--prompt", "a", "--seed", str(10**25)], "seed"),
        (["--prompt", b"\xff"], "the prompt is not UTF-8 text"),
        (["--prompt", "a", "--dtype", "float17"], "no dtype 'float17'; did you mean 'float16'"),
    ],
)
def test_a_wrong_option_is_said(arguments, text, folder):
    done = run("generate", folder, *arguments)
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_write_says_why(folder, model):
    ahead = resolved(
        {
            "dim": 16,
            "vocab_size": 40,
            "layers": 1,
            "pattern": ["a"],
            "blocks": {"a": {"mixer": {"type": "attention", "heads": 2, "causal": False}}},
        }
    )
    with pytest.raises(DataError, match="sees ahead"):
        next(writing(new_model(ahead, 0), [1], 3))
    with pytest.raises(DataError, match="gives the id 300, but the model has 259 tokens"):
        next(writing(model, [300], 3))
    with pytest.raises(DataError, match="empty prompt"):
        next(writing(model, [], 3))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a tokenizer"):
        TextTokens(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer.json in it"):
        TextTokens(folder)
