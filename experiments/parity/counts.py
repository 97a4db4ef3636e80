"""Compare the sizes of shipped presets with published or derived ones: exact parameters, cache bytes in bfloat16."""

from dataclasses import dataclass, field

from arch import cost, document
from arch.express import resolved


@dataclass(frozen=True)
class Size:
    """Non-embedding and embedding parameters, those of a tower with its projection, and {tokens of context: cache bytes of
    one bfloat16 stream}.

    source: where the numbers are from. Numbers published with fewer digits were computed from the published shapes.
    """

    non_embedding: int
    embedding: int
    source: str
    cache: dict[int, int] = field(default_factory=dict)
    vision: int = 0


GEMMA2, GEMMA3 = "report, table 2", "shapes of google-deepmind/gemma; report, table 1, in millions"
WITH_TOWER = "the same, 64 further rows of the embedding; tower: shapes of the released code, report, table 1: 417M"
RECURRENT = "report, table 1, and shapes of the released code"
PUBLISHED = {
    "gemma2/2b": Size(2_024_517_888, 590_118_912, GEMMA2, {8192: 654_311_424}),
    "gemma2/9b": Size(8_324_201_984, 917_962_752, GEMMA2, {8192: 2_113_929_216}),
    "gemma2/27b": Size(26_047_480_320, 1_180_237_824, GEMMA2, {8192: 2_315_255_808}),
    "gemma3/270m": Size(100_326_016, 167_772_160, GEMMA3, {32768: 108_527_616, 131072: 410_517_504}),
    "gemma3/1b": Size(697_896_064, 301_989_888, GEMMA3, {32768: 145_752_064, 131072: 548_405_248}),
    "gemma3/4b": Size(3_209_010_688, 671_088_640, GEMMA3, {32768: 792_723_456, 131072: 2_805_989_376}),
    "gemma3/12b": Size(10_759_155_456, 1_006_632_960, GEMMA3, {32768: 2_483_027_968, 131072: 8_925_478_912}),
    "gemma3/27b": Size(25_599_716_096, 1_409_286_144, GEMMA3, {32768: 3_120_562_176, 131072: 11_173_625_856}),
    "gemma3/4b_vision": Size(3_209_010_688, 671_252_480, WITH_TOWER, vision=416_866_032 + 2_950_272),
    "gemma3/12b_vision": Size(10_759_155_456, 1_006_878_720, WITH_TOWER, vision=416_866_032 + 4_424_832),
    "gemma3/27b_vision": Size(25_599_716_096, 1_409_630_208, WITH_TOWER, vision=416_866_032 + 6_194_304),
    "recurrentgemma/2b": Size(2_027_502_080, 655_360_000, RECURRENT),
    "recurrentgemma/9b": Size(7_531_401_216, 1_048_576_000, RECURRENT),
    "embeddinggemma/300m": Size(106_255_104, 201_326_592, "shapes of the released config files"),
}

# Griffin, table 2: (width, recurrent width, layers, heads of 128 channels, Griffin's rounded size from these shapes).
GRID = {
    "100m": (768, 1024, 12, 6, "89M"),
    "200m": (1024, 1536, 12, 8, "163M"),
    "400m": (1536, 2048, 12, 12, "355M"),
    "1.3b": (2048, 2560, 24, 16, "1.24B"),
    "3b": (3072, 4096, 24, 24, "2.83B"),
    "7b": (4096, 5632, 32, 32, "6.79B"),
    "14b": (5120, 8192, 40, 40, "13.8B"),
}
VOCABULARY = 32_000


def derived(family, size):
    """The Size of a `griffin`, `hawk` or `mqa` model of the Griffin paper, computed from the shapes in its table 2."""
    D, R, layers, heads, _ = GRID[size]
    rest = 3 * 3 * D * D + 2 * 3 * D + D + 2 * D  # a gated FFN of 3 D with biases, two norms
    gates = 2 * (R * R // 16 + R)
    recurrent = 2 * (D * R + R) + (R * D + D) + (4 * R + R) + gates + R + rest
    attention = 2 * D * heads * 128 + D + 2 * D * 128 + rest  # a bias on the output only, one key head
    windows = {"griffin": layers // 3, "hawk": 0, "mqa": layers}[family]
    total = windows * attention + (layers - windows) * recurrent + D
    return Size(total, VOCABULARY * D, "computed from Griffin, table 2; the vocabulary is an assumption")


def expected():
    """{shipped spec: Size} of every preset."""
    return PUBLISHED | {f"{family}/{size}": derived(family, size) for family in ("griffin", "hawk", "mqa") for size in GRID}


def measured(name, size):
    """The Size of our model, with the same contexts and source as `size`."""
    spec = resolved(document.load(name, "arch").plain())
    summary = cost.summary(spec, 64)
    found, vision = summary["parameters"], summary.get("vision")
    caches = {context: cost.cache_bytes(spec, context, "bfloat16")["total"] for context in size.cache}
    tower = sum(vision["parameters"].values()) if vision else 0
    return Size(found["non_embedding"], found["embedding"], size.source, caches, tower)
