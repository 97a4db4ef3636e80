"""Run by the Python of another release of transformers: what does it compute from exported folders?

Each folder of the one that is given holds an export and `expected.safetensors`: tokens, and the logits (of a trunk: hidden
states) of another release. Prints the release and {folder: the largest difference as a part of the largest logit, or the error}
as JSON. It uses nothing of this project.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()


def difference(folder):
    """The largest difference from what is expected, as a part of the largest value, or the error's class and message."""
    expected = load_file(folder / "expected.safetensors")
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    try:
        model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", torch_dtype=torch.float32).eval()
        with torch.no_grad():
            found = model(expected["tokens"], use_cache=False)[0]
        return ((found - expected["result"]).abs().max() / expected["result"].abs().max()).item()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/config.json"))
print(json.dumps({"release": transformers.__version__, "found": {folder.name: difference(folder) for folder in folders}}))
