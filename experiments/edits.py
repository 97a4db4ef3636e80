"""How far two texts are from each other: Levenshtein's distance. `evaluators/memorization.py` has that of many rows of tokens."""


def edits(one: str, other: str) -> int:
    """The fewest characters to insert, drop or replace that make one text of the other."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (mine != theirs))
    return row[-1]
