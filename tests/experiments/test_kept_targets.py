"""What is kept of a teacher: draws and their biases, the largest entries, the packed format, and the files on disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from arch.errors import DataError
from arch.layout import TokenLayout
from experiments.data.batch import Rows
from experiments.distillation import cache, packed
from experiments.distillation.cache import About, Cache
from experiments.distillation.teacher import Keeping, Kept, entries


def kept(p_nV, mode, k, key=None):
    """(ids, p, tail) of the targets that come from these distributions."""
    n, vocabulary = p_nV.shape
    key_n, keeping = (
        torch.zeros(n, dtype=torch.long) if key is None else key,
        Keeping(mode=mode, k=k, temperature=1.0, precision="float32"),
    )
    words_nk, tail_n, _ = entries(p_nV.log(), key_n, torch.arange(n), keeping)
    ids_nk, p_nk, _ = packed.targets(words_nk, tail_n, mode, False, vocabulary)
    return ids_nk, p_nk, tail_n


def mean_target(p_V, mode, k, n):
    """The mean over n positions of the target over the whole vocabulary."""
    ids_nk, p_nk, _ = kept(p_V.expand(n, -1).contiguous(), mode, k)
    return torch.zeros(n, len(p_V)).scatter_add_(1, ids_nk, p_nk).double().mean(0)


@pytest.mark.parametrize(
    "mode, expected",
    [("counts", (0.5, 0.3, 0.2)), ("sampled", (0.580357, 0.2745, 0.145143)), ("top_k", (0.625, 0.375, 0.0))],
)
def test_the_mean_over_draws_is_the_closed_form(mode, expected):
    """Two draws of (.5, .3, .2): counts are unbiased, a renormalised sample is not. sd of a mean below .0012."""
    mean_V = mean_target(torch.tensor([0.5, 0.3, 0.2]), mode, 2, 100_000)
    assert torch.allclose(mean_V, torch.tensor(expected).double(), atol=0.005)


@pytest.mark.parametrize("mode, ratio, error", [("counts", 1.0, 0.05), ("sampled", 2.56, 0.1), ("top_k", 1.79, 0.02)])
def test_the_bias_of_a_flat_teacher(mode, ratio, error):
    """Zipf's law over 32,768 tokens, 256 draws: the target's mean for the likeliest token, by its probability."""
    p_V = 1 / torch.arange(1, 32769)
    p_V /= p_V.sum()
    means = [mean_target(p_V, mode, 256, 100)]
    assert float(means[0][0] / p_V[0]) == pytest.approx(ratio, abs=error)


def test_the_tail_is_summed_up_and_not_what_is_left_of_one():
    logits = torch.full((1, 1000), -30.0)
    logits[0, :4] = 0.0
    words_nk, tail_n, entropy_n = entries(
        logits, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), keeping("top_k", 4)
    )
    assert float(tail_n) == pytest.approx(996 * np.exp(-30.0) / 4, rel=1e-4)
    assert float(entropy_n) == pytest.approx(np.log(4), rel=1e-5)
    assert (words_nk != 0).all()


def keeping(mode="sampled", k=4):
    return Keeping(mode=mode, k=k, temperature=1.0, precision="float32")


@pytest.mark.parametrize("vocabulary", [2, 259, 512, 32_768, 256_000, 262_144])
def test_what_is_packed_is_found_again(vocabulary):
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (200, 8), generator=random)
    ids[0] = vocabulary - 1
    p = 10 ** (-11.5 * torch.rand(200, 8, generator=random))
    p[1], p[2] = 1.0, 0.0
    again, q = packed.unpack(packed.pack(ids, p, "sampled", vocabulary), "sampled", vocabulary)
    used = p > 0
    assert torch.equal(again[used], ids[used]) and (again[~used] == 0).all() and (q[~used] == 0).all()
    assert ((q[used] / p[used] - 1).abs() <= packed.relative_error(vocabulary) + 3e-7).all()
    most = min(packed.largest_code(vocabulary), 1 << 22)
    counts = torch.randint(most + 1, (200, 8), generator=random)
    counts[0] = most
    again, found = packed.unpack(packed.pack(ids, counts, "counts", vocabulary), "counts", vocabulary)
    assert torch.equal(found, counts.float()) and torch.equal(again[counts > 0], ids[counts > 0])


def test_the_documented_errors_are_those_of_the_format():
    for vocabulary, error in ((262_144, 8.5e-4), (32_768, 1.1e-4), (512, 1.7e-6)):
        assert packed.relative_error(vocabulary) == pytest.approx(error, rel=0.05)


# The rows of a made-up dataset: some positions without a target, and some entries that are none.
CONTEXT, K, SCORED = 8, 4, 6


def about(**changes):
    parts = {"weights": "a" * 64, "model": "b" * 64, "vocabulary": 50, "data": "c" * 64, "context": CONTEXT, "keeping": keeping()}
    return About(**parts | changes)


def computed(numbers):
    """(Rows, Kept) of rows that are pure functions of their numbers."""
    targets_BT = torch.as_tensor(numbers)[:, None] + torch.arange(CONTEXT)
    targets_BT[:, SCORED:] = -1
    words_BTK = (targets_BT[:, :, None] * K + torch.arange(K)).to(torch.int32) * (targets_BT >= 0)[:, :, None]
    words_BTK[:, ::2, 2:] = 0
    tail_BT = torch.where(targets_BT >= 0, 1.0 / (2 + targets_BT), 0.0)
    rows = Rows(targets_BT.clamp(min=0), TokenLayout.whole(len(targets_BT), CONTEXT), targets_BT, torch.as_tensor(numbers))
    return rows, Kept(words_BTK, tail_BT, 2 * tail_BT)


def fill(numbers, rows_per_shard=3, made=None):
    """(the Cache, the numbers of the rows that were computed)"""
    asked = []

    def compute(numbers):
        asked.extend(int(number) for number in numbers)
        return computed(numbers)

    cache.SHARD_TOKENS = rows_per_shard * CONTEXT
    filled = Cache(made or about())
    filled.fill(np.asarray(numbers), compute, lambda done, total, what: None)
    return filled, asked


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A cache folder of its own, and small shards."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "SHARD_TOKENS", cache.SHARD_TOKENS)
    return tmp_path


def test_what_is_on_disk_is_what_was_computed(empty):
    fill([5, 9, 2, 30, 31])
    opened, asked = fill([2, 4, 9, 31])  # another run: only its own row is missing
    assert asked == [4]
    numbers = np.array([31, 2, 4, 4])  # in any order, also twice
    rows, want = computed(numbers)
    got = opened.kept(rows)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    tail, entropy = opened.means()
    assert entropy == pytest.approx(2 * tail)
    with pytest.raises(DataError, match="row 77 is not in this cache"):
        opened.kept(computed(np.array([77]))[0])


def test_what_is_read_is_mapped_into_memory(empty):
    filled, _ = fill(range(6))
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("this system does not say what is mapped")
    assert str(filled.folder / "shard-000000.safetensors") in mapped.read_text()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_kept_targets import cache, computed, fill, about, np
cache.SHARD_TOKENS = 3 * 8
count = 0
def compute(numbers):
    global count
    count += 1
    if count == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return computed(numbers)
cache.Cache(about()).fill(np.arange(12), compute, lambda *told: None)
"""


def test_after_a_kill_only_the_rest_is_computed_and_the_bytes_are_the_same(empty, monkeypatch):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent)], env=environment, capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    (about().folder / ".shard-000002.safetensors.1").write_bytes(b"what a kill leaves")
    resumed, asked = fill(range(12))
    assert asked == list(range(6, 12))  # two shards of three rows were whole
    assert not list(resumed.folder.glob(".*"))
    monkeypatch.setenv("ARCHBENCH_CACHE", str(empty / "other"))
    whole, _ = fill(range(12))
    assert resumed.folder != whole.folder
    names = [shard.file for shard in whole.shards] + ["index.json", "about.json"]
    assert len(names) == 6
    assert all((resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes() for name in names)


def test_an_error_while_it_is_filled_loses_no_whole_shard(empty):
    def compute(numbers):
        if int(numbers[0]) == 7:
            raise MemoryError
        return computed(numbers)

    cache.SHARD_TOKENS = 3 * CONTEXT
    with pytest.raises(MemoryError):
        Cache(about()).fill(np.arange(9), compute, lambda *told: None)
    assert fill(range(9))[1] == [6, 7, 8]


def test_only_a_failed_write_is_said_of_the_cache(empty, monkeypatch):
    def gone(numbers):
        raise FileNotFoundError(2, "No such file or directory", "corpus.bin")

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(FileNotFoundError, match=r"corpus\.bin"):
        Cache(about()).fill(np.arange(3), gone, lambda *told: None)
    monkeypatch.setattr(cache, "write_atomically", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); set ARCHBENCH_CACHE to another folder"):
        Cache(about()).fill(np.arange(3), computed, lambda *told: None)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"weights": "d" * 64}, "a cache of another teacher: weights is dddddddddddd..., expected aaaaaaaaaaaa..."),
        ({"data": "d" * 64}, "a cache of other data: data is dddddddddddd..., expected cccccccccccc..."),
        ({"context": 16}, "a cache of another context: context is 16, expected 8"),
    ],
)
def test_a_cache_that_does_not_belong_is_refused(empty, changes, reason):
    other = fill(range(3), made=about(**changes))[0]
    other.folder.rename(about().folder)
    for opens in (cache.inspect, Cache):
        with pytest.raises(DataError) as error:
            opens(about())
        assert str(error.value) == f"{about().folder}: {reason}"


def test_a_cache_that_is_damaged_is_refused(empty):
    folder = fill(range(6))[0].folder
    shard = folder / "shard-000001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    for opens in (cache.inspect, Cache):  # planning sees it too
        with pytest.raises(DataError, match=f"shard-000001.safetensors: the teacher's cache is damaged .{len(content) - 4} of its"):
            opens(about())
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"damaged \(its sha256 is not the one that was noted\); delete its folder"):
        Cache(about())
    shard.unlink()
    with pytest.raises(DataError, match="damaged"):
        Cache(about())
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index.json: the teacher's cache is damaged"):
        Cache(about())


def test_the_bytes_that_are_foreseen_are_those_on_disk(empty):
    numbers, made = range(300), about(keeping=keeping("top_k", K))

    def compute(numbers):
        rows, (words_BTK, *others) = computed(numbers)
        return rows, Kept(torch.where(rows.targets_BT[:, :, None] >= 0, words_BTK | 1, 0), *others)

    filled = Cache(made)
    filled.fill(np.asarray(numbers), compute, lambda *told: None)
    foreseen = cache.bytes_at_most(300 * SCORED, "top_k", K, 50)
    assert foreseen <= filled.bytes <= 1.3 * foreseen  # a header, and 16 bytes per row of so few positions


def test_a_row_that_changed_although_the_fingerprint_did_not_is_refused(empty):
    """Such as the rows of a user's own dataset that forgets an option: as many are scored, at the same places."""
    filled = Cache(about())
    filled.fill(np.arange(1, 4), computed, lambda *_: None)
    rows, expected = computed(np.arange(1, 4))
    assert torch.equal(filled.kept(rows).words_BTK, expected.words_BTK)
    rows.tokens_BT[1, 2] += 1
    with pytest.raises(DataError, match="row 2 has other tokens or targets than when it was written"):
        filled.kept(rows)
