"""llama.cpp (MIT; `llama-cpp-python`, built from its source for this CPU) with the same weights, of the same type.

It decodes as its users would on a CPU: memory-mapped weights, no flash attention, which is slower here in most cases, and
keys and values in float32 beside float32 weights, in float16 beside bfloat16 ones, its quickest type of two bytes.

Shapes: B streams, T tokens, V vocabulary.
"""

import ctypes
import tempfile
from pathlib import Path

import numpy as np
import torch

from arch import tensors
from arch.cost import DTYPES
from arch.errors import SpecError
from arch.gguf import architectures, export, vocabulary
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.bench.sides import tokens_of

UBATCH = 512  # tokens that are read at once


def check(spec: ModelSpec) -> None:
    """Raises SpecError if llama.cpp does not compute exactly a resolved ModelSpec, with float weights."""
    try:
        architectures.architecture(spec)
    except ValueError as error:
        raise SpecError(str(error), ("against",)) from None
    if spec.quantise is not None:
        raise SpecError("quantise: llama.cpp is measured with float weights; expected null", ("against",))


class LlamaCpp:
    """One model with one context. spec: plain data; the weights are those of `new_model(spec, seed=0)` in the type `dtype`."""

    def __init__(self, spec, device, dtype, threads):
        import llama_cpp

        self.library, self.spec, self.threads, self.dtype = llama_cpp, ModelSpec.parse(spec), threads, dtype
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = self.context = None
        self.shape: tuple[int, int] = 0, 0

    def fill(self, rows, context, further):
        """Read prompts of `context` random tokens, with room for `further` more tokens; the weights are loaded before."""
        self.start(rows, context + further)
        self.read(tokens_of(self.spec, rows, context, "cpu"))

    def start(self, rows, capacity):
        """An empty context for `rows` streams of up to `capacity` tokens; the model is loaded if it is not."""
        library = self.library
        if self.model is None:
            with tempfile.TemporaryDirectory(prefix="archbench-") as folder:
                path = Path(folder) / "model.gguf"
                weights = tensors.of_mapping(dict(new_model(self.spec, seed=0).to(DTYPES[self.dtype]).named_parameters()))
                kinds, about = export.kinds_of(self.spec, {}, self.dtype), vocabulary.metadata(None, self.spec.vocab_size)
                export.write(self.spec, weights, path, kinds, capacity, about)
                options = library.llama_model_default_params()
                options.n_gpu_layers = 0
                self.model = library.llama_model_load_from_file(str(path).encode(), options)
            if not self.model:
                raise RuntimeError("llama.cpp could not load the weights")
        if self.context is not None and (rows, capacity) == self.shape:
            library.llama_memory_clear(library.llama_get_memory(self.context), True)
        else:
            if self.context is not None:
                library.llama_free(self.context)
            self.context, self.shape = library.llama_init_from_model(self.model, self._options(rows, capacity)), (rows, capacity)
            if not self.context:
                raise RuntimeError("llama.cpp could not make a context")
        self.seen = 0

    def read(self, tokens_BT):
        """Read further tokens of every stream. The last token's logits are kept: (B, V)."""
        rows, tokens = tokens_BT.shape
        each = max(1, UBATCH // rows)
        for start in range(0, tokens, each):
            part_BT = tokens_BT[:, start : start + each]
            logits_BV = self._batch(part_BT, start + each >= tokens)
        self.next_B1 = torch.from_numpy(logits_BV.argmax(-1)[:, None].astype(np.int64))
        self.logits_BV = logits_BV

    def decode(self, count):
        """Decode `count` tokens, always taking the most likely one."""
        for _ in range(count):
            self.read(self.next_B1)

    def scores(self):
        """The logits (B, V) after the last token that was read, as nested lists."""
        return self.logits_BV.tolist()

    def _options(self, rows, capacity):
        library = self.library
        options = library.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.kv_unified = capacity * rows, rows, False
        options.n_batch = options.n_ubatch = UBATCH
        options.n_threads = options.n_threads_batch = self.threads
        options.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.type_k = options.type_v = library.GGML_TYPE_F32 if self.dtype == "float32" else library.GGML_TYPE_F16
        options.swa_full = False
        return options

    def _batch(self, tokens_BT, wanted):
        """Give one batch to llama.cpp. wanted: whether it computes the logits of each stream's last token."""
        library, (rows, tokens) = self.library, tokens_BT.shape
        batch = library.llama_batch_init(rows * tokens, 0, 1)
        batch.n_tokens = rows * tokens
        for i, token in enumerate(tokens_BT.flatten().tolist()):
            row, at = divmod(i, tokens)
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, self.seen + at, 1, row
            batch.logits[i] = wanted and at == tokens - 1
        failed = library.llama_decode(self.context, batch)
        last = [row * tokens + tokens - 1 for row in range(rows)]
        library.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode gave {failed}")
        self.seen += tokens
        if not wanted:
            return None
        found = [library.llama_get_logits_ith(self.context, i) for i in last]
        return np.stack([np.ctypeslib.as_array(each, (self.spec.vocab_size,)) for each in found])


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level, text, data):
    """Instead of llama.cpp's log on the terminal."""
