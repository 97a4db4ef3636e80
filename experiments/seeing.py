"""Whether a model and data with images go together. What reads them, `experiments.capabilities` asks."""

from arch import registry


def check(spec, able, root):
    """Raises SpecError, at its line, where data with images meet a model that does not read them as they are.

    able: what the experiment offers (`experiments.capabilities.of`).
    """
    if "images" not in able.words:
        return
    vision, source = spec.model.vision, spec.data.source
    if vision is None:
        raise root.error(f"the source {source['type']} has images, but the model has no `vision`", ("data", "source"))
    for option in ("image_size", "tokens"):
        if source[option] != vision[option]:
            reason = f"{source[option]}, but the model's `vision` has {vision[option]}; expected the same"
            raise root.error(reason, ("data", "source", option))
    for option, token in getattr(registry.component("source", source["type"]), "image_tokens", {}).items():
        if vision[option] != token:
            raise root.error(f"{vision[option]}, but {token} in the rows of {source['type']}", ("model", "vision", option))
    if spec.train.compile == "on":
        raise root.error("images are read by blocks that are not compiled; expected off", ("train", "compile"))
