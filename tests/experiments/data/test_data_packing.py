"""Packing: each token is a target once, no target crosses documents, a batch is a pure function of its arguments."""

import numpy as np
import pytest
import torch

from experiments.data.packing import Stream, evaluation_rows, spread_rows, training_rows

BOS, EOS = 1, 2
LENGTHS = [3, 40, 1, 1, 17, 8, 64, 5, 2, 30]
CONTEXTS = [2, 7, 16, 33]


@pytest.fixture
def stream():
    """Documents of distinct tokens from 100 on, so that each token identifies its place."""
    number, pieces = 100, []
    for length in LENGTHS:
        pieces.append([BOS, *range(number, number + length), EOS])
        number += length
    starts = np.cumsum([0, *map(len, pieces)])
    return Stream(np.concatenate(pieces).astype(np.uint16), starts)


def tensors(batch):
    rows = batch["text"]
    return rows.tokens_BT, rows.targets_BT, rows.layout.doc_BT, rows.layout.pos_BT


def whole(stream, context):
    return stream.batch(np.arange(stream.rows(context)), context)["text"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_token_but_bos_is_a_target_exactly_once(stream, context):
    batch = whole(stream, context)
    used = batch.tokens_BT.numel()
    targets = batch.targets_BT[batch.targets_BT >= 0].tolist()
    expected = [token for token in stream.tokens[: used + 1].tolist() if token != BOS]
    assert sorted(targets) == sorted(expected)


@pytest.mark.parametrize("context", CONTEXTS)
def test_targets_stay_within_a_document(stream, context):
    batch = whole(stream, context)
    tokens, targets = batch.tokens_BT.flatten(), batch.targets_BT.flatten()
    assert torch.equal(targets == -1, tokens == EOS)
    inner = (tokens >= 100) & (targets >= 100)
    assert torch.equal(targets[inner], tokens[inner] + 1)


@pytest.mark.parametrize("context", CONTEXTS)
def test_positions_restart_where_the_document_changes_and_count_up_inside(stream, context):
    batch = whole(stream, context)
    doc, pos = batch.layout.doc_BT, batch.layout.pos_BT
    assert (doc[:, 0] == 0).all() and (pos[:, 0] == 0).all()
    changes = doc[:, 1:] != doc[:, :-1]
    assert torch.equal(doc[:, 1:] - doc[:, :-1], changes.long())
    assert torch.equal(pos[:, 1:], torch.where(changes, 0, pos[:, :-1] + 1))
    assert torch.equal(changes, batch.tokens_BT[:, 1:] == BOS)


def test_the_last_incomplete_row_is_dropped_and_the_very_end_has_no_target(stream):
    tokens = len(stream.tokens)
    assert stream.rows(tokens + 1) == 0
    assert stream.rows(tokens) == 1
    assert whole(stream, tokens).targets_BT[0, -1] == -1


def test_an_epoch_reads_every_row_once_and_epochs_differ():
    for rows in (1, 3, 10, 25):
        steps = [training_rows(10, step, 5, rows) for step in range(20)]
        order = np.concatenate(steps)
        epochs = [order[first : first + 10] for first in range(0, len(order) - 9, 10)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_rows_depend_on_the_arguments_alone():
    forward = [training_rows(13, step, 1, 4).tolist() for step in range(10)]
    backward = [training_rows(13, step, 1, 4).tolist() for step in reversed(range(10))]
    assert forward == backward[::-1]
    assert forward != [training_rows(13, step, 2, 4).tolist() for step in range(10)]


def test_evaluation_rows_are_distinct_sorted_and_all_where_there_are_few():
    chosen = evaluation_rows(100, 30)
    assert len(set(chosen)) == 30 and list(chosen) == sorted(chosen)
    assert set(chosen) < set(evaluation_rows(100, 60))
    assert evaluation_rows(7, 30).tolist() == list(range(7))


def test_a_batch_splits_into_micro_batches_that_make_it_up(stream):
    batch = stream.batch([3, 0, 2, 1], 16)
    parts = batch.split(2)
    assert all(part.rows == 2 for part in parts) and sum(part.weight for part in parts) == batch.weight
    together = [torch.cat(parts) for parts in zip(*(tensors(part) for part in parts), strict=True)]
    for joined, tensor in zip(together, tensors(batch), strict=True):
        assert tensor.dtype == torch.int64 and tensor.shape == (4, 16) and torch.equal(joined, tensor)
    assert torch.cat([part["text"].key_B for part in parts]).tolist() == [3, 0, 2, 1]
    assert batch.to("meta")["text"].layout.pos_BT.is_meta and batch.to("cpu")["text"].layout is batch["text"].layout
    with pytest.raises(ValueError, match="3 micro-batches do not divide 4 rows"):
        batch.split(3)


@pytest.fixture
def heavy_tailed():
    """The starts of 400 documents, a few of which hold most tokens, as in source code and books."""
    lengths = np.random.default_rng(3).pareto(1.1, 400) * 300 + 20
    lengths[[7, 150, 310]] = 120_000
    return np.cumsum([0, *lengths.astype(int)])


def tokens_of(starts, rows, context):
    """(documents,) how many tokens of each document are in these rows."""
    places = np.asarray(rows)[:, None] * context + np.arange(context)
    return np.bincount(np.searchsorted(starts, places.ravel(), side="right") - 1, minlength=len(starts) - 1)


def effective(tokens):
    return tokens.sum() ** 2 / (tokens**2).sum()


@pytest.mark.parametrize("context, rows", [(256, 256), (64, 500), (1024, 120)])
def test_rows_that_are_spread_hold_many_documents_in_equal_parts(heavy_tailed, context, rows):
    available = heavy_tailed[-1] // context
    chosen = spread_rows(heavy_tailed, context, rows)
    assert len(set(chosen.tolist())) == rows and chosen.max() < available and (np.diff(chosen) > 0).all()
    tokens = tokens_of(heavy_tailed, chosen, context)
    assert effective(tokens) >= 100 > 30 > effective(tokens_of(heavy_tailed, evaluation_rows(available, rows), context))
    # A document that could give more has as much as any other, up to what rows of neighbours brought.
    last = (heavy_tailed[1:] - 1) // context
    left = [not set(range(a, min(b + 1, available))) <= {*chosen} for a, b in zip(heavy_tailed[:-1] // context, last, strict=True)]
    assert tokens.max() <= tokens[left].min() + 3 * context
    assert chosen.tolist() == spread_rows(heavy_tailed, context, rows).tolist()


def test_rows_that_are_spread_are_all_rows_where_there_are_few(stream):
    assert spread_rows(stream.starts, 7, 1000).tolist() == list(range(stream.rows(7)))
    for rows in range(1, stream.rows(7) + 1):
        chosen = spread_rows(stream.starts, 7, rows)
        assert len(chosen) == rows and set(chosen.tolist()) <= set(range(stream.rows(7)))


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_batch_for_evaluation_says_which_document_each_token_is_of(stream, context):
    batch = stream.batch(np.arange(stream.rows(context)), context, documents=True)["text"]
    place = torch.arange(batch.tokens_BT.numel())
    expected = torch.bucketize(place, torch.from_numpy(stream.starts), right=True) - 1
    assert torch.equal(batch.document_BT.flatten(), expected)
    assert torch.equal(batch.part(slice(1, 3)).document_BT, batch.document_BT[1:3])
    assert torch.equal(batch.to("cpu").document_BT, batch.document_BT)
    assert whole(stream, context).document_BT is None, "training does not carry it"
