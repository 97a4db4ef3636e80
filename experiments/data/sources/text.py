"""Your own text files: plain text, JSON lines, JSON, CSV, TSV or Parquet."""

import glob
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from arch.errors import DataError
from arch.registry import source
from arch.spec import List, Spec
from experiments.data import text_rows
from experiments.data.left_out import LeftOut
from experiments.data.plain_text import BOM, DECOMPRESS, HEAD, read_text, reads_as_text

# {ending: how its texts are read}; a file of any other ending is one text.
ROWS = {
    ".jsonl": text_rows.json_lines,
    ".ndjson": text_rows.json_lines,
    ".jsonlines": text_rows.json_lines,
    ".json": text_rows.json_file,
    ".csv": text_rows.comma_separated,
    ".tsv": text_rows.tab_separated,
    ".tab": text_rows.tab_separated,
}
PARQUET = (".parquet", ".pq")
# Endings of files that hold texts in a form that is not read here. Without this, some would be read as prose.
NOT_READ = (
    *(".zip", ".tar", ".tgz", ".7z", ".rar"),
    *(".arrow", ".feather", ".orc", ".avro", ".h5", ".hdf5", ".npy", ".npz", ".pkl", ".pickle", ".tfrecord"),
    *(".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".xls", ".xlsx", ".ods", ".ppt", ".pptx"),
    *(".sqlite", ".sqlite3", ".warc", ".wet", ".wat", ".safetensors", ".gguf"),
)
# What may follow such an ending: a compression that is not read here, a number, a part of a download.
MORE = r"\.(br|lzma|sz|z|snappy|lz|lzo|bak|old|orig|tmp|part.*|crdownload|\d+)"
READ = "text, .jsonl, .ndjson, .json, .csv, .tsv or .parquet, also compressed (.gz .bz2 .xz .zst .lz4)"


@source
class Text:
    """One document per file, per line of a `.jsonl` or `.ndjson` file, or per row of a `.csv`, `.tsv` or `.parquet` file.

    A `.json` file holds a list of objects, one object, or an object per line. Files may be compressed (`.gz`, `.bz2`, `.xz`,
    `.zst`, `.lz4`). A corpus is split by document, so one big text file needs a `separator`. A byte order mark at the
    beginning of a file is no text. Files, rows and cells without text are left out; a run's record counts them.
    """

    class Config(Spec):
        """`files`: paths, folders and globs (`**` matches subfolders), relative to the working folder.

        Files are read in this order, those of a glob or a folder sorted. Of a folder, every file that holds text is read,
        in subfolders too, but none that is hidden. `field`: the key or column that holds the text.
        `separator`: splits every text into documents and is removed; "\\n\\n" splits at blank lines, whatever ends a line.
        """

        files: Annotated[List[str], Field(min_length=1)]
        field: str = "text"
        separator: Annotated[str, Field(min_length=1)] | None = None

    def __init__(self, config):
        self.config = config
        self.left_out = LeftOut()

    def documents(self):
        """Yields (name, text). A name is `FILE`, `FILE:LINE` or `FILE[ROW]`, with `#PIECE` if a text was split.

        Raises DataError that names the file and what was expected.
        """
        self.left_out.reasons.clear()
        self.left_out.remarks.clear()
        cut, separator = 0, self.config.separator
        for path in self.files():
            for name, text in self._texts(path):
                pieces = [text] if separator is None else _at_line_ends(separator).split(text)
                cut += len(pieces) - 1
                for number, piece in enumerate(pieces):
                    if piece.strip():
                        yield (name if len(pieces) == 1 else f"{name}#{number}"), piece
        if separator is not None and not cut:
            self.left_out.remarks.append(_never_cut(separator))

    def files(self):
        """Every file that `documents` reads, each once. Raises DataError."""
        found: dict[Path, None] = {}
        for pattern in self.config.files:
            path = Path(pattern).expanduser()
            if path.is_dir():
                texts, others = _inside(path)
                if not texts:
                    raise DataError(f"{pattern}: a folder without a file of text; expected {READ}")
                self.left_out.folders[pattern] = [str(each.relative_to(path)) for each in texts]
                for other in others:
                    self.left_out.add("links to folders" if other.is_dir() else "files of another kind", str(other))
                found |= dict.fromkeys(texts)
                continue
            # A path that exists is taken literally, even if it contains brackets.
            matches = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))
            files = [match for match in matches if match.is_file()]
            if not files:
                raise DataError(f"no file matches {pattern!r} (looked from {Path.cwd()})")
            found |= dict.fromkeys(files)
        return list(found)

    def _texts(self, path):
        """(name, text) of a file's texts, without those that are blank or null."""
        kind = ending_of(path)
        if kind in NOT_READ or _is_renamed(path):
            ending = "".join(path.suffixes[-2:]) if _is_renamed(path) else kind
            raise DataError(f"{path}: files that end in {ending} are not read; expected {READ}")
        rows: Iterable[text_rows.Row]
        if path.is_file() and not path.stat().st_size:
            self.left_out.add("empty files", str(path))
            return
        if kind in PARQUET:
            rows = text_rows.parquet(path, self.config.field)
        else:
            text = read_text(path).removeprefix(BOM)
            if not text.strip():
                self.left_out.add("empty files", str(path))
                return
            read = ROWS.get(kind)
            rows = read(path, text, self.config.field) if read else [(str(path), text)]
            if read is None and _is_object(text.partition("\n")[0]):
                self.left_out.remarks.append(f"{path} begins like JSON lines, but its name does not end so: it is read as one text")
        for name, value in rows:
            if value is not None and value.strip():
                yield name, value
            else:
                self.left_out.add("null rows" if value is None else "rows without text", name)


def ending_of(path):
    """The ending that says what a file holds, in small letters: `.jsonl` of `A.JSONL.gz`."""
    packed = path.suffix.lower() in DECOMPRESS
    return (Path(path.stem).suffix if packed else path.suffix).lower()


def _is_renamed(path):
    """Whether a name goes on after an ending of `ROWS` or PARQUET: `a.jsonl.br`, `a.csv.1`, `a.parquet.part`."""
    within = Path(path.stem).suffix.lower()
    return (within in ROWS or within in PARQUET) and re.fullmatch(MORE, path.suffix.lower()) is not None


def _is_object(line):
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _inside(folder):
    """(files that hold text; files that do not, and links to folders, which are not followed) of a folder and its subfolders.

    Sorted, without hidden ones.
    """
    paths = (path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    found = [path for path in sorted(paths, key=Path.as_posix) if path.is_file() or path.is_symlink()]
    texts = [path for path in found if path.is_file() and _holds_text(path)]
    return texts, sorted({*found} - {*texts})


def _holds_text(path):
    kind = ending_of(path)
    if kind in NOT_READ or _is_renamed(path):
        return False
    if kind in ROWS or kind in PARQUET or path.suffix.lower() in DECOMPRESS:
        return True
    about = path.stat()
    return _begins_as_text(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1 << 20)  # a study asks for the files of a source once per arm
def _begins_as_text(path, size, changed):
    try:
        with open(path, "rb") as file:
            return reads_as_text(file.read(HEAD))
    except OSError:
        return True  # reading it then says why not


def _at_line_ends(separator):
    r"""A pattern for a separator in which each \n is also \r\n."""
    return re.compile(r"\r?\n".join(re.escape(part) for part in separator.split("\n")))


def _never_cut(separator):
    written = "; in YAML, only double quotes make \\n the end of a line" if "\\n" in separator else ""
    return f"data.source.separator: {separator!r} is nowhere in the texts, so none was cut{written}"
