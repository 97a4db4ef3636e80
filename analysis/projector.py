"""TensorBoard's projector: the vectors that evaluators kept of a run's texts, with the texts (`experiments.record.points_files`).

In a run's folder of logs the projector looks for `projector_config.pbtxt`, which names a table of numbers and one of texts for
each set of points. It reads no file that is elsewhere, so they are copied.
"""

import os
import shutil
from pathlib import Path

from experiments.record import EVALUATIONS, points_files

CONFIG = "projector_config.pbtxt"
VECTORS = ".vectors.tsv"


def kept(run: Path) -> dict[str, tuple[Path, Path]]:
    """{SPLIT.NAME-DIGEST: (vectors, texts)} of a run's evaluations that kept points, by name."""
    stems = [path.name.removesuffix(VECTORS) for path in sorted((run / EVALUATIONS).glob(f"*{VECTORS}"))]
    found = {stem: points_files(run, f"{stem}.json") for stem in stems}
    return {stem: files for stem, files in found.items() if files[1].is_file()}


def write(run: Path, logs: Path) -> None:
    """Copy the points of a run into its folder of logs, and say where they are; nothing where it kept none."""
    points = kept(run)
    if not points:
        return
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    logs.mkdir(parents=True, exist_ok=True)
    config = ProjectorConfig()
    for stem, files in points.items():
        vectors, texts = (Path(shutil.copyfile(file, logs / file.name)) for file in files)
        config.embeddings.add(tensor_name=stem, tensor_path=vectors.name, metadata_path=texts.name)
    (logs / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")


def move(scratch: Path, logs: Path) -> None:
    """Put what `write` wrote below `scratch` in the place of what is below `logs`, the files before what names them."""
    for pattern in ("*.tsv", CONFIG):
        for path in scratch.rglob(pattern):
            place = logs / path.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
