"""Tasks of EleutherAI's harness (`lm_eval`), on the model as `transformers` loads it."""

import contextlib
import hashlib
import importlib.util
import logging
import math
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy
import tokenizers
import torch
from pydantic import Field, model_validator
from ruamel.yaml import YAML, YAMLError

from arch import checkpoint, hf
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import DataError, SpecError, install, nearest
from arch.express import express
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec, digest, later
from arch.tensors import Entry, Tensors
from experiments.data.specials import BOS, EOS, PAD

PACKAGES = ("lm_eval", "accelerate", "transformers")
Better = Literal["higher", "lower", "neither"]
# What a task measures whose file names no metric, by its `output_type` (lm_eval 0.4).
USUAL = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score")
HIGHER = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match", "f1", "mcc", "bleu", "chrf")
# Metrics that are ratios, and the one that depends on the tokenizer.
RATIOS, PER_TOKEN = LOWER[:4], ("perplexity",)
ROLLING = "loglikelihood_rolling"
SEED = 1234


@evaluator
class Harness:
    """Tasks of EleutherAI's Language Model Evaluation Harness: the model is exported and `transformers` runs it.

    Metrics are named lm_eval_TASK_METRIC; what the files of the tasks say decides which there are. Every request is scored
    after `<bos>`, as every document begins in training: a prompt gets it in front, and the likelihood of a whole text is
    P(text | <bos>), without `<bos>` itself and without `<eos>`. Needs the extra `lm-eval`.
    """

    class Config(Spec):
        """tasks: their names. include: the folder of the files that define them (`*.yaml`, as the harness documents); paths
        in them are relative to this folder, and nothing is read from a network. null: the harness's own tasks, which come
        from the Hugging Face hub and take the harness most of a minute to list; then `metrics` must be given.

        metrics: {TASK: {METRIC: higher, lower or neither}}, which numbers to keep and which way is better; by default what
        the files of the tasks name. A metric behind a filter is called `METRIC,FILTER`. limit: the first documents of each
        task only. num_fewshot: examples in front of each request; null as the task says. context: the most tokens of a
        request, by default `data.context`; longer prompts lose their beginning, longer texts are scored in pieces.
        content: a digest of the files in `include`, filled in when they are first read: changed files are measured anew.
        """

        tasks: Annotated[List[str], Field(min_length=1)]
        include: str | None = None
        metrics: dict[str, dict[str, Better]] = {}
        limit: Count | None = None
        num_fewshot: Annotated[int, Field(ge=0)] | None = None
        context: Annotated[int, Field(ge=2)] | None = None
        content: str | None = later(None)

        @model_validator(mode="before")
        @classmethod
        def _reads_its_tasks(cls, data):
            if not isinstance(data, dict) or not isinstance(data.get("include"), str) or data.get("content"):
                return data
            files = _files(data["include"])
            names = [name for name in data.get("tasks") or () if isinstance(name, str)]
            given = data.get("metrics") or {}
            read = {name: _metrics(data["include"], files, name) for name in names if name not in given}
            return data | {"metrics": given | read, "content": digest(files)}

        @model_validator(mode="after")
        def _names_metrics(self):
            for name in self.tasks:
                if not self.metrics.get(name):
                    example = f"{{{name}: {{acc: higher}}}}"
                    raise ValueError(
                        f"metrics: missing for {name}, of which no file in `include` says what it measures; e.g. {example}"
                    )
            return self

    needs = frozenset({"causal", "text"})
    charts: tuple[Chart, ...] = ()

    def __init__(self, config: Config):
        self.config = config

    @property
    def metrics(self) -> dict[str, Metric]:
        """Those of the tasks."""
        named = self.config.metrics.items()
        return {_name(task, metric): _metric(metric, better) for task, each in named for metric, better in each.items()}

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the harness is not installed."""
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise SpecError(f"lm_eval needs the package {missing[0]}: {install('lm-eval')}", ("type",))

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError where no class of `transformers` can express the model."""
        try:
            express(model)
        except DataError as error:
            first, *reasons = str(error).splitlines()
            raise SpecError("; ".join([first.rstrip(":"), *(reason.strip() for reason in reasons)]), ("type",)) from None

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The metrics; one row per task and metric. Raises DataError for what the harness is not given or does not give."""
        assert dataset.tokenizer is not None
        self._check_content()
        with tempfile.TemporaryDirectory() as scratch, _quiet(self.config.include):
            begin = getattr(dataset, "begin", None)
            harness = exported(model, dataset.tokenizer, Path(scratch), given, self.config.context or given.context, begin)
            results = measured(harness, self.config)
        table = [
            {"task": task, "metric": metric, "value": value, "documents": documents}
            for task, (documents, values) in results.items()
            for metric, value in values.items()
        ]
        return Findings(self._values(results), table)

    def _check_content(self):
        if self.config.include is not None:
            try:
                content = digest(_files(self.config.include))
            except ValueError as error:
                raise DataError(str(error).removeprefix("include: "), key=None) from None
            if content != self.config.content:
                raise DataError(f"{self.config.include}: its task files changed since the spec was read", key=None)

    def _values(self, results):
        values = {}
        for task, wanted in self.config.metrics.items():
            measured_here = results.get(task, (0, {}))[1]
            for metric in wanted:
                if metric not in measured_here:
                    has = ", ".join(measured_here) or "none"
                    raise DataError(f"lm_eval gives no {metric} of {task}; it gives {has}", key=None)
                values[_name(task, metric)] = measured_here[metric]
        return values


def exported(
    model: Model, tokenizer: tokenizers.Tokenizer, scratch: Path, given: Given, context: int, begin: int | None = None
) -> Any:
    """The harness's language model (`HFLM`) of a model, written below the folder `scratch`. Raises DataError.

    begin: the token that begins a text; by default `<bos>`.
    """
    from lm_eval.models.huggingface import HFLM

    entries = {name: Entry(tuple(weight.shape), weight.dtype) for name, weight in model.named_parameters()}
    weights = Tensors(entries, lambda: ((name, weight.detach().cpu()) for name, weight in model.named_parameters()))
    ours, theirs = scratch / "ours", scratch / "theirs"
    ours.mkdir()
    checkpoint.write(model.spec, weights, ours)
    tokenizer.save(str(ours / checkpoint.TOKENIZER))
    hf.export(ours, theirs)
    return HFLM(
        pretrained=str(theirs),
        tokenizer=_tokenizer(tokenizer, begin),
        backend="causal",
        dtype=str(model.embedding.dtype).removeprefix("torch."),
        device=str(given.device),
        batch_size=given.rows,
        max_length=context,
        add_bos_token=False,
    )


def measured(
    harness: Any, config: Harness.Config, samples: dict[str, Any] | None = None
) -> dict[str, tuple[int, dict[str, float]]]:
    """{task: (documents, {metric: number})}. samples: filled with {task: what the harness logs of each document}."""
    from lm_eval import evaluate

    loaded = _loaded(config)
    rolling = [name for name, task in loaded["tasks"].items() if task.get_config("output_type") == ROLLING]
    others = [name for name in loaded["tasks"] if name not in rolling]
    found: dict[str, tuple[int, dict[str, float]]] = {}
    # A whole text is scored after a `<bos>` that the harness puts there itself. A prompt gets it from the tokenizer.
    for begins, names in ((False, rolling), (True, others)):
        if not names:
            continue
        harness.add_bos_token = begins
        _seed()
        tasks = loaded | {"tasks": {name: loaded["tasks"][name] for name in names}}
        answer = evaluate(harness, tasks, limit=config.limit, bootstrap_iters=0, log_samples=samples is not None)
        for name in names:
            results = answer["results"][name]
            values = {key.removesuffix(",none"): float(value) for key, value in results.items() if _counts(key, value)}
            found[name] = answer["n-samples"][name]["effective"], values
            if samples is not None:
                samples[name] = answer["samples"][name]
    return found


def _loaded(config):
    """The tasks as the harness holds them, with their documents. Raises DataError for what is no task."""
    from lm_eval.tasks import TaskManager

    with contextlib.chdir(config.include or "."):
        manager = TaskManager(include_path=config.include and ".", include_defaults=config.include is None)
        if unknown := [name for name in config.tasks if name not in manager.all_subtasks]:
            raise DataError(f"lm_eval has no task {unknown[0]!r}{nearest(unknown[0], manager.all_subtasks)}", key=None)
        loaded = manager.load(list(config.tasks))
    for task in loaded["tasks"].values():
        written = task.get_config("num_fewshot")
        if written is None or (config.num_fewshot is not None and written != 0):  # 0 in a task's file is meant to stay
            task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _seed():
    """Make what the harness draws repeatable; whoever evaluates restores the process's random state."""
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def _counts(key, value):
    """Whether an entry of the harness's results is a metric; others are its name, and standard errors."""
    return "," in key and "_stderr," not in key and isinstance(value, int | float) and math.isfinite(value)


def _tokenizer(trained, begin=None):
    """A `transformers` tokenizer that puts `<bos>` in front when asked for special tokens, and never an `<eos>` behind.

    begin: the id of the token in place of `<bos>`. As in training, special tokens that stand in a text are encoded as text.
    """
    from transformers import PreTrainedTokenizerFast

    copy = tokenizers.Tokenizer.from_str(trained.to_str())
    first = (None if begin is None else copy.id_to_token(begin)) or BOS
    last = EOS if copy.token_to_id(EOS) is not None else first
    named = [(first, copy.token_to_id(first))]
    copy.post_processor = tokenizers.processors.TemplateProcessing(single=[first, "$A"], special_tokens=named)
    pad = PAD if copy.token_to_id(PAD) is not None else last
    return PreTrainedTokenizerFast(tokenizer_object=copy, bos_token=first, eos_token=last, pad_token=pad, split_special_tokens=True)


@contextlib.contextmanager
def _quiet(include: str | None) -> Iterator[None]:
    """Context manager: only errors are logged; with a folder of task files, nothing is asked of a network."""
    logger = logging.getLogger("lm_eval")
    level, before = logger.level, dict(os.environ)
    logger.setLevel(logging.ERROR)
    try:
        if include is not None:
            os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        yield
    finally:
        logger.setLevel(level)
        os.environ.clear()
        os.environ.update(before)


def _name(task, metric):
    """The name of a metric within its split; a slash would begin another part of it."""
    return f"lm_eval_{task}_{metric}".replace("/", "_").replace(",", "_")


def _metric(name, better):
    plain = name.partition(",")[0]
    unit = "bits per byte" if plain == "bits_per_byte" else ""
    compare: Literal["ratio", "difference"] = "ratio" if plain in RATIOS else "difference"
    return Metric(unit=unit, better=better, compare=compare, any_tokenizer=plain not in PER_TOKEN)


def _files(folder):
    """{file below the folder: digest of its content}, of every file but hidden ones. Raises ValueError without the folder."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"include: no folder {folder}")
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root)))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _is_hidden(path):
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def _metrics(folder, files, task):
    """{metric: which way is better} of a task that a file below the folder defines. Raises ValueError where none does."""
    defined = {}
    for file in files:
        if Path(file).suffix in (".yaml", ".yml"):
            content = _read(Path(folder) / file)
            if isinstance(content.get("task"), str):
                defined[content["task"]] = content
    if task not in defined:
        raise ValueError(f"tasks: no file in {folder} defines the task {task!r}{nearest(task, defined)}")
    content = defined[task]
    filters = [each.get("name") for each in content.get("filter_list") or ()] or ["none"]
    named = content.get("metric_list")
    if named is None:
        named = [{"metric": metric} for metric in USUAL.get(content.get("output_type", "generate_until"), ())]
    found: dict[str, str] = {}
    for entry in named:
        metric = entry.get("metric")
        if not isinstance(metric, str):
            raise ValueError(f"metrics: missing for {task}, whose file names a function as a metric")
        way = entry.get("higher_is_better")
        better = ("lower", "higher")[bool(way)] if way is not None else _usually(metric)
        found |= {metric if name == "none" else f"{metric},{name}": better for name in filters}
    return found


def _usually(metric):
    return "lower" if metric in LOWER else "higher" if metric in HIGHER else "neither"


def _read(path):
    """A file of the harness as plain data, with what it includes below it. Raises ValueError."""
    try:
        content = YAML(typ="rt").load(path.read_text(encoding="utf-8"))  # it keeps tags that it does not know
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"include: {path} cannot be read as YAML ({reason})") from None
    if not isinstance(content, dict):
        return {}
    base = content.get("include")
    return (_read(path.parent / base) if isinstance(base, str) else {}) | dict(content)
