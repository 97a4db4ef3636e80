"""Quantised and shortened vectors: bounds of a round trip, packing, and rankings of documents that are kept in fewer bytes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments.quantised import Ranges, packed_nibbles, packed_signs, unpacked_nibbles, unpacked_signs
from experiments.ranking import ranked
from experiments.text_vectors import truncated
from experiments.vector_index import FORMS, index

WIDTHS = (1, 7, 8, 9, 64)


def drawn(rows, width, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("bits", [8, 4, 1])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_value_comes_back_within_half_a_step(bits, width):
    vectors_NE = drawn(200, width)
    ranges = Ranges.of(vectors_NE)
    codes_NE = ranges.codes(vectors_NE, bits)
    assert codes_NE.dtype == torch.uint8 and int(codes_NE.max()) == 2**bits - 1 and int(codes_NE.min()) == 0
    error_NE = (ranges.values(codes_NE, bits) - vectors_NE).abs()
    assert bool((error_NE <= ranges.step_E(bits) / 2 + 1e-6).all())
    again_NE = ranges.values(codes_NE, bits)
    assert torch.equal(ranges.codes(again_NE, bits), codes_NE), "what is quantised stays as it is"


def test_values_outside_of_the_ranges_are_clipped_and_a_constant_dimension_is_kept():
    ranges = Ranges.of(torch.tensor([[0.0, 0.5], [1.0, 0.5]]))
    codes_NE = ranges.codes(torch.tensor([[-3.0, 0.5], [7.0, 9.0]]), 8)
    assert codes_NE[:, 0].tolist() == [0, 255]
    assert ranges.values(codes_NE, 8).tolist() == [[0.0, 0.5], [1.0, 0.5]]


@pytest.mark.parametrize("width", WIDTHS)
def test_two_codes_share_a_byte(width):
    codes_NE = torch.randint(16, (20, width), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    packed_NB = packed_nibbles(codes_NE)
    assert packed_NB.dtype == torch.uint8 and packed_NB.shape == (20, (width + 1) // 2)
    assert torch.equal(unpacked_nibbles(packed_NB, width), codes_NE)


@pytest.mark.parametrize("width", WIDTHS)
def test_binary_is_the_sign_bits_eight_per_byte(width):
    vectors_NE = drawn(20, width)
    vectors_NE[0] = 0  # 0 is not above 0
    packed_NB = packed_signs(vectors_NE)
    assert packed_NB.dtype == torch.uint8
    assert np.array_equal(packed_NB.numpy(), np.packbits(vectors_NE.numpy() > 0, axis=1))
    assert torch.equal(unpacked_signs(packed_NB, width), torch.where(vectors_NE > 0, 1.0, -1.0))


@pytest.mark.parametrize("form, size", [("float32", 4 * 20), ("int8", 20), ("int4", 10), ("binary", 3), ("binary_rescored", 3)])
def test_the_bytes_of_a_document(form, size):
    assert index(form, drawn(3, 20), drawn(9, 20, 1), 4).bytes == size


def order(form, query_QE, document_NE, shortlist=5):
    """The numbers of all documents in the order of each query's ranking."""
    queries, documents = len(query_QE), len(document_NE)
    pair_P2 = torch.cartesian_prod(torch.arange(queries), torch.arange(documents))
    found = ranked(index(form, query_QE, document_NE, shortlist).scores, pair_P2, queries, documents)
    return found.rank_P.view(queries, documents).argsort(1)


def test_binary_ranks_by_the_bits_that_differ():
    query_QE, document_NE = drawn(5, 13), drawn(40, 13, 1)
    bits = lambda x_NE: np.unpackbits(np.packbits(x_NE.numpy() > 0, axis=1), axis=1)  # noqa: E731
    distance_QN = (bits(query_QE)[:, None] != bits(document_NE)).sum(2)
    expected = np.argsort(distance_QN, axis=1, kind="stable")
    assert np.array_equal(order("binary", query_QE, document_NE).numpy(), expected)


def test_rescoring_orders_the_shortlist_anew_and_nothing_else():
    query_QE, document_NE = drawn(6, 24), drawn(50, 24, 1)
    by_bits, rescored = order("binary", query_QE, document_NE), order("binary_rescored", query_QE, document_NE, 10)
    assert torch.equal(rescored[:, 10:], by_bits[:, 10:])
    assert torch.equal(rescored[:, :10].sort(1).values, by_bits[:, :10].sort(1).values)
    products_QN = query_QE @ torch.where(document_NE > 0, 1.0, -1.0).T
    assert bool((products_QN.gather(1, rescored[:, :10]).diff(dim=1) <= 0).all())
    whole = order("binary_rescored", query_QE, document_NE, 50)
    assert torch.equal(products_QN.gather(1, whole), products_QN.sort(1, descending=True).values)
    assert torch.equal(order("binary_rescored", query_QE, document_NE, 1), by_bits)


def test_more_bits_rank_more_like_float32():
    query_QE, document_NE = drawn(60, 32), drawn(300, 32, 1)
    first_Q = order("float32", query_QE, document_NE)[:, 0]
    same = {form: (order(form, query_QE, document_NE, 30)[:, 0] == first_Q).double().mean() for form in FORMS}
    assert same["float32"] == 1 and same["int8"] > 0.9
    assert same["int8"] >= same["int4"] >= same["binary_rescored"] >= same["binary"] > 1 / 300


@pytest.mark.parametrize("width", [1, 5, 16])
def test_shorter_vectors_have_length_one_and_cosines_of_the_beginning(width):
    vectors_NE = drawn(9, 16)
    short_NE = truncated(vectors_NE, width)
    assert short_NE.shape == (9, width) and torch.allclose(short_NE.norm(dim=1), torch.ones(9))
    cosines = F.cosine_similarity(vectors_NE[:, None, :width], vectors_NE[None, :, :width], dim=2)
    assert torch.allclose(short_NE @ short_NE.T, cosines, atol=1e-6)
