"""From a source of pairs to its dataset: read, split, learn a tokenizer, encode, mine hard negatives; once, into the cache.

Reading the standard library, learning a tokenizer and mining take seconds each, and every run of a study would need them again.
So the result is a folder in the cache, as of a corpus of documents (`experiments.data.cache`); and so that a source need not be
read to find that folder, the digest of its pairs is kept beside it, keyed by the stamp of its files and the code that reads them.
"""

import os
from dataclasses import replace

import tokenizers
from rich.console import Console
from rich.progress import track

from arch import registry
from arch.errors import DataError
from arch.plugins import plugin_sources
from arch.spec import digest
from arch.texts_to_rows import ids_of, padding_of
from arch.tokenizer import Ends
from experiments import costs
from experiments.data import cache as cached
from experiments.data import learned, left_out, loss, mining, pair_files, pair_splits, texts
from experiments.data.encoded import encoded
from experiments.data.pair import parts_of
from experiments.data.pair_splits import FRACTIONS
from experiments.data.split import ALL, SPLITS

# Increase this when the rules of the splits or of the rows change: the same pairs are then other data, and runs are other runs.
FORMAT = 1
# Where digests of pairs are kept in the cache.
FOLDER = "pairs"
# Texts encoded at once.
CHUNK = 512
CHANGED = "pairs with a text that the tokenizer changes"


def prepare(data, vocab_size, cache=None):
    """The Pairs of a resolved DataSpec, for a model of `vocab_size` tokens. Prepared now unless it is in the cache.

    cache: the folder of what is prepared, by default `cache.root()`. The source is read only if `experiments.data.texts` does
    not know its pairs, or if what is made of them is missing. Raises DataError if the data cannot be used.
    """
    component, source = registry.build("source", data.source), data.source["type"]
    parts, fractions = parts_of(component), ALL if data.splits == "all" else FRACTIONS
    root = cache or cached.root()
    held = {}

    def read():
        held["splits"], known = pair_splits.read(component, source, fractions)
        return known

    mark = None if data.splits == "all" else texts.stamp(getattr(component, "texts", data.source))
    if mark is None:
        known = read()
    elif (known := texts.known(mark)) is None:
        known = costs.kept(root / FOLDER / f"{digest({'texts': mark, 'code': costs.sources('experiments/data')})}.json", read)
        texts.remember({mark: known})
    deciding = _deciding(data, parts, fractions, known["content"])

    def build(scratch):
        # The pairs may be known and yet not be in the cache: other prompts or negatives, another tokenizer, an emptied cache.
        if not held and read()["content"] != known["content"]:
            raise DataError(f"the pairs of the source {source} changed while they were prepared; start again")
        _build(held["splits"], parts, deciding, data, vocab_size, scratch)

    folder = cached.obtain(root, digest(deciding | {"files": pair_files.FORMAT}), build)
    dataset, about = pair_files.opened(folder, source, parts)
    learned.check_vocabulary(dataset.tokenizer, dataset.vocabulary, data.tokenizer, vocab_size)
    said = known["left_out"]
    if about["remarks"]:
        said = {**said, "remarks": [*said.get("remarks", []), *about["remarks"]]}
    said = left_out.with_changed(said, CHANGED, about["lost"], data.on_loss)
    dataset = replace(dataset, content=known["content"], context=data.context, left_out=said)
    _check_prompts(dataset)
    dataset.check_rows("train", data.rows)
    return dataset


def _deciding(data, parts, fractions, content):
    """What decides the prepared files, as plain data. The weights of a mixture do not."""
    fixed = getattr(registry.build("tokenizer", data.tokenizer), "content", None)
    negatives = {name: part.negatives for name, part in parts.items() if part.negatives}
    return {
        "format": FORMAT,
        "pairs": content,
        "fractions": fractions,
        "prompts": {name: part.prompts.dump() for name, part in parts.items()},
        "tokenizer": data.tokenizer,
        "file": fixed() if fixed else None,
        "plugins": plugin_sources(data.tokenizer),
        "library": tokenizers.__version__,
        "on_loss": data.on_loss,
        "negatives": {name: mining.decides(each, place(name)) for name, each in negatives.items()},
    }


def place(part):
    """The keys of a spec below which the options of a part's source are."""
    return ("data", "source", "parts", part, "source") if part else ("data", "source")


def _build(splits, parts, deciding, data, vocab_size, folder):
    """Learn the tokenizer from the train split, encode every text once, mine, and write all of it into `folder`."""
    console = Console(stderr=True, markup=False)
    taught = list(dict.fromkeys(text for pair in splits["train"] for text in pair.texts))
    trained, around, vocabulary, lengths = learned.learn(data.tokenizer, taught, vocab_size, console)
    entries = list(dict.fromkeys(each for split in SPLITS for pair in splits[split] for each in pair_files.prompted(pair, parts)))
    written = [prompt + text for prompt, text in entries]
    ids = _ids(trained, written, console)
    survives = loss.survives(trained, written, ids, lengths, around)
    changed = [i for i, whole in enumerate(survives) if not whole]
    if changed and data.on_loss == "refuse":
        i = changed[0]
        where = loss.described(trained, f"[{pair_splits.shown(entries[i][1])}]", written[i], ids[i], lengths, around)
        choice = "data.on_loss: skip leaves out the pairs of such texts, keep takes the texts as changed"
        raise DataError(f"{where}; so are {len(changed):,} of {len(entries):,} texts; {choice}", key=("data", "tokenizer"))
    splits, lost = _without_lost(splits, parts, {entries[i] for i in changed}, data.on_loss)
    mined = {
        name: mining.mine([pair for pair in splits["train"] if pair.part == name], part, place(name))
        for name, part in parts.items()
        if part.negatives
    }
    before, after = ([] if number is None else [number] for number in (around.bos, around.eos))
    made = encoded([text for _, text in entries], [[*before, *each, *after] for each in ids], around.eos, padding_of(trained))
    fingerprint = digest(
        {key: deciding[key] for key in ("format", "pairs", "fractions", "prompts")}
        | {"tokenizer": trained.to_str(pretty=True), "bos": around.bos, "eos": around.eos}
        | ({"on_loss": data.on_loss} if lost else {})
        | ({"negatives": {name: found.texts for name, found in mined.items()}} if mined else {})
    )
    remarks = [f"{name}: {said}" if name else said for name, found in mined.items() for said in found.remarks]
    facts = {"fingerprint": fingerprint, "vocabulary": vocabulary, "lost": lost, "remarks": remarks}
    pair_files.write(
        folder, splits, parts, {name: found.texts for name, found in mined.items()}, entries, made, trained, around, facts
    )
    # The tokenizers library has used threads. Without this, it would warn of deadlocks in a fork of this process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _ids(trained, written, console):
    """The ids of each text, without the tokens around it."""
    chunks = [written[first : first + CHUNK] for first in range(0, len(written), CHUNK)]
    shown = track(chunks, "Encoding pairs", console=console, transient=True, disable=not console.is_terminal)
    return [each for chunk in shown for each in ids_of(trained, Ends(), chunk)[0]]


def _without_lost(splits, parts, changed, on_loss):
    """({split: its pairs}, how many of them have a text that the tokenizer changes): left out or kept, as `data.on_loss` says.

    changed: {(prompt, text)}.
    """
    whole = {split: [pair for pair in splits[split] if changed.isdisjoint(pair_files.prompted(pair, parts))] for split in SPLITS}
    lost = sum(map(len, splits.values())) - sum(map(len, whole.values()))
    if on_loss != "skip":
        return splits, lost
    for split, pairs in whole.items():
        if not pairs:
            raise DataError(f"the tokenizer changes every pair of the {split} split, so data.on_loss: skip leaves none")
    return whole, lost


def _check_prompts(dataset):
    """Raises DataError where a prompt leaves no room for a text."""
    around = sum(number is not None for number in (dataset.ends.bos, dataset.ends.eos))
    for name, part in dataset.parts.items():
        for kind, prompt in part.prompts.dump().items():
            tokens = len(dataset.tokenizer.encode(prompt, add_special_tokens=False).ids) + around
            if tokens >= dataset.context:
                of = f" of the part {name}" if name else ""
                raise DataError(
                    f"{dataset.context} tokens are no more than the prompt of a {kind}{of} takes: {prompt!r} takes {tokens}, so no "
                    "text is left; expected a longer context or a shorter prompt",
                    key=("data", "context"),
                )
