"""The scan's and the RG-LRU's compiled and torch paths against their plain references: values and every gradient."""

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kernel_paths import compiled_or_skip

from arch.kernels import linear_scan as scan
from arch.kernels import native, rg_lru

PATHS = {"compiled": contextlib.nullcontext, "torch": native.disabled}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}
SHAPES = [(1, 1, 1), (2, 1, 7), (3, 2, 64), (2, 37, 70), (1, 64, 129), (2, 0, 3), (0, 5, 3)]


@pytest.fixture(params=PATHS)
def path(request):
    if request.param == "compiled":
        compiled_or_skip("linear_scan", "rg_lru")
    with PATHS[request.param]():
        yield request.param


def test_the_compiled_path_is_there_and_can_be_asked_for(path, monkeypatch):
    for name in ("linear_scan", "rg_lru"):
        assert native.path(name).startswith("compiled " if path == "compiled" else "torch: switched off")
        monkeypatch.setenv("ARCHBENCH_NATIVE", "0")
        assert native.path(name).startswith("torch: ")
        monkeypatch.delenv("ARCHBENCH_NATIVE")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def scan_inputs(rows, tokens, width, resets=True):
    a = torch.sigmoid(random(rows, tokens, width)) ** 0.1
    if resets:
        a = torch.where(random(rows, tokens, 1, seed=1) < -0.8, 0.0, a)
    return [a, random(rows, tokens, width, seed=2), random(rows, width, seed=3)]


def gate_inputs(rows, tokens, width, slope=1.0):
    rho, iota, u = (2 * random(rows, tokens, width, seed=seed) for seed in range(3))
    slopes, resets = -slope * random(width, seed=4).sigmoid(), random(rows, tokens, seed=5) < -0.8
    return [rho, iota, u, slopes, resets, random(rows, width, seed=6)]


def compare(operation, reference, inputs, dtype, tolerance, wanted=None):
    """`operation` in `dtype` against `reference` in float64 on the same rounded numbers."""
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    wanted = [x.is_floating_point() for x in inputs] if wanted is None else wanted
    mine = [x.clone(memory_format=torch.preserve_format).requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    exact = [(x.double() if x.is_floating_point() else x).requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    got, want = operation(*mine), reference(*exact)
    near("states", got, want, dtype, tolerance)
    weight = random(*want.shape, seed=9).to(dtype)
    pick = lambda xs: [x for x, want in zip(xs, wanted, strict=True) if want]  # noqa: E731
    gradients = torch.autograd.grad(want, pick(exact), weight.double())
    for k, (left, right) in enumerate(zip(torch.autograd.grad(got, pick(mine), weight), gradients, strict=True)):
        near(f"gradient {k}", left, right, dtype, tolerance)


def states(*inputs):
    """The RG-LRU's states and, as one further token, the last one."""
    h_BTR, last_BR = rg_lru.rg_lru(*inputs)
    return torch.cat([h_BTR, last_BR[:, None].to(h_BTR.dtype)], 1)


def true_states(*inputs):
    h_BTR, last_BR = rg_lru.reference(*inputs)
    return torch.cat([h_BTR, last_BR[:, None]], 1)


def near(what, got, want, dtype, tolerance):
    assert got.shape == want.shape and got.dtype == dtype, what
    error = (got.double() - want).norm() / want.norm().clamp(min=1e-9)
    assert want.numel() == 0 or error <= tolerance, f"{what}: {error:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_linear_scan(path, shape, dtype):
    compare(scan.linear_scan, scan.reference, scan_inputs(*shape), dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 4e-6), (torch.bfloat16, 1e-2), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("slope", [30.0, 1.0, 1e-3, 1e-8])
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_rg_lru(path, shape, slope, dtype, tolerance):
    compare(states, true_states, gate_inputs(*shape, slope), dtype, tolerance)


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)], ids=str)
def test_gradients_of_some_inputs_only(path, wanted):
    compare(scan.linear_scan, scan.reference, scan_inputs(2, 9, 70), torch.float32, 2e-6, [bool(w) for w in wanted])
    chosen = [bool(w) for w in (wanted[0], wanted[1], wanted[1], wanted[0], 0, wanted[2])]
    compare(states, true_states, gate_inputs(2, 9, 70), torch.float32, 4e-6, chosen)


@pytest.mark.parametrize("form", scan.FORMS)
@pytest.mark.parametrize("shape", [*SHAPES[:5], (2, 64, 3), (1, 6, 2)], ids=str)
def test_every_form_of_the_scan_is_the_recurrence(form, shape):
    """Alone and inside of the RG-LRU, values and gradients; the same form goes backwards."""
    if form == "compiled":
        compiled_or_skip("linear_scan")
    with scan.by(form):
        compare(scan.linear_scan, scan.reference, scan_inputs(*shape), torch.float32, 2e-6)
        compare(scan.linear_scan, scan.reference, scan_inputs(*shape), torch.bfloat16, 1e-2)
        compare(states, true_states, gate_inputs(*shape), torch.float32, 4e-6)


@pytest.mark.parametrize("form", scan.PLAIN)
def test_the_chosen_form_is_the_one_that_runs_forwards_and_backwards(form, monkeypatch):
    calls, plain = [], scan.PLAIN[form]
    monkeypatch.setitem(scan.PLAIN, form, lambda *inputs: calls.append(form) or plain(*inputs))
    for operation, inputs in ((scan.linear_scan, scan_inputs(2, 9, 4)), (states, gate_inputs(2, 9, 4))):
        mine = [x.float().requires_grad_() if x.is_floating_point() else x for x in inputs]
        with scan.by(form):
            operation(*mine).sum().backward()
        assert calls == [form] * 2, operation
        calls.clear()
    if native.path("linear_scan").startswith("compiled"):
        scan.linear_scan(*[x.float() for x in scan_inputs(2, 9, 4)])
        assert not calls and scan.chosen() is None
    with pytest.raises(ValueError, match="no form 'parallel' of the scan"), scan.by("parallel"):
        pass
    with native.disabled():
        assert scan.unavailable("compiled", torch.device("cpu"), torch.float32) == "switched off in this process"
        assert not scan.unavailable(form, torch.device("cpu"), torch.float32)
    assert "ARCHBENCH_TRITON" in scan.unavailable("compiled", torch.device("cuda"), torch.float32)


def test_strided_inputs(path):
    turned = lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2)  # noqa: E731
    assert not turned(scan_inputs(2, 9, 70)[0]).is_contiguous()
    compare(scan.linear_scan, scan.reference, [turned(x) for x in scan_inputs(2, 9, 70)], torch.float32, 2e-6)
    inputs = [x if x.ndim == 1 else turned(x) for x in gate_inputs(2, 9, 70)]
    compare(states, true_states, inputs, torch.float32, 4e-6)
    a, b, h0 = (x.float() for x in scan_inputs(2, 9, 70))
    expanded = scan.linear_scan(a[:1, :1].expand_as(a), b, h0[:1].expand_as(h0))
    torch.testing.assert_close(expanded, scan.reference(a[:1, :1].expand_as(a), b, h0[:1].expand_as(h0)))


@pytest.mark.parametrize("shape", SHAPES[5:], ids=str)
def test_nothing_in_nothing_out(path, shape):
    """No tokens or no rows."""
    gated = lambda *inputs: rg_lru.rg_lru(*inputs)[0]  # noqa: E731
    for operation, inputs in ((scan.linear_scan, scan_inputs(*shape)), (gated, gate_inputs(*shape))):
        mine = [x.float().requires_grad_() if x.is_floating_point() else x for x in inputs]
        h = operation(*mine)
        assert h.shape == shape
        for gradient in torch.autograd.grad(h.sum(), [x for x in mine if x.requires_grad]):
            assert not gradient.any()


def test_bits_do_not_depend_on_threads():
    threads = torch.get_num_threads()
    for operation, inputs in ((scan.linear_scan, scan_inputs(1, 40, 330)), (states, gate_inputs(1, 40, 330))):
        seen = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            mine = [x.float().requires_grad_() if x.is_floating_point() else x for x in inputs]
            h = operation(*mine)
            wanted = [x for x in mine if x.requires_grad]
            seen.append([h.detach(), *torch.autograd.grad(h, wanted, random(*h.shape).float())])
        torch.set_num_threads(threads)
        for other in seen[1:]:
            assert all(torch.equal(left, right) for left, right in zip(seen[0], other, strict=True))


def test_under_no_grad_twice(path):
    inputs = [x.float().requires_grad_() for x in scan_inputs(2, 20, 5)]
    with torch.no_grad():
        first, again = scan.linear_scan(*inputs), scan.linear_scan(*inputs)
    assert torch.equal(first, again) and not first.requires_grad
    assert torch.equal(first, scan.linear_scan(*inputs))


def test_a_gradient_of_a_gradient(path):
    scan_64, gates_64 = scan_inputs(1, 5, 2, resets=False), gate_inputs(1, 5, 2)
    assert torch.autograd.gradgradcheck(scan.linear_scan, [x.requires_grad_() for x in scan_64])
    mine = [x.requires_grad_() if x.is_floating_point() else x for x in gates_64]
    assert torch.autograd.gradgradcheck(states, mine, atol=1e-4)


def test_operations_are_well_formed(path):
    floats = [x.float() for x in scan_inputs(2, 10, 3)]
    scans, schema_and_fake = torch.ops.archbench, ("test_schema", "test_faketensor")
    torch.library.opcheck(scans.linear_scan, floats, test_utils=schema_and_fake)
    back = (floats[1], floats[0], floats[2], floats[1])
    torch.library.opcheck(scans.linear_scan_backward, back, test_utils=schema_and_fake)
    gates = [x.float().requires_grad_() if x.is_floating_point() else x for x in gate_inputs(2, 10, 3)]
    checks = (*schema_and_fake, "test_autograd_registration", "test_aot_dispatch_static")
    torch.library.opcheck(scans.rg_lru, gates, test_utils=checks)


def test_compiled_by_torch(path):
    """In one graph, values and gradients the same bits."""
    inputs = [x.float().requires_grad_() for x in scan_inputs(2, 10, 3)]
    got, want = torch.compile(scan.linear_scan, backend="aot_eager", fullgraph=True)(*inputs), scan.linear_scan(*inputs)
    assert torch.equal(got, want)
    weight = random(*want.shape).float()
    for left, right in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(want, inputs, weight), strict=True):
        assert torch.equal(left, right)


def test_shapes_that_do_not_agree_are_refused(path):
    a, b, h0 = (x.float() for x in scan_inputs(2, 5, 3))
    for wrong in ((a, b[:, :4], h0), (a, b, h0[:1]), (a, b[..., :1], h0)):
        with pytest.raises(ValueError, match="do not agree"):
            scan.linear_scan(*wrong)
    rho, iota, u, slope, reset, h0 = (x.float() if x.is_floating_point() else x for x in gate_inputs(2, 5, 3))
    for wrong in ((rho, iota, u, slope[:1], reset, h0), (rho, iota, u, slope, reset.int(), h0)):
        with pytest.raises(ValueError, match="do not agree"):
            rg_lru.rg_lru(*wrong)


def test_nan_and_infinity_stay_visible(path):
    rho, iota, u, slope, reset, h0 = (x.float() if x.is_floating_point() else x for x in gate_inputs(1, 6, 3))
    reset[:] = False
    for spoiled in (rho, iota, u):
        kept = spoiled[0, 2, 1].clone()
        spoiled[0, 2, 1] = float("nan")
        h = rg_lru.rg_lru(rho, iota, u, slope, reset, h0)[0]
        assert h[0, 2:, 1].isnan().all() and h[..., 0].isfinite().all()
        spoiled[0, 2, 1] = kept


def build():
    """As a new process would."""
    return native._built.__wrapped__("linear_scan")


def test_without_a_compiler_or_a_folder_torch_runs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("ARCHBENCH_NATIVE", raising=False)
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    for compiler, said in (("no-such-compiler", "torch: no C compiler"), ("false", "torch: .*false failed")):
        monkeypatch.setenv("CC", compiler)
        library, reason = build()
        assert library is None and re.match(said, reason)
    monkeypatch.delenv("CC")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "file"))
    library, reason = build()
    assert library is None and reason.startswith("torch: ")
    monkeypatch.setattr(native, "_built", lambda name, dtype: (library, reason))
    assert native.path("linear_scan") == reason
    compare(scan.linear_scan, scan.reference, scan_inputs(1, 9, 5), torch.float32, 2e-6)


def test_several_may_build_at_once(tmp_path, monkeypatch):
    compiled_or_skip("linear_scan")
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        built = [task.result() for task in [pool.submit(build) for _ in range(3)]]
    assert all(library is not None for library, _ in built) and len({key for _, key in built}) == 1
    assert len(list(tmp_path.glob("native/*"))) == 1
