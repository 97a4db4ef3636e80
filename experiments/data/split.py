"""The split of a document, determined by its content alone."""

# `select` and `report` are equally large because both are used for decisions. With some ten megabytes of text, 5 % is
# about 0.2M BPE tokens; the error of a mean loss over these is small compared with the spread over seeds.
FRACTIONS = {"train": 0.90, "select": 0.05, "report": 0.05}
SPLITS = tuple(FRACTIONS)
# Every document is in every split (`data.splits: all`).
ALL = dict.fromkeys(SPLITS, 1.0)


def split_of(digest, fractions=FRACTIONS):
    """The split of a document, `train`, `select` or `report`, from the sha256 of its text (32 bytes).

    It does not depend on other documents: adding a document moves no other one, and equal texts share a split.
    fractions: {split: its share}, in the order of SPLITS.
    """
    position = int.from_bytes(digest[:8], "big") / 2**64
    for split, fraction in fractions.items():
        if position < fraction:
            return split
        position -= fraction
    return SPLITS[-1]
