"""What is kept of a distribution: draws follow it and depend on row and position alone; C and torch keep the same."""

import pytest
import torch
from kernel_paths import compiled_or_skip

from arch.kernels import native
from arch.kernels.kept import MODES, drawn, kept, reference


def test_draws_follow_the_distribution_and_nothing_else():
    vocabulary, n, k = 1003, 400, 64  # no multiple of a block
    p_nV = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    row_n, position_n = torch.arange(n) // 20, torch.arange(n) % 20
    whole_nk = drawn(p_nV[:1].expand(n, -1).contiguous(), row_n, position_n, k)
    seen_V, total = torch.bincount(whole_nk.flatten(), minlength=vocabulary), n * k
    sd_V = (total * p_nV[0] * (1 - p_nV[0])).sqrt()
    assert ((seen_V - total * p_nV[0]).abs() <= 5 * sd_V + 1).all()
    for part in (slice(7, 8), slice(100, 250)):
        again_nk = drawn(p_nV[:1].expand(n, -1)[part].contiguous(), row_n[part], position_n[part], k)
        assert torch.equal(again_nk, whole_nk[part])
    assert len({tuple(each) for each in whole_nk.tolist()}) == n  # other positions, other draws


def test_no_token_of_probability_zero_is_drawn():
    p_nV = torch.zeros(50, 300)
    p_nV[:, 7::11] = 1.0
    assert torch.isin(drawn(p_nV, torch.arange(50), torch.zeros(50, dtype=torch.long), 40), torch.arange(7, 300, 11)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocabulary, k", [(37, 5), (37, 37), (1000, 300), (4099, 100)])
def test_the_compiled_entries_are_those_of_the_reference(vocabulary, k, mode):
    compiled_or_skip("kept")
    z_nV = 3 * torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(0))
    places = torch.arange(20), torch.arange(20) // 3
    got, want = kept(z_nV.clone(), *places, k, mode), reference(z_nV.clone(), *places, k, mode)
    assert (got.ids_nk == want.ids_nk).float().mean() > 0.99  # a draw at a rounding's edge may be the next token
    same_n = (got.ids_nk == want.ids_nk).all(1)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a[same_n], b[same_n], rtol=1e-4, atol=1e-6)


def test_of_equals_the_first_are_the_largest():
    z_nV = torch.zeros(2, 50)
    z_nV[1, 30:] = 1.0
    ids_nk = kept(z_nV, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), 4, "top_k").ids_nk
    if native.path("kept").startswith("compiled"):
        assert ids_nk.tolist() == [[0, 1, 2, 3], [30, 31, 32, 33]]
    assert (ids_nk[1] >= 30).all() and (ids_nk.diff() > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_default_type_does_not_matter(mode):
    """It is bfloat16 in a run of the precision bf16-true; C writes float32 whatever it is."""
    z_nV = 3 * torch.randn(20, 37, generator=torch.Generator().manual_seed(0))
    places = torch.arange(20), torch.arange(20) // 3
    want = kept(z_nV.clone(), *places, 5, mode)
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = kept(z_nV.clone(), *places, 5, mode)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(got, want, strict=True))
