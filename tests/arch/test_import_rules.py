"""Which package may import which (docs/design.md, section 1). Rules that are only written down do not hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("arch", "experiments", "sweeps", "analysis")
HEAVY = {"torch", "lightning", "pytorch_lightning", "optuna"}
MAY_NOT = {"arch": {"experiments", "sweeps", "analysis"}, "experiments": {"sweeps", "analysis"}, "sweeps": {"analysis"}}
# PLAIN: modules without torch, which analysis may import at the top of a module. LAZY: modules that it may import
# inside of a function, which runs only when weights or costs are needed.
PLAIN = {"arch.spec", "arch.model_spec", "arch.errors", "arch.cli", "arch.early", "arch.document", "arch.registry", "arch.units"}
PLAIN |= {
    "arch.words",
    "arch.stacked",
    "arch.terminal",
    "arch.contracts",
    "experiments.files",
    "experiments.metrics",
    "sweeps.folders",
    "sweeps.compare",
    "sweeps.costs",
    "sweeps.stats",
    "sweeps.texts",
}
PLAIN |= {"sweeps.claims.equivalent", "sweeps.failures", "sweeps.comparable", "sweeps.judge", "sweeps.looks", "sweeps.paired"}
PLAIN |= {"sweeps.claims.power_law", "sweeps.contrasts", "sweeps.ladder", "sweeps.catalog", "sweeps.listing", "sweeps.places"}
PLAIN |= {"sweeps.outline"}
LAZY = {"experiments.checkpoint", "arch.model", "arch.cost", "arch.layout", "arch.parameters", "arch.show", "arch.generate"}
TORCHLESS = ["arch.spec", "arch.model_spec", "arch.contracts", "arch.registry", "experiments.spec", "arch.__main__"]


def imports(path):
    """Yield (module, whether it is imported at the top level) for every import of a file.

    `from a import b` counts as a.b if that is a file of ours, else as a. What only a type checker imports is left out.
    """
    tree = ast.parse(path.read_text(), str(path))
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
    typing = [each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"]
    unread = {id(n) for block in typing for n in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inside = (ROOT / whole.replace(".", "/")).with_suffix(".py").exists()
                yield (whole if inside else node.module), id(node) not in inner


FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    for module, at_top in imports(path):
        first = module.partition(".")[0]
        shows = path.name == "__main__.py" and module == "analysis.__main__" and not at_top  # a command shows its report
        assert shows or first not in MAY_NOT.get(package, ()), f"{package} imports nothing of {first}: {module}"
        assert first != "archbench", "archbench.py imports the packages, never the other way"
        if path.name in ("spec.py", "record.py"):
            assert first not in HEAVY, f"{path.name} files import no {first}"
        if package == "sweeps":
            assert first not in ("pandas", "matplotlib") and (first != "scipy" or not at_top), f"sweeps is light: {module}"
        if package == "analysis" and first in PACKAGES and first != "analysis":
            allowed = module.endswith((".spec", ".record")) or module in PLAIN or (not at_top and module in LAZY)
            assert allowed, f"analysis imports spec.py and record.py files only: {module}"


@pytest.mark.parametrize("module", TORCHLESS)
def test_specs_are_read_without_torch(module):
    code = f"import sys, {module}; print([name for name in {sorted(HEAVY)} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
