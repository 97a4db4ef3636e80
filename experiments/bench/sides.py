"""Our model and the peer's with the same interface: a training step, a prefill, decoding.

Both use the same optimizer, the same clipping and the same tokens. Each row is one document.
Shapes: B rows or streams, T tokens, N tokens decoded.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch

from arch import registry
from arch.cost import DTYPES, tensors
from arch.generate import prefill
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.bench.peer import check_same, new_peer
from experiments.bench.peers import x_transformers
from experiments.compiled import compile_blocks
from experiments.data.batch import Batch, Rows
from experiments.means import prepared
from experiments.optimizers.adamw import AdamW
from experiments.precision import scope
from experiments.spec import TrainSpec

# {of BenchSpec.precisions: what a run's spec says under `train`}
PRECISIONS: dict[str | None, dict[str, str]] = {
    None: {},
    "products": {"products": "bf16"},
    "bf16-mixed": {"precision": "bf16-mixed"},
}
OPTIMIZER = AdamW(AdamW.Config(lr=1e-4))


def tokens_of(spec, rows, tokens, device, seed=0):
    """Random tokens of shape (rows, tokens), uniform over the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(spec.vocab_size, (rows, tokens), generator=generator).to(device)


class _Side:
    """What both sides share. A subclass has `_mean_loss(tokens_BT)`, a function that computes a step's loss."""

    _mean_loss: Callable[[torch.Tensor], Callable[[], torch.Tensor]]

    def __init__(self, model, spec, device, dtype):
        self.model, self.spec, self.device, self.dtype = model.to(device, DTYPES[dtype]), spec, device, dtype
        self.optimizer = OPTIMIZER.build(self.model.named_parameters())

    def training(self, rows, context):
        """A function that does one optimizer step on `rows` x `context` tokens: forward, loss, backward, clip, AdamW."""
        mean_loss = self._mean_loss(tokens_of(self.spec, rows, context, self.device))
        return self._training(lambda: mean_loss().backward())

    def _training(self, passes):
        """A function that does one optimizer step. passes: computes the gradients."""
        self.model.train()

        def step():
            self.optimizer.zero_grad()
            passes()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.config.clip, foreach=True)
            self.optimizer.step()

        return step

    @torch.no_grad()
    def start_optimizer(self):
        """Allocate AdamW's moments, as a first step would."""
        for weight in self.model.parameters():
            weight.grad = torch.zeros_like(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours(_Side):
    """Our model of a resolved spec.

    objective: by default `next_token`. precision: one of BenchSpec.precisions, or None: as `dtype` says.
    """

    def __init__(self, spec, device, dtype, compile=False, objective=None, precision=None):
        super().__init__(new_model(spec, seed=0), spec, device, dtype)
        lengths_V = torch.ones(spec.vocab_size, dtype=torch.long)
        plain = registry.build("objective", {"type": "next_token"}, SimpleNamespace(byte_lengths=lengths_V))
        self.objective = (plain if objective is None else objective).to(device)
        self.compile = compile
        self.train = TrainSpec.parse({"steps": 1, **PRECISIONS[precision]})

    def training(self, rows, context):
        """As for every side; the blocks are compiled first if `compile` is set."""
        if self.compile:
            compile_blocks(self.model, self.device.type, rows, context, self.dtype)
        return super().training(rows, context)

    def training_on(self, batch):
        """As `training`, on the rows of a Batch."""
        mean_loss = self._mean_loss_on(batch["text"])
        return self._training(lambda: mean_loss().backward())

    def training_on_pairs(self, rows, context, parts):
        """A function that does one step on `rows` pairs of texts of `context` tokens each, in so many micro-batches."""
        kinds = {kind: tokens_of(self.spec, rows, context, self.device, seed) for seed, kind in enumerate(("query", "positive"))}

        def passes():
            batch = Batch({kind: _texts(tokens_BT) for kind, tokens_BT in kinds.items()})
            with scope(self.train):
                with torch.no_grad():
                    batch = prepared(self.objective, self.model, batch, parts)
                for part in batch.in_turn(parts):
                    (self.objective(self.model, part)["loss"].sum / rows).backward()

        return self._training(passes)

    def _mean_loss(self, tokens_BT):
        return self._mean_loss_on(whole_rows(tokens_BT)["text"])

    def _mean_loss_on(self, rows):
        weight = Batch.text(rows).weight

        def loss():
            layout = TokenLayout(rows.layout.doc_BT, rows.layout.pos_BT)  # each step of a run has a layout of its own
            if rows.layout.image_BT is not None:
                layout = layout.with_images(rows.layout.image_BT)
            batch = Batch.text(replace(rows, layout=layout, extra=dict(rows.extra)))
            with scope(self.train):
                with torch.no_grad():
                    batch = prepared(self.objective, self.model, batch)
                return self.objective(self.model, batch)["loss"].sum / weight

        return loss

    def fill(self, tokens_BT, further=0):
        """Prefill with a prompt; the state has room for `further` more tokens."""
        self.model.eval()
        state = self.model.init_state(tokens_BT.shape[0], tokens_BT.shape[1] + further)
        scores_BV, self.state = prefill(self.model, tokens_BT, state)
        self.next_B1 = scores_BV.argmax(-1, keepdim=True)

    @torch.no_grad()
    def decode(self, count):
        """Decode `count` tokens, always taking the most likely one."""
        for _ in range(count):
            scores_B1V, self.state = self.model.decode(self.next_B1, self.state)
            self.next_B1 = scores_B1V.argmax(-1)

    def cache_bytes(self):
        """Bytes of the decoding state."""
        return sum(tensor.nbytes for tensor in tensors(self.state.layers))


class Peer(_Side):
    """The same model in `transformers`, with its own loss and cache.

    compile: its training step is compiled as a whole. autocast: it runs under autocast to bfloat16, with weights of `dtype`.
    Raises SpecError if transformers has no such model, or if `ours` is given and its parameters have other sizes.
    """

    def __init__(self, spec, device, dtype, ours=None, name="spec", compile=False, autocast=False):
        model = new_peer(spec)
        if ours is not None:
            check_same(ours, model, name)
        self.compile, self.autocast = compile, autocast
        super().__init__(model, spec, device, dtype)

    def _mean_loss(self, tokens_BT):
        model = torch.compile(self.model) if self.compile else self.model

        def loss():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                return model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss

        return loss

    @torch.no_grad()
    def fill(self, tokens_BT, further=0):
        """Prefill with a prompt in one call. `further` is not needed: the cache grows."""
        from transformers import DynamicCache

        self.model.eval()
        if hasattr(self.model, "_setup_cache"):  # RecurrentGemma keeps its recurrent states on its modules
            self.model._setup_cache(self.model.config, len(tokens_BT), self.device, DTYPES[self.dtype])
        self.cache, self.seen = DynamicCache(config=self.model.config), 0
        self._read(tokens_BT)

    @torch.no_grad()
    def decode(self, count):
        """Decode `count` tokens, always taking the most likely one."""
        for _ in range(count):
            self._read(self.next_B1)

    def _read(self, tokens_BT):
        positions_1T = torch.arange(self.seen, self.seen + tokens_BT.shape[1], device=self.device)[None]
        self.seen += tokens_BT.shape[1]
        output = self.model(
            input_ids=tokens_BT,
            position_ids=positions_1T,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.next_B1 = output.logits.argmax(-1)


class XTransformers(_Side):
    """A model of the same sizes in x-transformers, compiled. Raises SpecError if it has no such model."""

    def __init__(self, spec, device, dtype, context):
        super().__init__(x_transformers.new_model(spec, context), spec, device, dtype)

    def _mean_loss(self, tokens_BT):
        return x_transformers.mean_loss(self.model, tokens_BT)


class StockPeer:
    """A Peer inside a `child.Lodger`, in its own untouched process, as its users run it."""

    def __init__(self, spec, device, dtype):
        self.peer = Peer(ModelSpec.parse(spec), torch.device(device), dtype)

    def prepare_training(self, rows, context):
        self.step = self.peer.training(rows, context)

    def train(self):
        self.step()

    def fill(self, rows, context, further):
        self.peer.fill(tokens_of(self.peer.spec, rows, context, self.peer.device), further)

    def decode(self, count):
        self.peer.decode(count)


def contrastive_objective():
    """The contrastive objective with no option set: in-batch negatives and the spread-out term."""
    return registry.build("objective", {"type": "contrastive"}, SimpleNamespace())


def _texts(tokens_BT):
    """Rows of texts that fill them; each is another text."""
    rows, tokens = tokens_BT.shape
    layout = TokenLayout.right_padded(torch.full((rows,), tokens, device=tokens_BT.device), tokens)
    return Rows(tokens_BT, layout, extra={"text": torch.arange(rows, device=tokens_BT.device)})


def whole_rows(tokens_BT):
    """A Batch in which each row is one document; the last token has no target."""
    targets_BT = torch.full_like(tokens_BT, -1)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    pos_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    layout = TokenLayout(torch.zeros_like(tokens_BT), pos_BT.contiguous())
    return Batch.text(Rows(tokens_BT, layout, targets_BT))
