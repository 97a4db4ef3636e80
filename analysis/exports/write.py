"""`archbench report DIR --to FORMAT`: a study or a run in the form of another program, in a folder of local files."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from analysis.exports import files, mlflow_local, wandb_offline
from analysis.exports.runs import Exported, exported
from arch.errors import DataError
from experiments.files import of

FOLDER = "export"
FORMATS: dict[str, Callable[[Exported, Path, Path], None]] = {
    "csv": lambda what, folder, final: files.csv(what, folder),
    "parquet": lambda what, folder, final: files.parquet(what, folder),
    "latex": lambda what, folder, final: files.latex(what, folder),
    "markdown": lambda what, folder, final: files.markdown(what, folder),
    "wandb-offline": lambda what, folder, final: wandb_offline.write(what, folder),
    "mlflow": mlflow_local.write,
}
HINTS = {"wandb-offline": wandb_offline.hint, "mlflow": mlflow_local.hint}


def write(folder: Path | str, form: str, out: Path | None = None) -> tuple[Path, str]:
    """Write the export; returns its folder and what to do with it, in words. out: by default DIR/export/FORMAT.

    The folder is replaced whole. One that somebody named and that holds something else is refused: DataError.
    """
    final = out or Path(folder) / FOLDER / form
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: it is there already; expected a new folder", key=None)
    what = exported(folder)
    scratch = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        scratch.mkdir(parents=True)
        FORMATS[form](what, scratch, final)
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
    except OSError as error:
        raise of(error, final) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # not empty, as it should be
            final.parent.rmdir()
    return final, HINTS[form](final) if form in HINTS else ""
