"""Byte-level byte-pair encoding (Sennrich et al. 2016; over bytes as in GPT-2), trained on the train split."""

from typing import Annotated

from pydantic import AfterValidator, field_validator
from tokenizers import Tokenizer, models, trainers

from arch.registry import tokenizer
from arch.spec import Component, Kind, Spec, later
from experiments.data import byte_level, taught
from experiments.data.specials import SPECIALS, finish


@tokenizer
class BPE:
    """`decode(encode(text)) == text` for every text.

    Training depends only on the texts, not on the number of threads or the hash seed.
    """

    class Config(Spec):
        """`vocab_size`: tokens, including the 256 bytes and the 3 specials. A small corpus may give fewer.

        learned_from: the source, of texts or of pairs, whose train split teaches it; null for the run's own. So runs on different
        data have the same tokens, as a run needs that takes the embedding of another one.
        """

        vocab_size: int
        learned_from: Annotated[Component, Kind("source"), AfterValidator(taught.resolved)] | None = later(None)

        @field_validator("vocab_size")
        @classmethod
        def _holds_every_byte(cls, size):
            if size < byte_level.SMALLEST_VOCABULARY:
                raise ValueError(
                    f"expected at least {byte_level.SMALLEST_VOCABULARY}: the 256 bytes and the {len(SPECIALS)} specials "
                    f"{' '.join(SPECIALS)}; got {size}"
                )
            return size

        @classmethod
        def examples(cls):
            return [cls(vocab_size=byte_level.SMALLEST_VOCABULARY), cls(vocab_size=300)]

    def __init__(self, config):
        self.config = config
        if config.learned_from is not None:
            # What else decides the tokens: a file that changes, among those of the source.
            self.content = lambda: taught.content(config.learned_from)

    def train(self, texts):
        """The Tokenizer trained on `texts` (a list) by merging the most frequent pairs; with `learned_from`, on those of that."""
        if self.config.learned_from is not None:
            own = {"type": "bpe", "vocab_size": self.config.vocab_size}
            return taught.tokenizer(self.config.learned_from, own, self.config.vocab_size)
        built = Tokenizer(models.BPE())
        byte_level.attach(built, words=True)
        trainer = trainers.BpeTrainer(
            vocab_size=self.config.vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=list(byte_level.ALPHABET),
            show_progress=False,
        )
        built.train_from_iterator(texts, trainer, length=len(texts))
        return finish(built)

    def byte_lengths(self, trained):
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials."""
        return byte_level.byte_lengths(trained)
