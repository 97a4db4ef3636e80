"""The scale a study runs at when none is named, and the larger scale to suggest."""


def default_scale(root):
    """The scale of a study document when none is named: `demo` if the study has it, else None."""
    scales = root.value.get("scales")
    return "demo" if scales and isinstance(scales.value, dict) and "demo" in scales.value else None


def at_scale(scale):
    """What follows a study's name in a heading: ` at scale demo`; empty for a study without scales."""
    return f" at scale {scale}" if scale else ""


def larger_scale(spec, scale):
    """The scale that is listed after `scale`, up to the laptop scale (`laptop_scale`); None from there on."""
    order = list(spec.scales)
    if scale in order and spec.laptop_scale in order and order.index(scale) < order.index(spec.laptop_scale):
        return order[order.index(scale) + 1]
    return None
