"""Packing: each token is a target once, no target crosses documents, a batch is a pure function of its arguments."""

import numpy as np
import pytest
import torch

from experiments.data.packing import Stream, evaluation_rows, training_rows

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
