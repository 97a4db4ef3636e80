"""Run a benchmark: all measurements of a BenchSpec, in the order of the printed tables."""

import importlib.metadata
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch

from arch import cost, document
from arch.cost import DTYPES
from arch.errors import SpecError
from arch.express import loaded
from arch.kernels import paths
from experiments import device as devices
from experiments.bench import answers, ceilings, distillation, encoding, images, kernels, models, quantised, workbench
from experiments.bench.against import KINDS, installed
from experiments.bench.journal import Journal
from experiments.bench.peer import expressed
from experiments.bench.record import BenchRecord
from experiments.bench.spec import ENCODERS, MODELS, READERS, BenchSpec
from experiments.compiled import CompileError, compiler
from experiments.train import CODE

PEERS = ("transformers", "sentence-transformers", "x-transformers", "llama-cpp-python")
PACKAGES = ("torch", "triton", *PEERS, "pytorch-lightning", "numpy")


def bench(source, folder, tell=print):
    """Measure what a BenchSpec's document lists and return the BenchRecord, saved in `folder` after every measurement.

    On KeyboardInterrupt the record keeps its measurements and the interrupt is raised again. Raises SpecError, before
    measuring, if a spec does not build, the peer is not installed or has no such model, or the device or a compiler is
    missing.
    """
    root = document.node(source)
    bench_spec = BenchSpec.parse(root)
    try:
        specs = check(bench_spec)
    except SpecError as error:
        if error.file is None:
            raise root.error(error.reason, error.path) from None
        raise
    device = torch.device(bench_spec.device)
    settings = devices.setup(bench_spec.threads)
    record = BenchRecord(
        status="running",
        asked=bench_spec.dump(),
        specs={name: spec.dump() for name, spec in specs.items()},
        costs={
            f"{name}@{context}": cost.summary(spec, context, bench_spec.dtype)
            for name, spec in specs.items()
            for context in bench_spec.contexts
        },
        versions=versions(),
        git=CODE,
        hardware=devices.hardware(),
        threads=torch.get_num_threads(),
        allocator=settings,
        started=_now(),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    journal = Journal(record, folder, tell)
    status = "interrupted"
    try:
        with journal.part("ceilings"):
            ceilings.measure(journal, device, DTYPES[bench_spec.dtype])
        for name, spec in specs.items():
            of_model(journal, spec, name, bench_spec, device)
        alone(journal, bench_spec, device)
        status = "failed" if journal.record.failures else "finished"
    finally:
        journal.change(status=status, ended=_now())
    return journal.record


def of_model(journal, spec, name, bench_spec, device):
    """Run all requested measurements of one model."""
    if spec.pool is not None:
        return of_encoder(journal, spec, name, bench_spec, device)
    for context in bench_spec.contexts:
        if "train" in bench_spec.measure:
            with journal.part(f"train {name} {context}"):
                models.training(journal, spec, name, context, bench_spec, device)
        if "memory" in bench_spec.measure:
            with journal.part(f"memory {name} {context}"):
                models.memory(journal, spec, name, context, bench_spec)
        if "profile" in bench_spec.measure:
            with journal.part(f"profile {name} {context}"):
                models.profile(journal, spec, name, context, bench_spec, device)
        if "quantise" in bench_spec.measure:
            with journal.part(f"quantise {name} {context}"):
                quantised.quantised(journal, spec, name, context, bench_spec, device)
        if "images" in bench_spec.measure:
            with journal.part(f"images {name} {context}"):
                images.images(journal, spec, name, context, bench_spec, device)
    for context in bench_spec.decode_contexts:
        for batch in bench_spec.batches:
            if "answers" in bench_spec.measure:
                with journal.part(f"answers {name} {context} x {batch}"):
                    answers.answers(journal, spec, name, context, batch, bench_spec, device)
            if "decode" in bench_spec.measure:
                with journal.part(f"decode {name} {context} x {batch}"):
                    models.decoding(journal, spec, name, context, batch, bench_spec, device)


def of_encoder(journal, spec, name, bench_spec, device):
    """Run all requested measurements of one encoder."""
    for context in bench_spec.contexts:
        if "encode" in bench_spec.measure:
            with journal.part(f"encode {name} {context}"):
                encoding.encoding(journal, spec, name, context, bench_spec, device)
        if "contrastive" in bench_spec.measure:
            with journal.part(f"contrastive {name} {context}"):
                encoding.contrastive(journal, spec, name, context, bench_spec, device)
    if "stream" in bench_spec.measure:
        with journal.part(f"stream {name}"):
            encoding.stream(journal, spec, name, bench_spec)


def alone(journal, bench_spec, device):
    """Run all requested measurements that do not belong to a model."""
    parts = {
        "scan": lambda: kernels.scan(journal, bench_spec, device),
        "reach": lambda: kernels.reach(journal, bench_spec, device),
        "loss": lambda: kernels.loss(journal, bench_spec, device),
        "distill": lambda: distillation.distillation(journal, bench_spec, device),
        "lightning": lambda: workbench.lightning(journal, bench_spec),
        "start": lambda: workbench.start(journal, bench_spec),
    }
    for name, measure in parts.items():
        if name in bench_spec.measure:
            with journal.part(name):
                measure()


def check(bench_spec):
    """{name: resolved ModelSpec} of `specs`.

    Raises SpecError if a spec does not build, if the device, the compiler or the peer is missing, or if the peer has no
    such model.
    """
    specs = {}
    for i, name in enumerate(bench_spec.specs):
        try:
            specs[name] = loaded(name)
        except SpecError as error:
            raise error if error.file else error.below(("specs", i)) from None
        own, kind = _measured_of(specs[name])
        if wrong := [each for each in bench_spec.measure if each in {*MODELS, *READERS, *ENCODERS} - set(own)]:
            raise SpecError(f"{name} is {kind}, of which {', '.join(own)} can be measured, not {wrong[0]}", ("specs", i))
        for context in bench_spec.contexts:
            if "contrastive" in bench_spec.measure:
                encoding.check_rows(bench_spec.tokens, context)
            if "images" in bench_spec.measure:
                images.images_of_row(specs[name], context)
    if bench_spec.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("torch finds no CUDA device here", ("device",))
    if bench_spec.compile:
        try:
            compiler(bench_spec.device)
        except CompileError as error:
            raise SpecError(str(error), ("compile",)) from None
    if bench_spec.against and not installed(bench_spec.against):
        raise SpecError(str(KINDS[bench_spec.against[0]].missing()), ("against",))
    if "hf" in installed(bench_spec.against):
        for spec in specs.values():
            expressed(spec)
    return specs


def _measured_of(spec):
    """(what can be measured of a model, what it is)"""
    if spec.pool is not None:
        return ENCODERS, "an encoder"
    return (MODELS, "no encoder and has no `vision`") if spec.vision is None else ((*MODELS, *READERS), "no encoder")


def versions():
    """The software that affects speed: {package: version}, and the path of each kernel."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # not installed: it is optional
            installed[name] = importlib.metadata.version(name)
    return installed | paths.recorded()


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")
