"""Attention through FlexAttention against the plain reference. On a CPU uncompiled, which shows that softcap and bounds
say what they should; what torch compiles them into, on a CUDA device, where there is one.

    python -m pytest tests/arch/test_flex.py -k cuda
"""

import pytest
import torch
from closeness import near
from test_kernels import HEADS, TOLERANCE, layout_of, reach_of
from tiny_specs import model_spec
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._subclasses import FakeTensorMode
from torch.nn.attention import flex_attention as library

from arch.kernels import attention, native, paths
from arch.kernels.attention import flex
from arch.layout import TokenLayout
from arch.model import new_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
SMALL = 16
# (queries, keys, window, packing): windows within a block and over several, whole blocks and ragged, earlier keys.
CASES = [(1, 1, 1, "whole"), (1, 40, None, "whole"), (21, 37, None, "whole"), (21, 37, 20, "whole")]
CASES += [(32, 32, None, "whole"), (32, 32, 5, "packed"), (41, 41, (None, None), "whole")]
CASES += [(41, 41, None, "packed"), (41, 41, None, "padded"), (41, 41, 5, "padded"), (41, 41, 23, "packed")]
CASES += [(41, 41, (3, 20), "packed"), (41, 41, 23, "whole"), (33, 33, (None, None), "packed")]
# The same kinds over blocks of 128.
LARGE = [(1, 1, 1, "whole"), (256, 256, None, "whole"), (300, 300, 40, "packed"), (300, 300, 170, "padded")]
LARGE += [(300, 300, (9, 150), "packed"), (140, 300, None, "whole")]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def compiled_afresh():
    """Each test compiles its own: torch refuses a function that has been compiled for too many shapes."""
    yield
    torch.compiler.reset()


@pytest.fixture
def on_cpu(monkeypatch):
    """Small blocks, and gradients. FlexAttention refuses those on a CPU because it has no kernel for them there: the
    check stands before the operation whose dense gradient, taken where nothing is compiled, is tested here."""
    monkeypatch.setattr(flex, "BLOCK", SMALL)
    monkeypatch.setattr(library, "_validate_device", lambda query, key, value: None)


def operands(tokens, keys, heads, kv_heads, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(tokens)
    shapes = (2, tokens, heads, 16), (2, keys, kv_heads, 16), (2, keys, kv_heads, 16)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def layout_for(packing, tokens, keys, device="cpu"):
    if keys > tokens:
        return TokenLayout.whole(2, tokens, device, first=keys - tokens)
    made = layout_of(packing, tokens)
    return TokenLayout(made.doc_BT.to(device), made.pos_BT.to(device), made.first)


def compare(tokens, keys, window, packing, softcap, dtype=torch.float32, device="cpu"):
    """Values and gradients beside the reference's."""
    q, k, v = operands(tokens, keys, *HEADS[tokens % len(HEADS)], dtype, device)
    layout, reach = layout_for(packing, tokens, keys, device), reach_of(window)
    low, high = layout.interval(*reach, first=keys - tokens)
    want = attention.reference(q, k, v, low, high, 0.3, softcap)
    pull = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).to(want)
    wanted = torch.autograd.grad(want, (q, k, v), pull)
    for memo in (None, layout.memo, layout.memo):
        got = flex.flex(q, k, v, low, high, 0.3, reach, softcap, memo)
        near(got, want, TOLERANCE[dtype], 1.0, "output")
        for name, mine, theirs in zip("qkv", torch.autograd.grad(got, (q, k, v), pull), wanted, strict=True):
            near(mine, theirs, TOLERANCE[dtype], 1.0, f"gradient of {name}")


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens, keys, window, packing", CASES)
def test_its_arithmetic_is_the_reference(tokens, keys, window, packing, softcap, on_cpu):
    compare(tokens, keys, window, packing, softcap)


@pytest.mark.parametrize("tokens, keys, window, packing", CASES)
def test_blocks_are_those_that_all_pairs_give(tokens, keys, window, packing, monkeypatch):
    """FlexAttention's own way to a block mask looks at every pair."""
    monkeypatch.setattr(flex, "BLOCK", SMALL)
    layout = layout_for(packing, tokens, keys)
    low, high = layout.interval(*reach_of(window), first=keys - tokens)
    got = flex.block_mask(low, high, keys)
    sees = lambda b, h, t, s: (low[b, t] <= s) & (s <= high[b, t])  # noqa: E731
    want = library.create_block_mask(sees, 2, None, tokens, keys, device="cpu", BLOCK_SIZE=SMALL)
    assert got.seq_lengths == want.seq_lengths and got.BLOCK_SIZE == want.BLOCK_SIZE
    for name in ("kv", "full_kv", "q", "full_q"):
        count, numbers = (getattr(want, f"{name}_{what}") for what in ("num_blocks", "indices"))
        assert torch.equal(getattr(got, f"{name}_num_blocks").expand_as(count), count), name
        assert torch.equal(getattr(got, f"{name}_indices").expand_as(numbers), numbers), name
    if packing == "whole":
        assert len(got.kv_num_blocks) == 1, "rows that are alike have one list of blocks"


def test_it_is_chosen_only_where_it_is_asked_for(monkeypatch):
    with FakeTensorMode():
        gpu, cpu = ([torch.empty(1, 64, 2, 16, device=device)] * 2 for device in ("cuda", "cpu"))
        narrow = [torch.empty(1, 64, 2, 8, device="cuda")] * 2
    cases = {
        "whole": {"reach": (None, 0), "whole": True},
        "packed": {"reach": (None, 0)},
        "window": {"reach": (4, 0)},
        "softcap": {"reach": (None, 0), "whole": True, "softcap": 5.0},
    }
    plain = {"whole": "fused", "packed": "fused", "window": "banded", "softcap": "blocked"}
    asked = {"whole": "fused", "packed": "flex", "window": "flex", "softcap": "flex"}
    for value, expected in ((None, plain), ("0", plain), ("1", asked)):
        monkeypatch.delenv("ARCHBENCH_TRITON", raising=False)
        if value is not None:
            monkeypatch.setenv("ARCHBENCH_TRITON", value)
        assert {name: attention.chosen(*gpu, **case) for name, case in cases.items()} == expected
        assert {name: attention.chosen(*narrow, **case) for name, case in cases.items()} == plain
        assert "flex" not in {attention.chosen(*cpu, **case) for case in cases.values()}
        with paths.without_triton():
            assert {name: attention.chosen(*gpu, **case) for name, case in cases.items()} == plain


def test_a_record_says_which_path_is_taken_on_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = {}
    for value in ("0", "1"):
        monkeypatch.setenv("ARCHBENCH_TRITON", value)
        said[value] = [text for name, text in paths.recorded().items() if name.endswith(" on cuda")]
    assert said["0"] == ["torch"] * 2 and all("flex" in text or "triton" in text for text in said["1"])


@pytest.mark.slow
def test_compiled_for_the_cpu_it_passes_over_the_right_blocks(monkeypatch, tmp_path):
    """The uncompiled form looks at every pair and not at the list of blocks. There is no gradient to compile here.

    Into a folder of its own: torch takes a program kept there for another vector width (under a cap on the CPU's
    features, or from another CPU), and it gives wrong numbers.
    """
    if native.path("linear_scan") == "torch: no C compiler":
        pytest.skip("no C compiler")
    if not pick_vec_isa():
        pytest.skip("torch compiles FlexAttention for no CPU without vectors")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(flex, "flex_attention", flex._compiled())
    q, k, v = (x.detach() for x in operands(300, 300, 4, 2))
    layout = layout_for("packed", 300, 300)
    low, high = layout.interval(40, 0)
    for scale, softcap in (0.3, 2.0), (0.4, 3.0), (0.5, 3.0):  # of a second number torch would make a variable
        got = flex.flex(q, k, v, low, high, scale, (40, 0), softcap)
        near(got, attention.reference(q, k, v, low, high, scale, softcap), TOLERANCE[torch.float32], 1.0, "output")


@needs_cuda
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens, keys, window, packing", LARGE)
def test_compiled_on_cuda_it_equals_the_reference(tokens, keys, window, packing, softcap, dtype):
    compare(tokens, keys, window, packing, softcap, dtype, "cuda")


@needs_cuda
def test_one_process_on_cuda_takes_many_lengths_and_softcaps():
    """torch refuses to compile more than eight times: new bounds and softcaps must not make it do so."""
    for tokens, softcap in [(256, 2.0), (300, 2.0), (300, 3.0), (520, 3.0), (700, 4.0), (130, 5.0)]:
        for packing in ("packed", "whole"):
            compare(tokens, tokens, None, packing, softcap, torch.float32, "cuda")


@needs_cuda
def test_a_model_on_cuda_has_the_same_gradients_where_it_is_asked_for(monkeypatch):
    """Gemma 2's layers, which no other single operation of torch can express."""
    attend = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 16, "softcap": 5.0}
    model = new_model(model_spec({**attend, "window": 50}, attend), seed=0).cuda()
    tokens = torch.randint(37, (2, 300), generator=torch.Generator().manual_seed(0)).cuda()
    layout = layout_for("packed", 300, 300, "cuda")

    def gradients():
        model.zero_grad()
        model(tokens, TokenLayout(layout.doc_BT, layout.pos_BT)).square().mean().backward()
        return [weight.grad.clone() for weight in model.parameters()]

    monkeypatch.delenv("ARCHBENCH_TRITON", raising=False)
    plain = gradients()
    monkeypatch.setenv("ARCHBENCH_TRITON", "1")
    for (name, _), mine, theirs in zip(model.named_parameters(), gradients(), plain, strict=True):
        near(mine, theirs, TOLERANCE[torch.float32], float(theirs.square().mean().sqrt()), name)
