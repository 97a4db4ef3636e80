"""Which of the three splits a document belongs to: decided by its content alone."""

# Nine tenths to learn from. The other two are as large as each other because both carry a decision, and at 5 % of
# some ten megabytes each still has about 0.2M BPE tokens, where the error of a mean loss is small beside that of seeds.
FRACTIONS = {"train": 0.90, "select": 0.05, "report": 0.05}
SPLITS = tuple(FRACTIONS)


def split_of(digest):
    """`train`, `select` or `report` of a document, by the sha256 of its text (32 bytes).

    A document's split does not depend on the others, so adding one moves none, and equal texts share a split.
    """
    position = int.from_bytes(digest[:8], "big") / 2**64
    for split, fraction in FRACTIONS.items():
        if position < fraction:
            return split
        position -= fraction
    return SPLITS[-1]
