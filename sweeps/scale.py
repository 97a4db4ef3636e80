"""Which scale a study runs at when none is named, and which one could tell more."""


def default_scale(root):
    """The scale of a study document when none is asked for: `demo` where it has one."""
    scales = root.value.get("scales")
    return "demo" if scales and isinstance(scales.value, dict) and "demo" in scales.value else None


def larger_scale(spec, scale):
    """The scale that can tell more than this one: the laptop's, where this one is listed before it."""
    order = list(spec.scales)
    if scale in order and spec.laptop_scale in order and order.index(scale) < order.index(spec.laptop_scale):
        return spec.laptop_scale
    return None
