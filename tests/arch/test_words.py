"""Lists in sentences, and sentences that say the same of several arms."""

from arch.words import MOST, listed, listed_names, together


def test_lists():
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(map(str, range(MOST + 5))).endswith(" and 5 more") and "more" not in listed(map(str, range(MOST + 1)))
    assert listed(["a", "b"], "or") == "a or b"


def test_what_is_said_of_several_arms_is_said_once():
    said = ["arm 'a': too low", "arm 'b': too high", "a sentence of its own", "arm 'c: d': too low", 'arm "it\'s": too high']
    assert together(said) == ["arms 'a' and 'c: d': too low", "arms 'b' and \"it's\": too high", "a sentence of its own"]
    assert together(["arm 'a': too low", "arm 'a': too low, by far"]) == ["arm 'a': too low", "arm 'a': too low, by far"]
    assert together([]) == []


def test_a_name_with_a_comma_is_told_from_two_names():
    assert listed_names(["global", "global, QK-norm", "local"]) == "global, “global, QK-norm” and local"
    assert listed_names(iter(["a"])) == "a" and listed_names([]) == ""
