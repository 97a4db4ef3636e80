"""Pictures: files that are refused, pixels, crops, and prompts with pictures."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models

from arch import hf
from arch.errors import DataError
from arch.images import asked
from arch.images.crops import PanAndScan, boxes
from arch.images.files import MOST, opened, pixels
from arch.images.prompts import FRAME, tokens_and_pixels
from arch.tokenizer import TextTokens
from experiments.parity.vision import FOLDER

CASES = json.loads((FOLDER.parent / "pan_and_scan.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['width']}x{case['height']}")
def test_crops_are_those_of_transformers(case):
    found = boxes(case["width"], case["height"], PanAndScan())
    assert [[right - left, lower - upper] for left, upper, right, lower in found] == case["crops"]


@pytest.mark.parametrize(
    ("size", "widths"),
    [
        ((1343, 896), []),  # a ratio of 1.499
        ((1344, 896), [672, 672]),  # 1.5 + 0.5 is 2
        ((2239, 896), [1120, 1119]),  # 2.499 + 0.5 is below 3
        ((2240, 896), [747, 747, 746]),  # 2.5 + 0.5 is 3
        ((5000, 896), [1250] * 4),  # no more than four
        ((700, 300), [350, 350]),  # 2.3: two
        ((900, 255), []),  # the short side is below 256
    ],
)
def test_crops_from_a_ratio_of_one_and_a_half(size, widths):
    """Worked out by hand from the rule of the PyTorch reference."""
    assert [right - left for left, _, right, _ in boxes(*size, PanAndScan(ratio=1.5))] == widths


@pytest.mark.parametrize("size", [(1100, 300), (300, 1001), (1024, 256), (256, 999)])
def test_crops_cover_the_picture_and_do_not_overlap(size):
    found = boxes(*size, PanAndScan())
    covered = torch.zeros(size, dtype=torch.long)
    for left, upper, right, lower in found:
        covered[left:right, upper:lower] += 1
    assert 2 <= len(found) <= 4
    assert (covered == 1).all()


def test_pixels_are_between_minus_one_and_one_and_a_square():
    picture = Image.new("RGB", (30, 20), (255, 0, 127))
    x = pixels(picture, 8)
    assert x.shape == (3, 8, 8)
    assert x[0].eq(1).all() and x[1].eq(-1).all() and x[2].sub(-0.003921568).abs().max() < 1e-6


def huge(path):
    """A PNG that says that it is 10,000 x 6,000 pixels, without them."""
    header = struct.pack(">IIBBBBB", 10_000, 6_000, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def truncated(path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:800])


BAD = {
    "missing": (lambda path: None, "no such file"),
    "text": (lambda path: path.write_text("no picture"), "no picture that Pillow can read"),
    "truncated": (truncated, "cannot be read as a picture"),
    "palette": (lambda path: Image.new("P", (8, 8)).save(path), "colours from a palette"),
    "transparent": (lambda path: Image.new("RGBA", (8, 8)).save(path), "it has mode RGBA"),
    "one colour transparent": (lambda path: Image.new("RGB", (8, 8)).save(path, transparency=(0, 0, 0)), "stands for transparent"),
    "sixteen bits": (lambda path: Image.new("I;16", (8, 8)).save(path), ": it has mode I;16; expected RGB"),
    "huge": (huge, f"10,000 x 6,000 pixels; expected at most {MOST:,}"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_plain_picture_is_refused_with_its_name(case, tmp_path):
    make, reason = BAD[case]
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(DataError, match=reason) as error:
        opened(path)
    assert str(error.value).count(str(path)) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "DDS", "WEBP", "BMP"])
def test_a_damaged_file_is_refused_in_one_line_or_read(form, tmp_path, recwarn):
    """Pillow raises errors of many classes for damaged files, and warns of some."""
    whole, random = io.BytesIO(), np.random.default_rng(0)
    Image.effect_noise((24, 18), 60).convert("RGB").save(whole, form)
    for _ in range(60):
        damaged = bytearray(whole.getvalue())
        for place in random.integers(min(150, len(damaged)), size=3):
            damaged[place] = random.integers(256)
        (tmp_path / "a").write_bytes(damaged[: random.integers(1, len(damaged))] if random.random() < 0.3 else damaged)
        try:
            opened(tmp_path / "a")
        except DataError as error:
            assert "\n" not in str(error)
    assert not recwarn.list


def test_a_photograph_is_turned_as_it_says(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=turned)
    assert opened(tmp_path / "a.jpg").size == (10, 20)


def test_grey_pixels_are_those_of_the_same_picture_in_colours():
    grey = Image.effect_noise((30, 20), 60)
    assert torch.equal(pixels(grey, 8), pixels(grey.convert("RGB"), 8))


def test_an_animated_file_is_refused(tmp_path):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 pictures in one file"):
        opened(tmp_path / "a.png")


def letters(text):
    return [ord(letter) for letter in text]


def test_a_prompt_is_laid_out_as_gemma_was_trained():
    vision = hf.load(FOLDER).vision.config
    picture = Image.new("RGB", (24, 24))
    ids, shown = tokens_and_pixels(letters, "a<image>b", [picture], vision)
    assert ids == [97, 10, 10, 61, *[60] * 9, 62, 10, 10, 98]
    assert shown.shape == (1, 3, 24, 24)
    wide = Image.new("RGB", (60, 24))
    ids, shown = tokens_and_pixels(letters, "<image>", [wide], vision, PanAndScan(min_crop=20))
    assert len(shown) == 4 and ids.count(60) == 4 * 9
    text = bytes(token for token in ids if token not in (60, 61, 62)).decode()
    assert text.replace("\n\n", "") == FRAME.format("", "  ")
    with pytest.raises(DataError, match="1 picture, but 0 <image> in the prompt"):
        tokens_and_pixels(letters, "a", [picture], vision)


def folder(tmp_path):
    """The small multimodal model as our checkpoint, with a tokenizer."""
    hf.import_(FOLDER, tmp_path / "model")
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", *"abcdefgh"]
    built = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[], unk_token="<unk>"))
    built.add_special_tokens(names[:4])
    built.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


def test_the_picture_changes_what_is_said(tmp_path):
    model, text = hf.load(folder(tmp_path)), TextTokens(tmp_path / "model")
    from arch.generate import prefill

    def scores(colour):
        ids, shown = asked.asked(model, text, "a<image>b", [Image.new("RGB", (24, 24), colour)])
        assert ids[0] == 2 and ids.count(60) == 9
        return prefill(model, torch.tensor([ids]), model.init_state(1, len(ids)), shown=shown)[0]

    assert (scores("red") - scores("blue")).abs().max() > 1e-4


def test_generate_reads_a_picture_and_refuses_what_does_not_go_together(tmp_path, capfd, monkeypatch):
    from arch.__main__ import app
    from arch.cli import main

    model = folder(tmp_path)
    Image.new("RGB", (32, 24), "green").save(tmp_path / "a.png")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["arch", "generate", str(model), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main(app, "arch")
        return end.value.code, capfd.readouterr()

    code, said = run("--prompt", "a<image>b", "--image", tmp_path / "a.png", "--tokens", 3)
    assert code == 0, said.err
    code, said = run("--prompt", "a<image>b", "--image", tmp_path / "a.png", "--tokens", 3, "--pan-and-scan", 100)
    assert code == 0 and "a.png: shown whole" in said.err and "give no crops from the ratio 100 on" in said.err
    for arguments, reason in {
        ("--prompt", "a", "--image", tmp_path / "a.png"): "1 picture, but 0 <image>",
        ("--prompt", "a<image>"): "no --image is given",
        ("--prompt", "a<image>", "--image", tmp_path / "b.png"): "b.png: no such file",
        ("--prompt", "a", "--pan-and-scan", 1.5): "no --image to be cut",
        (
            "--prompt",
            "a<image>",
            "--image",
            tmp_path / "a.png",
            "--pan-and-scan",
            "inf",
        ): "inf is no ratio of the sides of a picture",
        ("--prompt", "a<image>", "--image", tmp_path / "a.png", "--min-crop", 16): "--min-crop: crops are made with --pan-and-scan",
        (
            "--prompt",
            "a<image>",
            "--image",
            tmp_path / "a.png",
            "--most-crops",
            2,
        ): "--most-crops: crops are made with --pan-and-scan",
    }.items():
        code, said = run(*arguments)
        assert code == 2 and reason in said.err and said.err.count("\n") == 1, said
