"""EleutherAI's harness on tasks that local files define, against likelihoods that `arch` computes itself."""

import json
import math

import pytest
import torch

from arch import registry
from arch.contracts import Given
from arch.errors import DataError, SpecError
from arch.generate import generate
from arch.model import new_model
from experiments.data.dataset import prepare
from experiments.data.specials import BOS
from experiments.evaluate import evaluate
from experiments.evaluations import planned
from experiments.evaluators import lm_eval
from experiments.plan import plan, resolve

CHOICES = [
    {"question": "the cat sat on", "choices": [" the mat", " rain over night"], "answer": 0},
    {"question": "one bird ", "choices": ["sang <eos> of", "hills"], "answer": 0},
    {"question": "", "choices": ["the old", "green"], "answer": 1},
]
# The last one is longer than two rows of 32 tokens: the harness scores it in pieces.
LINES = ["the cat sat on a mat", "and <bos> is text", "rain over old green hills by night and one bird that sang of rain"]
TASKS = {
    "_base.yaml": "dataset_path: json\ntest_split: test\nmetadata: {version: 1.0}\n",
    "choice.yaml": """include: _base.yaml
task: goes_with
dataset_kwargs: {data_files: {test: choices.jsonl}}
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
target_delimiter: ""
doc_to_target: "{{answer}}"
""",
    "rolling.yaml": """include: _base.yaml
task: lines
dataset_kwargs: {data_files: {test: lines.jsonl}}
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "goes_on.yaml": """include: _base.yaml
task: goes_on
dataset_kwargs: {data_files: {test: lines.jsonl}}
output_type: generate_until
doc_to_text: "{{text[:8]}}"
doc_to_target: "{{text[8:]}}"
generation_kwargs: {max_gen_toks: 5, until: ["no such text"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list: [{name: start, filter: [{function: take_first}]}]
""",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with three tasks and their documents."""
    path = tmp_path / "tasks"
    path.mkdir()
    for name, text in TASKS.items():
        (path / name).write_text(text)
    for name, rows in (("choices", CHOICES), ("lines", [{"text": text} for text in LINES])):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gemma(tiny):
    """The tiny experiment with a model that a class of `transformers` can express."""
    mixer = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "window": 4, "qk_norm": True}
    blocks = {"local": {"mixer": mixer, "ffn": {"type": "gated", "hidden": 24}, "norm": "sandwich"}}
    blocks["global"] = {"like": "local", "mixer": {"window": None}}
    tiny["model"] |= {"layers": 2, "pattern": ["local", "global"], "blocks": blocks, "embed_scale": "sqrt_dim"}
    return tiny


def asking(tiny, **options):
    return {**tiny, "evaluate": {"report": {"tasks": {"type": "lm_eval", **options}}}}


def test_likelihoods_and_texts_are_our_own(gemma, folder, tmp_path, recwarn):
    pytest.importorskip("lm_eval")
    spec = resolve(asking(gemma, tasks=["goes_with", "lines", "goes_on"], include=str(folder)))
    dataset, model = prepare(spec.data, 300), new_model(spec.model, 0).eval()
    given = Given(None, None, "report", 32, 4, torch.device("cpu"), 0)
    config, samples = registry.build("evaluator", spec.evaluate.report["tasks"]).config, {}
    with torch.no_grad():
        harness = lm_eval.exported(model, dataset.tokenizer, tmp_path, given, 32)
        results = lm_eval.measured(harness, config, samples)
    begin = dataset.tokenizer.token_to_id(BOS)
    encode = lambda text: dataset.tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731

    for document, sample in zip(CHOICES, samples["goes_with"], strict=True):
        asked = document["question"].rstrip()
        for choice, answer in zip(document["choices"], sample["resps"], strict=True):
            whole, prompt = encode(document["question"] + choice), encode(asked)
            expected = likelihood(model, [begin, *prompt], whole[len(prompt) :])
            assert float(answer[0][0]) == pytest.approx(expected, abs=2e-4)
    right = [
        max(each["resps"], key=lambda answer: float(answer[0][0])) is each["resps"][each["doc"]["answer"]]
        for each in samples["goes_with"]
    ]
    assert results["goes_with"] == (3, results["goes_with"][1]) and results["goes_with"][1]["acc"] == sum(right) / 3

    total = 0.0
    for text, sample in zip(LINES, samples["lines"], strict=True):
        ids = encode(text)
        expected = likelihood(model, [begin], ids[:32])
        for start in range(32, len(ids), 32):  # a further piece has as many of the tokens before it as fit
            end = min(start + 32, len(ids))
            expected += likelihood(model, ids[end - 33 : start], ids[start:end])
        assert float(sample["resps"][0][0]) == pytest.approx(expected, abs=2e-4)
        total += expected
    size = sum(len(text.encode()) for text in LINES)
    assert results["lines"][1]["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-5)

    for text, sample in zip(LINES, samples["goes_on"], strict=True):
        prompt_BT = torch.tensor([[begin, *encode(text[:8])]])
        expected = dataset.tokenizer.decode(generate(model, prompt_BT, 5, temperature=0.0)[0].tolist())
        assert sample["resps"][0][0] == expected


def likelihood(model, before, after):
    """log P(after | before), in nats."""
    ids_1T = torch.tensor([[*before, *after]])
    with torch.no_grad():
        log_p_TV = model(ids_1T)[0].double().log_softmax(-1)
    return float(sum(log_p_TV[len(before) - 1 + i, token] for i, token in enumerate(after)))


def test_metrics_are_those_that_the_files_name(gemma, folder):
    pytest.importorskip("lm_eval")
    spec = resolve(asking(gemma, tasks=["goes_on", "goes_with"], include=str(folder), limit=2))
    (evaluation,) = [each for each in planned(spec) if each.split == "report"]
    dataset, model = prepare(spec.data, 300), new_model(spec.model, 0)
    record = evaluate(evaluation, model, torch.nn.Identity(), dataset, spec, ("id", 0), torch.device("cpu"))
    names = {"report/lm_eval_goes_with_acc", "report/lm_eval_goes_with_acc_norm", "report/lm_eval_goes_on_exact_match_start"}
    assert set(record.values) == names == set(record.metric_info)
    assert {(row["task"], row["documents"]) for row in record.table} == {("goes_with", 2), ("goes_on", 2)}


def test_what_a_task_measures_is_known_before_it_runs(gemma, folder):
    spec = resolve(asking(gemma, tasks=["goes_with", "lines", "goes_on"], include=str(folder)))
    resolved = spec.evaluate.report["tasks"]
    assert resolved["metrics"] == {
        "goes_with": {"acc": "higher", "acc_norm": "higher"},
        "lines": {"bits_per_byte": "lower"},
        "goes_on": {"exact_match,start": "higher"},
    }
    metrics = registry.build("evaluator", resolved).metrics
    assert (
        metrics["lm_eval_lines_bits_per_byte"].compare == "ratio"
        and metrics["lm_eval_goes_on_exact_match_start"].better == "higher"
    )


def test_changed_task_files_are_another_evaluation(gemma, folder):
    asked = asking(gemma, tasks=["lines"], include=str(folder))
    before, again = (planned(resolve(asked))[-1] for _ in range(2))
    (folder / "lines.jsonl").write_text('{"text": "other"}\n')
    assert before.file == again.file != planned(resolve(asked))[-1].file
    evaluator = registry.build("evaluator", before.evaluator)
    dataset = prepare(resolve(asked).data, 300)
    with pytest.raises(DataError, match=r"tasks: its task files changed since the spec was read"):
        evaluator(None, dataset, None)


def test_its_metrics_need_no_files_once_it_is_resolved(gemma, folder):
    resolved = resolve(asking(gemma, tasks=["lines"], include=str(folder))).evaluate.report["tasks"]
    for path in folder.iterdir():
        path.unlink()
    assert list(registry.build("evaluator", resolved).metrics) == ["lm_eval_lines_bits_per_byte"]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"tasks": ["line"]}, r"report\.tasks\.tasks: no file in .* defines the task 'line'; did you mean 'lines'\?"),
        ({"tasks": ["lines"], "include": "no/where"}, r"report\.tasks\.include: no folder no/where"),
        ({"tasks": ["arc"], "include": None}, r"report\.tasks\.metrics: missing for arc, .* e\.g\. \{arc: \{acc: higher\}\}"),
        ({"tasks": []}, r"report\.tasks\.tasks: "),
        ({"tasks": ["lines"], "limit": 0}, r"report\.tasks\.limit: "),
    ],
)
def test_what_cannot_be_asked_is_refused_at_its_key(options, text, gemma, folder):
    with pytest.raises(SpecError, match=text):
        resolve(asking(gemma, **{"include": str(folder), **options}))


def test_a_file_that_is_no_yaml_is_named(gemma, folder):
    (folder / "broken.yaml").write_text("task: [\n")
    with pytest.raises(SpecError, match=r"report\.tasks\.include: .*broken\.yaml cannot be read as YAML"):
        resolve(asking(gemma, tasks=["lines"], include=str(folder)))


def test_without_the_package_the_error_says_how_to_install_it(gemma, folder, monkeypatch):
    monkeypatch.setattr(lm_eval, "PACKAGES", ("no_such_package",))
    with pytest.raises(SpecError) as error:
        plan(asking(gemma, tasks=["lines"], include=str(folder)))
    text = "evaluate.report.tasks.type: lm_eval needs the package no_such_package: pip install -e '.[lm-eval]'"
    assert str(error.value).endswith(text) and "\n" not in str(error.value)


def test_a_model_that_transformers_cannot_express_is_refused(tiny, folder):
    with pytest.raises(SpecError) as error:
        plan(asking(tiny, tasks=["lines"], include=str(folder)))
    text = str(error.value)
    assert "evaluate.report.tasks.type: no class of transformers can express this model; gemma2: blocks.rec: " in text
    assert "\n" not in text
