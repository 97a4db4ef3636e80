"""Texts that a picture can show: letters of any script from an installed font, else written in Latin ones.

DejaVu, which comes with matplotlib, has Latin, Greek, Cyrillic and a few other scripts. For the rest the fonts of the system
are asked, those with wide coverage first. A browser finds fonts by itself; this is for pictures whose letters are outlines.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

from arch.words import visible

OWN = "DejaVu Sans"
# Families with wide coverage come first, in this order; then every other font of the system.
WIDE = ("Noto Sans CJK", "Noto Sans", "Source Han Sans", "Arial Unicode MS", "Droid Sans Fallback", "WenQuanYi", "Microsoft YaHei")
BOXES = "Last Resort"  # comes with matplotlib and has a box for every character
WIDE += ("PingFang", "Hiragino", "Malgun", "Nirmala", "Segoe UI", "FreeSans", "Unifont", "Noto Serif CJK")


def legible(text: str) -> str:
    """The text as pictures show it: control characters shown, letters without any font in Latin ones (`anyascii`)."""
    shown = visible(text)
    if shown.isascii():
        return shown
    from anyascii import anyascii

    words = re.split(r"(\s+)", shown)
    return "".join(word if all(_font(char) for char in word) else anyascii(word) or "?" for word in words)


def rewritten(labels: Iterable[str]) -> dict[str, str]:
    """{label: how pictures show it} of those that no installed font can show as they are."""
    return {label: shown for label in labels if (shown := legible(label)) != visible(label)}


def families(texts: Iterable[str]) -> list[str]:
    """The fonts that together have the letters of texts: matplotlib's own, and others where it lacks some."""
    others = {font for text in texts if not text.isascii() for char in legible(text) if (font := _font(char)) not in (None, OWN)}
    return [OWN, *sorted(str(font) for font in others)]


def apply(figure: Figure) -> Figure:
    """Make every text of a figure legible; returns the figure. Nothing changes where its own font has all letters."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    named = [
        axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if isinstance(axis.get_major_locator(), FixedLocator)
    ]
    content = [text.get_text() for text in texts] + [label for axis in named for label in _labels(axis)]
    if all(each.isascii() and each.isprintable() for text in content for each in text.split("\n")):
        return figure
    for axis in named:
        if any(legible(label) != label for label in _labels(axis)):
            axis.set_major_formatter(_legibly(axis.get_major_formatter()))
    for text in texts:
        if legible(text.get_text()) != text.get_text():
            text.set_text(legible(text.get_text()))
    if len(family := families(content)) > 1:
        for text in texts:
            text.set_fontfamily(family)
        for axis in named:
            axis.set_tick_params(labelfontfamily=family)
    return figure


def _labels(axis: Any) -> list[str]:
    form = axis.get_major_formatter()
    return [form(place, i) for i, place in enumerate(axis.get_major_locator().locs)]


def _legibly(form: Any) -> FuncFormatter | FixedFormatter:
    return FuncFormatter(lambda value, place: legible(form(value, place)))


@cache
def _font(char: str) -> str | None:
    """The family of the first font that has a character; None if no installed one has it."""
    if char in "\n\t":
        return OWN
    if ord(char) in _letters(findfont(OWN)):
        return OWN
    return next((family for family, path in _others() if ord(char) in _letters(path)), None)


@cache
def _others() -> list[tuple[str, str]]:
    """(family, path) of the other fonts to ask, in their order; upright ones of the usual weight."""
    known = {str(each.fname) for each in fontManager.ttflist}
    for path in {*findSystemFonts()} - known:  # installed since matplotlib made its list
        with suppress(OSError, RuntimeError):
            fontManager.addfont(path)
    upright = [each for each in fontManager.ttflist if each.style == "normal" and each.weight in (400, "normal", "regular")]
    usual = {(_rank(each.name), each.name, str(each.fname)) for each in upright if not each.name.startswith((OWN, BOXES))}
    return [(name, path) for _, name, path in sorted(usual)]


def _rank(name: str) -> int:
    return next((i for i, wide in enumerate(WIDE) if name.startswith(wide)), len(WIDE))


@cache
def _letters(path: str) -> frozenset[int]:
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font of pictures, or a broken file
        return frozenset()
