"""Find the class of Hugging Face's `transformers` that computes exactly what a spec describes."""

from arch import checkpoint, cost, document, families, multimodal, registry
from arch.errors import DataError, SpecError
from arch.model_spec import ENCODER, ModelSpec
from arch.remarks import explicit
from arch.sentence import behind, write
from arch.show import written
from arch.spec import diff

ALWAYS = ("mixer", "ffn")  # the sub-layers that every block of every class has


def express(spec):
    """(family, its Config) of the `transformers` class that computes exactly what a resolved ModelSpec describes.

    To check a candidate config, it is read back: it must give the same spec, up to initialisation and the names of
    blocks. Raises DataError, with each family's reason, where no class matches.
    """
    reasons = []
    for name in families.names():
        family = families.named(name)
        if not hasattr(family, "Config"):
            continue
        try:
            return family, _expressed(family, spec)
        except ValueError as error:
            reasons.append(f"  {name}: {error}")
    raise DataError("no class of transformers can express this model:\n" + "\n".join(reasons), key=None)


def resolved(data):
    """The resolved ModelSpec of plain data."""
    return registry.resolve(ModelSpec.parse(data), data)


def loaded(reference):
    """The resolved ModelSpec of a path or shipped name. Raises SpecError, also if a block cannot be built."""
    root = document.load(reference, "arch")
    spec = registry.resolve(ModelSpec.parse(root), root)
    cost.check_builds(spec, root)
    return spec


def differences(theirs, ours):
    """Differences in what two specs compute, layer by layer: `{dotted key: (theirs, ours)}` under our block names."""
    apart = ("init", "pattern", "blocks", "encoder")
    found = diff(*({k: v for k, v in spec.dump().items() if k not in apart} for spec in (theirs, ours)))
    if theirs.encoder is not None and ours.encoder is not None:
        stacks = differences(theirs.encoder_spec, ours.encoder_spec) | diff(
            *({"embedding": spec.encoder.embedding} for spec in (theirs, ours))
        )
        found |= {f"encoder.{key}": pair for key, pair in stacks.items()}
    elif theirs.encoder is not ours.encoder:
        found["encoder"] = tuple(spec.encoder and spec.encoder.layers for spec in (theirs, ours))
    if theirs.layers == ours.layers:
        for their_name, name in dict.fromkeys(zip(theirs.layer_blocks(), ours.layer_blocks(), strict=True)):
            for key, pair in diff(_computing(theirs, their_name), _computing(ours, name)).items():
                found.setdefault(f"blocks.{name}.{key}", pair)
    return found


def read_back(config, spec):
    """The ModelSpec that a family's Config describes, with what stands behind the trunk of `spec`: no config.json says that."""
    beside = {} if spec.pool is None else behind(spec.pool["type"], list(spec.project))
    return resolved(config.spec() | beside | ({} if spec.vision is None else {"vision": spec.vision}))


def _expressed(family, spec):
    used = spec.model_copy(update={"blocks": {name: spec.blocks[name] for name in dict.fromkeys(spec.layer_blocks())}})
    for stack, prefix in ((used, ""), (used.encoder_spec, ENCODER)):
        for name, block in stack.blocks.items() if stack else ():
            for kind in ALWAYS:
                if kind not in block.sublayers():
                    raise ValueError(f"{prefix}blocks.{name}: it has no {kind}")
            if stack.dim % block.mixer.get("heads", 1):
                raise ValueError(f"{prefix}blocks.{name}.mixer.heads: transformers wants them to divide dim = {stack.dim}")
    if used.pool is not None:
        if not hasattr(family, "TRUNK"):
            raise ValueError("it has a pool, and this class is no trunk of an encoder")
        write.check_pool(used)
    if used.vision is not None:
        if not hasattr(family, "WITH_IMAGES"):
            raise ValueError("it has a vision tower, and this class has none")
        multimodal.check(used)
    families.table(family, used, families.trunk(checkpoint.parameters(used)))
    try:
        config = family.Config.parse(family.Config.of(used))
    except SpecError as error:
        raise ValueError(f"its config's {error}") from None
    lost = differences(read_back(config, used), used)
    if lost:
        said = (f"{key} is {written(ours)}, there {written(theirs)}" for key, (theirs, ours) in lost.items())
        raise ValueError("; ".join(said))
    return config


def _computing(spec, name):
    """A block as plain data, without options that only affect initialisation and with null defaults made explicit."""
    block = explicit(spec, name)
    for kind in spec.blocks[name].sublayers():
        block[kind].pop("decay_init", None)
    return block
