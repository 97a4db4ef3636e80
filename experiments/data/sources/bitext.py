"""Short texts in several languages and what they are in English: names of emoji, and messages of Django's catalogues."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from arch.errors import DataError, install, nearest
from arch.registry import source
from arch.spec import Count, List
from experiments.data import message_catalogue
from experiments.data.left_out import LeftOut
from experiments.data.pair import Pair, PairOptions, Prompts, bare

# The languages of emoji's names beside English.
LANGUAGES = ("ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
# What Django calls a language otherwise.
CATALOGUES = {"zh": "zh_Hans"}
# Skin tones, and the sign that asks for a picture: emoji that differ in them alone are one group.
VARIANTS = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")
# What a message has in place of a value: %(name)s, %s, {name}.
PLACEHOLDERS = re.compile(r"%\(\w+\)[a-z]|%[a-z]\b|\{\w*\}")
TASK = "task: search result | query: "


@source
class Bitext:
    """A text in another language (the query) and the same in English (the positive).

    All translations of a thing are in the same split, and so are emoji that differ in the skin tone alone. The label is the pair
    of languages, `de-en`. These are names and messages of programs; no prose.
    """

    class Config(PairOptions):
        """of: `emoji`, names of emoji (package emoji); `django`, messages of the web framework (package django).

        languages: of the queries, by the name that the packages have for them; by default all that emoji has. words: English
        messages of django have at least so many words; names of emoji may be shorter.
        """

        of: Annotated[List[Literal["emoji", "django"]], Field(min_length=1)] = ("emoji",)
        languages: Annotated[List[str], Field(min_length=1)] = LANGUAGES
        words: Count = 4
        prompts: Prompts = Prompts(query=TASK, document=TASK)  # neither side is a document

    def __init__(self, config: Config):
        self.config = config
        self.left_out = LeftOut()

    @property
    def texts(self) -> dict[str, Any]:
        """The resolved source without what does not decide its pairs."""
        return bare("bitext", self.config)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs, language by language. Raises DataError for a language or a package that is not there."""
        self.left_out = LeftOut()
        known = {
            "emoji": LANGUAGES if "emoji" in self.config.of else (),
            "django": _catalogues() if "django" in self.config.of else {},
        }
        for language in self.config.languages:
            if not any(_own(language, name) in each for name, each in known.items()):
                every = {language for each in known.values() for language in each}
                raise DataError(f"no texts in {language!r}{nearest(language, every)}", ("data", "source", "languages"))
        for name in self.config.of:
            for language in self.config.languages:
                if _own(language, name) in known[name]:
                    found = _emoji(language) if name == "emoji" else self._messages(known[name][_own(language, name)])
                    for group, english, other in found:
                        yield Pair(other, english, group=group, label=f"{language}-en")

    def files(self) -> list[Path]:
        """Every file that `pairs` reads. Raises DataError."""
        names = sorted((_folder("emoji") / "unicode_codes").glob("*.json")) if "emoji" in self.config.of else []
        catalogues = _catalogues() if "django" in self.config.of else {}
        wanted = [_own(language, "django") for language in self.config.languages]
        return [*names, *(path for language in wanted for path in catalogues.get(language, ()))]

    def _messages(self, paths):
        """(English text, the same, its translation) of the messages in some catalogues."""
        for path in paths:
            for message in message_catalogue.read(path):
                english, other = (" ".join(PLACEHOLDERS.sub(" ", text).split()) for text in message)
                if len(english.split()) < self.config.words or not other:
                    self.left_out.add(f"messages of less than {self.config.words} words", english)
                else:
                    yield english, english, other


def _own(language, name):
    """What the package calls a language."""
    return CATALOGUES.get(language, language) if name == "django" else language


def _emoji(language):
    """(the emoji without its variant, its English name, its name in the language) of all emoji."""
    _folder("emoji")
    import emoji

    emoji.config.load_language(language)
    for each, names in emoji.EMOJI_DATA.items():
        if names["status"] == emoji.STATUS["fully_qualified"] and language in names:
            english, other = (names[key].strip(":").replace("_", " ") for key in ("en", language))
            yield VARIANTS.sub("", each), english, other


def _catalogues():
    """{language: its catalogues} of Django, sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(_folder("django").rglob("locale/*/LC_MESSAGES/*.mo")):
        found.setdefault(path.parts[-3], []).append(path)
    return found


def _folder(package):
    """Where an optional package is installed; it is not imported. Raises DataError."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"the source `bitext` needs the package {package}: {install('bitext')}", ("data", "source", "of"))
    return Path(next(iter(found.submodule_search_locations)))
