"""How documents are kept to be searched, and how queries are compared with them: float32, int8, int4, one bit per number.

Only documents are kept, so only they are quantised; a query is a float32 vector, compared with what the codes stand for.
`binary` is the exception: there both are signs, and documents are ranked by the bits that differ (Hamming distance), which
leaves many ties. `binary_rescored` takes the first documents of that ranking and orders them anew by the product of the float
query with the document's signs; the same bytes are kept (Yamada et al. 2021, "Efficient Passage Retrieval with Hashing for
Open-domain Question Answering").

Shapes: Q queries, B of a chunk, N documents, E numbers of a vector, M documents of a shortlist, P bytes of packed codes.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from experiments.quantised import BYTE, NIBBLE, Ranges, packed_nibbles, packed_signs, unpacked_nibbles, unpacked_signs
from experiments.ranking import Scores, products

FLOAT = "float32"
Form = Literal["int8", "int4", "binary", "binary_rescored"]


class Index(NamedTuple):
    """scores: of the queries against all documents. bytes: what is kept of each document."""

    scores: Scores
    bytes: int


def index(form: str, query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    """The Index in a form: `float32`, or one of `Form`. shortlist: how many documents are ordered anew by `binary_rescored`."""
    return FORMS[form](query_QE, document_NE, shortlist)


def _float32(query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    return Index(products(query_QE, document_NE), _bytes(document_NE.float()))


def _int8(query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    ranges = Ranges.of(document_NE)
    codes_NE = ranges.codes(document_NE, BYTE)
    return Index(products(query_QE, ranges.values(codes_NE, BYTE)), _bytes(codes_NE))


def _int4(query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    ranges = Ranges.of(document_NE)
    packed_NP = packed_nibbles(ranges.codes(document_NE, NIBBLE))
    codes_NE = unpacked_nibbles(packed_NP, document_NE.shape[1])
    return Index(products(query_QE, ranges.values(codes_NE, NIBBLE)), _bytes(packed_NP))


def _binary(query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    packed_NP, width = packed_signs(document_NE), document_NE.shape[1]
    # Of signs, the product is E - 2 x (the bits that differ): whole numbers, exact in float32.
    return Index(products(unpacked_signs(packed_signs(query_QE), width), unpacked_signs(packed_NP, width)), _bytes(packed_NP))


def _binary_rescored(query_QE: Tensor, document_NE: Tensor, shortlist: int) -> Index:
    by_bits, size = _binary(query_QE, document_NE, shortlist)
    by_query = products(query_QE, unpacked_signs(packed_signs(document_NE), document_NE.shape[1]))

    def scores(part: slice) -> Tensor:
        order_BN = by_bits(part).argsort(dim=1, descending=True, stable=True)  # ties: the smaller number first
        first_BM = order_BN[:, :shortlist]
        again_BM = by_query(part).gather(1, first_BM).argsort(dim=1, descending=True, stable=True)
        order_BN[:, :shortlist] = first_BM.gather(1, again_BM)
        place_N = torch.arange(order_BN.shape[1], dtype=torch.float32, device=order_BN.device)
        return torch.empty_like(order_BN, dtype=torch.float32).scatter_(1, order_BN, -place_N.expand_as(order_BN))

    return Index(scores, size)


FORMS: dict[str, Callable[[Tensor, Tensor, int], Index]] = {
    FLOAT: _float32,
    "int8": _int8,
    "int4": _int4,
    "binary": _binary,
    "binary_rescored": _binary_rescored,
}
assert {FLOAT, *get_args(Form)} == set(FORMS)


def _bytes(codes_NP: Tensor) -> int:
    """The bytes of each row."""
    return codes_NP.shape[1] * codes_NP.element_size()
