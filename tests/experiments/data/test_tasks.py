"""Datasets that are generators: what every task promises, and each task's rows against a slow checker of its own."""

import numpy as np
import pytest
import torch

from arch import registry
from arch.errors import DataError, SpecError
from experiments.data import generated
from experiments.data.draws import Draws, hashed, numbered_key
from experiments.data.split import FRACTIONS, SPLITS
from experiments.plan import plan
from experiments.spec import DataSpec

# (source, context): small ones, of which two rows are often the same, and each task's own size.
TASKS = {
    "mqar": ({"type": "mqar", "vocabulary": 8, "pairs": 2}, 8),
    "mqar, mixed and noisy": ({"type": "mqar", "vocabulary": 64, "pairs": [1, 3], "power": 1.0, "noise": True}, 21),
    "mqar, zoology": ({"type": "mqar", "preset": "zoology_64_4"}, 64),
    "mqar, frontier": ({"type": "mqar", "preset": "zoology_frontier"}, 256),
    "selective_copy": ({"type": "selective_copy", "vocabulary": 6, "tokens": 3}, 7),
    "selective_copy, griffin": ({"type": "selective_copy"}, 1024),
    "induction": ({"type": "induction", "vocabulary": 3}, 6),
    "induction, griffin": ({"type": "induction"}, 256),
    "phonebook": ({"type": "phonebook", "names": 4, "name": 1, "digits": 1, "entries": 2}, 12),
    "phonebook, as many as fit": ({"type": "phonebook"}, 64),
    "in_context_recall": ({"type": "in_context_recall", "vocabulary": 6}, 8),
    "in_context_recall, noisy": ({"type": "in_context_recall", "noise": 0.3}, 64),
    "in_context_recall, motifs": ({"type": "in_context_recall", "motif": 3, "vocabulary": 8, "pairs": 3, "noise": 0.1}, 60),
    "memorization": ({"type": "memorization", "vocabulary": 9, "table": 1}, 8),
    "memorization, mad": ({"type": "memorization"}, 32),
    "random_tokens": ({"type": "random_tokens", "vocabulary": 4}, 7),
    "random_tokens, mad": ({"type": "random_tokens"}, 32),
    "modular_arithmetic": ({"type": "modular_arithmetic", "modulus": 11}, 4),
    "modular_arithmetic, long": ({"type": "modular_arithmetic", "terms": 5, "operations": ["add", "subtract", "multiply"]}, 10),
    "known_entropy": ({"type": "known_entropy", "words": 2, "brackets": 1, "depth": 1}, 6),
    "known_entropy, long": ({"type": "known_entropy"}, 80),
}
each_task = pytest.mark.parametrize("name", TASKS)


def dataset_of(source, context):
    return registry.build("source", source).dataset(DataSpec(source=source, context=context, rows=4))


@pytest.fixture
def task(name):
    source, context = TASKS[name]
    return dataset_of(source, context), context


def rows_of(dataset, split, rows, context):
    return [batch["text"] for batch in dataset.evaluation(split, rows, context, 16)]


def same_rows(one, other):
    extra = all(torch.equal(one.extra[name], other.extra[name]) for name in one.extra | other.extra)
    parts = zip((one.tokens_BT, one.targets_BT, one.key_B), (other.tokens_BT, other.targets_BT, other.key_B), strict=True)
    return extra and all(torch.equal(a, b) for a, b in parts)


@each_task
def test_a_row_is_a_pure_function_of_split_seed_step_and_row(name, task):
    dataset, context = task
    eight = dataset.batch("train", 1, 3, 8, context)["text"]
    again = dataset_of(*TASKS[name])
    assert dataset.fingerprint == again.fingerprint
    assert same_rows(eight, again.batch("train", 1, 3, 8, context)["text"]), "nothing is kept between calls"
    fours = [dataset.batch("train", step, 3, 4, context)["text"] for step in (2, 3)]
    assert all(same_rows(eight.part(slice(4 * i, 4 * i + 4)), part) for i, part in enumerate(fours)), "steps of any size"
    reverse = dataset.numbered("train", eight.key_B.flip(0), context)["text"]
    assert torch.equal(reverse.tokens_BT.flip(0), eight.tokens_BT), "a row does not depend on those beside it"
    assert not torch.equal(eight.tokens_BT, dataset.batch("train", 1, 4, 8, context)["text"].tokens_BT)
    numbers = dataset.numbers("train", 3, 3, 8, context)
    assert torch.equal(torch.as_tensor(numbers[8:16]), eight.key_B) and (np.diff(numbers) > 0).all()


@each_task
def test_no_two_splits_share_an_instance(name, task):
    dataset, context = task
    seen = {
        split: {tuple(row) for rows in rows_of(dataset, split, 200, context) for row in rows.tokens_BT.tolist()} for split in SPLITS
    }
    seen["train"] |= {tuple(row) for row in dataset.batch("train", 0, 0, 1000, context)["text"].tokens_BT.tolist()}
    assert all(seen.values()) and not seen["train"] & (seen["select"] | seen["report"]) and not seen["select"] & seen["report"]


@each_task
def test_evaluation_rows_are_the_same_for_every_seed_and_batch_size(name, task):
    dataset, context = task
    whole = [batch["text"] for batch in dataset.evaluation("report", 30, context, 64)]
    parts = [batch["text"] for batch in dataset.evaluation("report", 30, context, 7)]
    assert len(whole) == 1 and torch.equal(whole[0].tokens_BT, torch.cat([part.tokens_BT for part in parts]))
    assert all(len(part) <= 7 for part in parts)


@each_task
def test_rows_have_the_vocabulary_and_the_shapes_that_they_promise(name, task):
    dataset, context = task
    rows = dataset.batch("train", 0, 0, 50, context)["text"]
    assert rows.tokens_BT.shape == rows.targets_BT.shape == (50, context)
    assert rows.tokens_BT.min() >= 0 and max(rows.tokens_BT.max(), rows.targets_BT.max()) < dataset.vocabulary
    assert (rows.targets_BT >= -1).all() and (rows.targets_BT >= 0).any(1).float().mean() > 0.5
    for values in rows.extra.values():
        assert values.shape == rows.targets_BT.shape and (values[rows.targets_BT < 0] == 0).all()
    recalls = getattr(registry.component("source", TASKS[name][0]["type"]), "recalls", False)
    assert recalls == ("distance" in rows.extra)
    if recalls:
        asked = rows.targets_BT >= 0
        assert (rows.extra["distance"][asked] > 0).all() and (rows.extra["pairs"][asked] > 0).all()


@pytest.mark.parametrize("kind", sorted({source["type"] for source, _ in TASKS.values()}))
def test_every_option_is_in_the_fingerprint(kind):
    changes = {
        "mqar": ({"vocabulary": 64, "pairs": 2}, 32, {"vocabulary": 66, "pairs": [2, 3], "power": 0.5, "noise": True}),
        "selective_copy": ({}, 64, {"vocabulary": 8, "tokens": 8}),
        "induction": ({}, 64, {"vocabulary": 8}),
        "phonebook": ({}, 96, {"entries": 3, "names": 8, "name": 1, "digits": 3}),
        "in_context_recall": (
            {"noise": 0.1, "pairs": 4},
            64,
            {"vocabulary": 18, "pairs": 3, "noise": 0.2, "noise_vocabulary": 4, "motif": 2},
        ),
        "memorization": ({}, 32, {"vocabulary": 128, "table": 1}),
        "random_tokens": ({}, 32, {"vocabulary": 8}),
        "modular_arithmetic": ({}, 4, {"modulus": 89, "operations": ["multiply"]}),
        "known_entropy": (
            {},
            32,
            {"words": 8, "brackets": 2, "depth": 2, "open": 0.1, "close": 0.3, "sharpness": 0.5, "grammar": 1},
        ),
    }
    options, context, changed = changes[kind]
    fields = set(registry.component("source", kind).Config.model_fields) - {"preset", "terms"}
    assert set(changed) == fields, "every option is tried"
    before = dataset_of({"type": kind, **options}, context)
    rows = before.batch("train", 0, 0, 32, context)["text"]
    for option, value in changed.items():
        after = dataset_of({"type": kind, **options, option: value}, context)
        assert after.fingerprint != before.fingerprint, option
        assert not same_rows(rows, after.batch("train", 0, 0, 32, context)["text"]), option


# Independent checkers: {position: (target, distance or None)} of a row, from its tokens alone.


def check_mqar(tokens, pairs_of_row, vocabulary):
    table = {tokens[2 * i]: (tokens[2 * i + 1], 2 * i) for i in range(pairs_of_row)}
    assert len(table) == pairs_of_row and all(0 < key < vocabulary // 2 <= value for key, (value, _) in table.items())
    return table


@pytest.mark.parametrize("name", ["mqar", "mqar, mixed and noisy", "mqar, zoology"])
def test_mqar_asks_each_key_once_for_its_value(name, task):
    dataset, context = task
    rows = dataset.batch("train", 0, 0, 60, context)["text"]
    found = set()
    for tokens, targets, distance, pairs in zip(
        *map(torch.Tensor.tolist, (rows.tokens_BT, rows.targets_BT, *rows.extra.values())), strict=True
    ):
        asked = [t for t in range(context) if targets[t] >= 0]
        number = pairs[asked[0]]
        table = check_mqar(tokens, number, dataset.vocabulary)
        assert sorted(tokens[t] for t in asked) == sorted(table) and asked[0] >= 2 * number
        assert all((targets[t], t - distance[t]) == table[tokens[t]] and pairs[t] == number for t in asked)
        if name != "mqar, mixed and noisy":
            assert all(tokens[t] == 0 for t in range(2 * number, context) if t not in asked)
        found.add(number)
    assert found == ({1, 3} if "mixed" in name else {2} if name == "mqar" else {4})


def test_the_gaps_of_mqar_follow_their_power_law():
    """With one pair, the place of its question is drawn from the law alone; with power 1 it is uniform."""
    for power in (0.01, 1.0):
        dataset = dataset_of({"type": "mqar", "vocabulary": 2000, "pairs": 1, "power": power}, 34)
        rows = dataset.batch("train", 0, 0, 4000, 34)["text"]
        places = ((rows.targets_BT >= 0).int().argmax(1) - 2).numpy() // 2
        law = np.arange(1, 17) ** (power - 1)
        share = np.bincount(places, minlength=16) / 4000
        assert np.abs(share - law / law.sum()).max() < 0.03


def kinds_of(dataset, split, rows, context):
    """{pairs: (the rows that have so many, the last place of any token or question in them)} of an evaluation."""
    part = torch.cat([each.extra["pairs"] for each in rows_of(dataset, split, rows, context)]).amax(1)
    tokens = torch.cat([each.tokens_BT for each in rows_of(dataset, split, rows, context)])
    last = torch.where(tokens > 0, torch.arange(context), 0).amax(1)
    return {int(pairs): (int((part == pairs).sum()), int(last[part == pairs].max())) for pairs in part.unique()}


@pytest.mark.slow
def test_the_frontier_is_trained_on_five_kinds_of_rows_and_tested_on_seven():
    """Zoology's published mixture: 100,000 rows of 64 tokens, 20,000 of each other kind; seven tests of equal size."""
    dataset = dataset_of({"type": "mqar", "preset": "zoology_frontier"}, 256)
    trained = kinds_of(dataset, "select", 900, 256)
    assert set(trained) == {4, 8, 16, 32, 64} and trained[4][1] < 64 <= trained[8][1] < 128
    assert trained[4][0] / 900 == pytest.approx(5 / 9, abs=0.07)
    assert all(trained[pairs][0] / 900 == pytest.approx(1 / 9, abs=0.05) for pairs in (8, 16, 32, 64))
    tested = kinds_of(dataset, "report", 350, 1024)
    assert set(tested) == {4, 8, 16, 32, 64, 128, 256} and max(tested[pairs][1] for pairs in (4, 8, 16)) < 64
    assert all(count / 350 == pytest.approx(1 / 7, abs=0.08) for count, _ in tested.values())
    assert tested[32][1] < 128 <= tested[64][1] < 256 <= tested[128][1] < 512 <= tested[256][1]
    assert set(kinds_of(dataset, "report", 200, 256)) == {4, 8, 16, 32, 64}, "those that fit"
    with pytest.raises(DataError, match="up to 256 tokens, not 128"):
        dataset.check(128)


def test_a_key_has_one_value_in_every_row_of_every_split_and_no_row_shows_it():
    dataset = dataset_of({"type": "memorization"}, 32)
    value_of: dict[int, set[int]] = {}
    for split in SPLITS:
        for rows in rows_of(dataset, split, 300, 32):
            keys, signs = rows.tokens_BT[:, 0::2], rows.tokens_BT[:, 1::2]
            assert (keys < 127).all() and (signs == 255).all() and (rows.targets_BT[:, 0::2] == -1).all()
            values = rows.targets_BT[:, 1::2]
            assert (values >= 127).all() and (values < 255).all()
            for key, value in zip(keys.flatten().tolist(), values.flatten().tolist(), strict=True):
                value_of.setdefault(key, set()).add(value)
    assert len(value_of) == 127 and all(len(each) == 1 for each in value_of.values())
    assert len(set().union(*value_of.values())) == 127, "no two keys have the same value"
    for context in (2, 31):
        with pytest.raises(DataError, match="even number of at least 4"):
            dataset_of({"type": "memorization"}, context)


@pytest.mark.parametrize("name", ["random_tokens", "random_tokens, mad"])
def test_random_tokens_are_uniform_and_end_with_the_mark(name, task):
    dataset, context = task
    symbols = dataset.vocabulary - 1
    rows = dataset.batch("train", 0, 0, 3000, context)["text"]
    assert (rows.tokens_BT[:, -1] == symbols).all() and (rows.tokens_BT[:, :-1] < symbols).all()
    assert torch.equal(rows.targets_BT[:, :-2], rows.tokens_BT[:, 1:-1]) and (rows.targets_BT[:, -2:] == -1).all()
    share = torch.bincount(rows.tokens_BT[:, :-1].flatten()) / rows.tokens_BT[:, :-1].numel()
    assert (share - 1 / symbols).abs().max() < 4 * (symbols * 3000 * (context - 1)) ** -0.5


@pytest.mark.parametrize("name", ["selective_copy", "selective_copy, griffin"])
def test_selective_copy_repeats_the_data_tokens_in_order(name, task):
    dataset, context = task
    count, noise, mark = dataset.task.tokens, dataset.vocabulary - 2, dataset.vocabulary - 1
    rows = dataset.batch("train", 0, 0, 40, context)["text"]
    places = set()
    for tokens, targets, distance in zip(
        *map(torch.Tensor.tolist, (rows.tokens_BT, rows.targets_BT, rows.extra["distance"])), strict=True
    ):
        data = [(t, token) for t, token in enumerate(tokens) if token < noise]
        assert len(data) == count and tokens[-count:] == [mark] * count and set(tokens[:-count]) <= {*range(noise), noise}
        assert targets == [-1] * (context - count) + [token for _, token in data]
        assert distance[-count:] == [context - count + i - t for i, (t, _) in enumerate(data)]
        places |= {t for t, _ in data}
    assert {0, context - count - 1} <= places or context > 100


@pytest.mark.parametrize("name", ["induction", "induction, griffin"])
def test_induction_asks_for_what_followed_the_special_token(name, task):
    dataset, context = task
    rows = dataset.batch("train", 0, 0, 200, context)["text"]
    places = set()
    for tokens, targets, distance in zip(
        *map(torch.Tensor.tolist, (rows.tokens_BT, rows.targets_BT, rows.extra["distance"])), strict=True
    ):
        first, last = (t for t, token in enumerate(tokens) if token == dataset.vocabulary - 1)
        assert last == context - 1 and targets == [-1] * last + [tokens[first + 1]] and distance[-1] == last - first
        places.add(first)
    assert len(places) > min(context - 2, 100) // 2 and max(places) <= context - 3


@pytest.mark.parametrize("name", ["phonebook", "phonebook, as many as fit"])
def test_phonebook_asks_for_the_number_of_one_name(name, task):
    dataset, context = task
    book = dataset.task
    rows = dataset.batch("train", 0, 0, 60, context)["text"]
    asked_at = set()
    for tokens, targets, distance, pairs in zip(
        *map(torch.Tensor.tolist, (rows.tokens_BT, rows.targets_BT, *rows.extra.values())), strict=True
    ):
        question = tokens.index(3)
        entries = [tokens[i : i + book.entry] for i in range(0, question, book.entry)]
        numbers = {tuple(e[: book.name]): e[book.name + 1 : -1] for e in entries}
        assert len(numbers) == len(entries) and all(e[book.name] == 1 and e[-1] == 2 for e in entries)
        asked = tuple(tokens[question + 1 : question + 1 + book.name])
        first = question + 1 + book.name
        number = numbers[asked]
        assert tokens[first : first + book.digits] == [1, *number[:-1]], "the answer is read as far as it is known"
        assert {t: targets[t] for t in range(context) if targets[t] >= 0} == {first + i: digit for i, digit in enumerate(number)}
        place = next(i for i, e in enumerate(entries) if tuple(e[: book.name]) == asked)
        assert distance[first] == first - (place * book.entry + book.name) and pairs[first] == len(entries)
        asked_at.add(place)
    assert asked_at == set(range(len(entries))), "every place is asked for"
    assert book.entries or question + book.question + book.entry > context, "as many entries as fit"


@pytest.mark.parametrize("name", ["in_context_recall", "in_context_recall, noisy", "in_context_recall, motifs"])
def test_in_context_recall_scores_keys_that_came_before(name, task):
    dataset, context = task
    tables, m = dataset.task, dataset.task.motif
    rows = dataset.batch("train", 0, 0, 40, context)["text"]
    half, scored = tables.symbols // 2, 0
    for tokens, targets, distance, pairs in zip(
        *map(torch.Tensor.tolist, (rows.tokens_BT, rows.targets_BT, *rows.extra.values())), strict=True
    ):
        seen, wanted, t, noise = {}, {}, 0, 0
        while t < context:
            if tokens[t] >= tables.symbols:
                t, noise = t + 1, noise + 1
                continue
            key, value = tuple(tokens[t : t + m]), tokens[t + m : t + 2 * m]
            assert max(key) < half <= min(value) and max(value) < tables.symbols
            if key in seen:
                assert seen[key][0] == value
                wanted |= {t + m - 1 + i: (value[i], t - seen[key][1], len(seen)) for i in range(m)}
            seen[key] = value, t
            t += 2 * m
        assert noise == context - 2 * m * tables.shown(context) and len(seen) <= tables.pairs
        assert wanted == {t: (targets[t], distance[t], pairs[t]) for t in range(context) if targets[t] >= 0}
        scored += len(wanted)
    assert scored


@pytest.mark.parametrize("name", ["modular_arithmetic", "modular_arithmetic, long"])
def test_the_answers_of_modular_arithmetic_are_those_of_python(name, task):
    dataset, context = task
    modulus = dataset.task.modulus
    signs = {modulus: "+", modulus + 1: "-", modulus + 2: "*"}
    rows = dataset.batch("train", 0, 0, 60, context)["text"]
    for tokens, targets in zip(rows.tokens_BT.tolist(), rows.targets_BT.tolist(), strict=True):
        text = str(tokens[0])
        for place in range(1, context - 1, 2):
            text = f"({text} {signs[tokens[place]]} {tokens[place + 1]})"
        assert tokens[-1] == modulus + 3 and targets == [-1] * (context - 1) + [eval(text) % modulus]
    assert (dataset.task.answer(rows.tokens_BT.numpy()) == rows.targets_BT[:, -1].numpy()).all(), "answers can be checked"


def test_few_instances_are_all_used_and_each_evaluated_once():
    dataset = dataset_of({"type": "modular_arithmetic", "modulus": 17}, 4)
    rows = {split: torch.cat([each.tokens_BT for each in rows_of(dataset, split, 10_000, 4)]) for split in SPLITS}
    assert sum(map(len, rows.values())) == 17 * 17
    assert len({tuple(row) for part in rows.values() for row in part.tolist()}) == 17 * 17
    trained = {tuple(row) for row in dataset.batch("train", 0, 0, 4000, 4)["text"].tokens_BT.tolist()}
    assert trained == {tuple(row) for row in rows["train"].tolist()}


def test_the_shares_of_the_splits_are_those_of_a_corpus():
    dataset = dataset_of({"type": "modular_arithmetic", "modulus": 101}, 4)
    for split, share in FRACTIONS.items():
        assert sum(map(len, rows_of(dataset, split, 20_000, 4))) / 101**2 == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("name", ["known_entropy", "known_entropy, long"])
def test_the_nats_of_known_entropy_are_those_of_its_grammar(name, task):
    """A parser of its own follows the brackets; the distribution is looked up by what is open, and sums to 1."""
    dataset, context = task
    grammar = dataset.task
    words, brackets = grammar.words, grammar.brackets
    np.testing.assert_allclose(grammar.p_SV.sum(1), 1, rtol=1e-12)
    rows = dataset.batch("train", 0, 0, 20, context)["text"]
    assert (rows.targets_BT >= 0).all() and (rows.tokens_BT[:, 0] == dataset.vocabulary - 1).all()
    assert torch.equal(rows.tokens_BT[:, 1:], rows.targets_BT[:, :-1])
    deepest = 0
    for targets, nats in zip(rows.targets_BT.tolist(), rows.extra["nats"].tolist(), strict=True):
        open_ones = []
        for token, said in zip(targets, nats, strict=True):
            state = 2 * (open_ones[-1] + 1 if open_ones else 0) + (len(open_ones) == grammar.depth)
            assert said == pytest.approx(-np.log(grammar.p_SV[state, token]), rel=1e-5)
            if words <= token < words + brackets:
                open_ones.append(token - words)
            elif token >= words + brackets:
                assert open_ones.pop() == token - words - brackets, "a bracket is closed by its own kind"
            deepest = max(deepest, len(open_ones))
    assert deepest == grammar.depth


def test_tokens_of_known_entropy_are_drawn_from_the_distribution_that_it_states():
    """-log p averages to the entropy of the states that were met, within four standard errors."""
    dataset = dataset_of({"type": "known_entropy"}, 64)
    grammar = dataset.task
    random = Draws(numbered_key(7) + np.arange(3000, dtype=np.uint64))
    drawn = grammar.draw(random, 64)
    p = grammar.p_SV
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = np.where(p > 0, -np.log(p), 0)
    stack, level = np.zeros((3000, grammar.depth), dtype=int), np.zeros(3000, dtype=int)
    gap, variance = 0.0, 0.0
    for t in range(63):
        state, token = grammar.state(stack, level), drawn["tokens"][:, t]
        mean = (p * nats).sum(1)[state]
        gap += (drawn["nats"][:, t] - mean).sum()
        variance += (((p * nats**2).sum(1))[state] - mean**2).sum()
        opened, closed = (
            (token >= grammar.words) & (token < grammar.words + grammar.brackets),
            token >= grammar.words + grammar.brackets,
        )
        stack[np.flatnonzero(opened), level[opened]] = token[opened] - grammar.words + 1
        level = level + opened - closed
    assert abs(gap) < 4 * variance**0.5


@pytest.mark.parametrize(
    "source, context, key, text",
    [
        ({"type": "mqar", "preset": "zoology_64_4"}, 128, "data.context", "the preset zoology_64_4 has 64 tokens per row, not 128"),
        (
            {"type": "mqar", "preset": "zoology_64_4", "pairs": 4},
            64,
            "data.source.pairs",
            "the preset zoology_64_4 says it already",
        ),
        ({"type": "mqar", "vocabulary": 64}, 64, "data.source.pairs", "missing: expected a number, or a preset"),
        ({"type": "mqar", "vocabulary": 64, "pairs": 8}, 24, "data.source.pairs", "a row of 24 tokens is too short: 8 pairs and"),
        ({"type": "mqar", "vocabulary": 16, "pairs": 8}, 64, "data.source.vocabulary", "16 is too small: 8 pairs need 18 tokens"),
        ({"type": "mqar", "vocabulary": 4, "pairs": 1}, 8, "data.source", "no instance of the select split was found in"),
        ({"type": "selective_copy", "tokens": 16}, 31, "data.source.tokens", "16 data tokens and as many marks need 32"),
        ({"type": "induction"}, 3, "data.context", "expected at least 4 tokens per row, got 3"),
        ({"type": "phonebook", "entries": 9}, 64, "data.source.entries", "9 entries and a question need 79"),
        (
            {"type": "phonebook", "names": 2, "name": 1, "digits": 1},
            64,
            "data.source.names",
            "2 symbols give 2 names of 1, fewer than",
        ),
        ({"type": "in_context_recall"}, 33, "data.context", "expected a multiple of 2, the tokens of a pair, got 33"),
        ({"type": "in_context_recall", "pairs": 9}, 32, "data.source.vocabulary", "16 tokens give 8 keys of 1, fewer than 9 pairs"),
        (
            {"type": "in_context_recall", "noise": 0.9},
            32,
            "data.context",
            "too short for two pairs of 2 tokens with a share of 0.9",
        ),
        ({"type": "modular_arithmetic"}, 16, "data.context", "expected 4, the tokens of an expression of 2 terms, got 16"),
        ({"type": "modular_arithmetic", "modulus": 2}, 4, "data.source", "the task has 4 instances: none is left for the"),
        ({"type": "known_entropy", "open": 0.5, "close": 0.5}, 16, "data.source", "open + close = 1 leaves no word"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_at_its_key(source, context, key, text, tiny):
    tiny["data"] = {"source": source, "context": context, "rows": 4}
    with pytest.raises(SpecError) as refused:
        plan(tiny)
    line = str(refused.value)
    assert f"{key}: " in line and text in line and "\n" not in line


def test_a_longer_row_than_the_training_s_is_checked_where_an_evaluator_asks_for_it(tiny):
    tiny["data"] = {"source": {"type": "mqar", "vocabulary": 64, "pairs": 4}, "context": 32, "rows": 4}
    tiny["evaluate"] = {"report": {"far": {"type": "recall", "context": [32, 8]}}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.far\.context: 8: a row of 8 tokens is too short: 4 pairs and"):
        plan(tiny)
    tiny["evaluate"]["report"]["far"]["context"] = [32, 256]
    assert plan(tiny).evaluations[-1].evaluator["context"] == [32, 256]


def test_a_task_that_never_finds_its_split_is_an_error_and_no_endless_loop(monkeypatch):
    dataset = dataset_of({"type": "induction"}, 16)
    monkeypatch.setattr(generated, "_splits", lambda hash_N: np.zeros(len(hash_N), dtype=int))
    with pytest.raises(DataError, match=r"no instance of the report split was found in \d,\d+ draws; expected a larger task"):
        next(dataset.evaluation("report", 4, 16, 4))


def test_draws_are_uniform_distinct_and_weighted_as_they_say():
    random = Draws(numbered_key(1) + np.arange(20_000, dtype=np.uint64))
    assert np.bincount(random.below(5), minlength=5) / 20_000 == pytest.approx(0.2, abs=0.015)
    distinct = random.distinct(6, 3)
    assert (np.sort(distinct, 1)[:, 1:] > np.sort(distinct, 1)[:, :-1]).all() and distinct.min() == 0 and distinct.max() == 5
    orders = np.bincount((distinct * [36, 6, 1]).sum(1), minlength=216)
    assert (orders[orders > 0] / 20_000 == pytest.approx(1 / 120, abs=0.003)) and (orders > 0).sum() == 120
    first = random.sample(np.array([1.0, 2.0, 5.0]), 2)
    assert np.bincount(first[:, 0]) / 20_000 == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.015)
    assert (first[:, 0] != first[:, 1]).all()
    assert len(np.unique(hashed(np.indices((30, 30)).reshape(2, -1).T))) == 900, "the place of a number counts"
