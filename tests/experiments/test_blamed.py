"""What the record of a run says of an error in a component of a user's own: the block, the component, the file and the line."""

import pytest

from arch.errors import SpecError

HOW = {
    "exits": ("SystemExit", "sys.exit('enough') was called", 'sys.exit("enough")'),
    "raises": ("LookupError", "nothing there\nand a second line", "raise LookupError"),
    "in torch": ("RuntimeError", "", "F.linear"),
    "no state": ("TypeError", "gives Tensor instead of (output, state)", "def forward"),
    "shape": ("TypeError", "gives shape (4, 32, 1) for an input of shape (4, 32, 16)", "def forward"),
}


@pytest.fixture
def failing(tiny, plugins, monkeypatch):
    """The RunPlan of a model with the mixer of `own_failing`, which is honest until `NOW` says otherwise."""
    from experiments.plan import plan

    monkeypatch.chdir(plugins)
    tiny["model"]["blocks"]["rec"]["mixer"] = {"type": "own_failing:Failing"}
    return plan(tiny)


def test_a_mixer_that_fails_in_training_is_named(failing, plugins, monkeypatch):
    import own_failing

    from experiments.train import train

    source = (plugins / "own_failing.py").read_text().splitlines()
    for how, (error, message, text) in HOW.items():
        monkeypatch.setattr(own_failing, "NOW", how)
        record = train(failing, 0, plugins / how)
        number = next(i for i, each in enumerate(source, start=1) if text in each)
        assert (record.status, record.failure.error, record.failure.where) == ("failed", error, "blocks.0.mixer")
        assert record.failure.message.startswith(message)
        assert record.failure.message.endswith(f" (blocks.0.mixer: own_failing:Failing, own_failing.py:{number})")
        assert not record.failure.by_machine
    monkeypatch.setattr(own_failing, "NOW", "")
    assert train(failing, 0, plugins / "exits").status == "finished"


def test_ctrl_c_within_lightning_interrupts_a_run(failing, tmp_path, monkeypatch):
    """Lightning turns it into sys.exit(1), which is no failure of the model."""
    import signal

    from experiments.module import TrainingModule
    from experiments.train import train

    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    record = train(failing, 0, tmp_path / "run")
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert record.status == "interrupted" and record.failure is None


def test_an_evaluator_or_an_objective_that_exits_fails_only_its_run(tiny, plugins, monkeypatch):
    from experiments.plan import plan
    from experiments.train import train

    monkeypatch.chdir(plugins)
    (plugins / "own_exits.py").write_text(
        "import sys\nfrom arch.registry import evaluator\nfrom arch.spec import Spec\n\n\n@evaluator\nclass Exits:\n"
        "    class Config(Spec):\n        pass\n\n    metrics = {}\n\n    def __init__(self, config):\n"
        "        self.config = config\n\n    def __call__(self, model, dataset, given):\n        sys.exit(7)\n"
    )
    tiny["evaluate"] = {"report": {"exits": {"type": "own_exits:Exits"}}}
    record = train(plan(tiny), 0, plugins / "run")
    assert record.status == "failed" and record.failure.message == "sys.exit(7) was called (own_exits.py:17)"


def test_what_gives_something_else_than_it_promised_is_named(tiny, tmp_path, monkeypatch):
    """With its class: the error is in code of ours that uses what it gave."""
    from arch import registry
    from arch.errors import DataError
    from experiments.data import corpus
    from experiments.evaluators.sample import Sample
    from experiments.objectives.next_token import NextToken
    from experiments.plan import plan
    from experiments.schedules.cosine import Cosine
    from experiments.train import train

    planned = plan(tiny)
    for cls, method, promised in (
        (Cosine, "__call__", "a number"),
        (NextToken, "forward", "{metric: Mean} with a `loss`"),
        (Sample, "__call__", "Findings"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(cls, method, lambda *_: None)
            record = train(planned, 0, tmp_path / cls.__name__)
        named = f"{cls.__module__}:{cls.__name__} gives NoneType instead of {promised} (tests/experiments/test_blamed.py:"
        assert record.status == "failed" and named in record.failure.message, record.failure
    text = registry.component("source", "text")
    monkeypatch.setattr(text, "documents", lambda self: iter([("a", "b"), 5]))
    with pytest.raises(DataError, match=r"gives int instead of \(name, text\)"):
        corpus._read(planned.spec.data.source)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (("model", "dim"), 10**12, "with model.dim = 1,000,000,000,000, one of its tensors is too large|is too large for a tensor"),
        (("model", "dim"), 10**30, "is too large for a tensor on any machine"),
        (("model", "vocab_size"), 10**30, "model.vocab_size: .* is too large for a tensor on any machine"),
        (("train", "threads"), 10**6, "train.threads: "),
        (("init_from",), {"run": "x", "seed": 2**64}, "expected `same` or a whole number from 0 to 4294967295"),
        (("init_from",), {"run": "x", "seed": 2**32}, "expected `same` or a whole number from 0 to 4294967295"),
    ],
)
def test_numbers_that_no_machine_can_hold_are_refused(key, value, said, tiny):
    from experiments.plan import resolve

    place = tiny
    for name in key[:-1]:
        place = place[name]
    place[key[-1]] = value
    with pytest.raises(SpecError, match=said):
        resolve(tiny)


@pytest.mark.parametrize("accelerator", ["gpu", "mps", "tpu"])
def test_an_accelerator_that_is_not_there_is_said_first(accelerator, tiny, monkeypatch):
    from experiments import gpus
    from experiments.spec import ExperimentSpec

    monkeypatch.setattr(gpus, "visible", list)
    tiny["train"]["accelerator"] = accelerator
    with pytest.raises(SpecError, match=r"for a run, but this machine has no") as raised:
        gpus.check_there(ExperimentSpec.parse(tiny).train)
    assert raised.value.path == ("train", "accelerator")
    tiny["train"]["accelerator"] = "cpu"
    gpus.check_there(ExperimentSpec.parse(tiny).train)
