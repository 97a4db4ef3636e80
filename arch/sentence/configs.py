"""The JSON files of a folder of sentence-transformers as specs: the keys of all its layouts, with the library's defaults."""

from typing import Any, Literal

from pydantic import Field

from arch.errors import nearest
from arch.sentence import IDENTITY, POOLS
from arch.spec import Count, Spec, spelt

# {a flag of a Pooling's older config: the mode}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
VECTOR = "sentence_embedding"
# {a key of sentence_bert_config.json: the values with which tokens and hidden states are what ours are}
PLAIN: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (False,),
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "unpad_inputs": (None, False, True),
}
EMPTY = [
    "tokenizer_name_or_path", "processing_kwargs", "query_length", "document_length", "query_expansion",
    "model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs",
]  # fmt: skip
PLAIN |= {key: (None, {}) for key in EMPTY}


class Pooling(Spec):
    """The config.json of a Pooling: `pooling_mode` in newer releases, a flag for each mode in older ones."""

    embedding_dimension: Count | None = None
    word_embedding_dimension: Count | None = None
    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    def modes(self):
        """The modes that are on, as newer releases name them."""
        if self.pooling_mode is None:
            return [mode for flag, mode in FLAGS.items() if getattr(self, flag)] or ["mean"]
        return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode


class Dense(Spec):
    """The config.json of a Dense."""

    in_features: Count
    out_features: Count
    bias: bool = True
    activation_function: str | None = None
    module_input_name: str = VECTOR
    module_output_name: str | None = None
    use_residual: bool = False


class Normalize(Spec):
    """The config.json of a Normalize; older releases write none."""

    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None


class Settings(Spec):
    """config_sentence_transformers.json."""

    model_type: str = "SentenceTransformer"
    versions: dict[str, Any] = Field(default={}, alias="__version__")
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: Count | None = None


def pool(node):
    """(the type of our pool, the width of what it pools) of a Pooling's config.json. Raises SpecError."""
    said = Pooling.parse(node)
    modes = said.modes()
    if len(modes) != 1 or modes[0] not in POOLS:
        keys = ["pooling_mode"] if said.pooling_mode is not None else [flag for flag, mode in FLAGS.items() if mode in modes]
        what = "; several of them side by side are none" if len(modes) != 1 else ""
        raise node.error(f"our models have no pool {' + '.join(modes)}{what}; they have {', '.join(POOLS)}", keys[:1])
    if not said.include_prompt:
        raise node.error("false: our pools read the tokens of a prompt too", ("include_prompt",))
    width = said.embedding_dimension or said.word_embedding_dimension
    if width is None:
        raise node.error("missing; this key is required", ("embedding_dimension",))
    return POOLS[modes[0]], width


def widths(node):
    """(inputs, outputs) of a Dense's config.json, which has a map and nothing else. Raises SpecError."""
    said, written = Dense.parse(node), node.value
    if "activation_function" not in written:
        text = f"missing, which sentence-transformers reads as Tanh; our maps have none between them: expected {IDENTITY}"
        raise node.error(text, ("activation_function",))
    if said.activation_function not in (IDENTITY, "torch.nn.Identity"):
        text = f"{spelt(said.activation_function)}: our maps have none between them; expected {IDENTITY}"
        raise node.error(text, ("activation_function",))
    if said.bias:
        raise node.error(f"{'true' if 'bias' in written else 'missing, which means true'}: our maps have none", ("bias",))
    if said.use_residual:
        raise node.error("true: our maps have no sum around them", ("use_residual",))
    for key in ("module_input_name", "module_output_name"):
        if getattr(said, key) not in (VECTOR, None):
            raise node.error(f"{getattr(said, key)}: our maps read and write the vector of the text, {VECTOR}", (key,))
    return said.in_features, said.out_features


def most_tokens(node):
    """`max_seq_length` of a sentence_bert_config.json, or None. Raises SpecError for a key that changes what is computed."""
    for key, child in node.value.items():
        if key == "max_seq_length":
            continue
        if key not in PLAIN:
            raise node.error(f"unknown key{nearest(key, ['max_seq_length', *PLAIN])}", (key,))
        if child.plain() not in PLAIN[key]:
            expected = "nothing" if key in EMPTY else spelt(PLAIN[key][0])
            raise node.error(f"{spelt(child.plain())}: our encoders have nothing like it; expected {expected}", (key,))
    return Length.parse({"max_seq_length": node.value["max_seq_length"]}).max_seq_length if "max_seq_length" in node.value else None


class Length(Spec):
    """How many tokens of a text are read, the ones around it included; null: as many as the tokenizer says."""

    max_seq_length: Count | None = None
