"""Event files of TensorBoard, written whole: what SummaryWriter does for a run that goes on, for one that is over.

torch's writer hands each event through a queue to a thread, which sums it up byte by byte in Python. For the 280,000 events of
1,500 runs that took more than half of the time. Here a file is put together in memory, and its checksums are computed all at
once. The format is that of TFRecord: the length (uint64), its checksum, the event, its checksum (CRC-32C, masked).
"""

from __future__ import annotations

import io
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

POLYNOMIAL = 0x82F63B78  # of CRC-32C (Castagnoli), the lowest power first
NAME = "events.out.tfevents."
ROWS = 4096  # so many bytes of a text are summed up at once


class Events:
    """Context manager: the events of one run, in memory; at its end, one file in `folder`.

    purge: the step from which on TensorBoard is to forget what earlier files of the run said; None: there are none.
    """

    def __init__(self, folder: Path, purge: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.folder, self.events = folder, list[bytes]()
        self.add_event(Event(file_version="brain.Event:2", wall_time=time.time()))
        if purge is not None:
            self.add_event(Event(step=purge, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{NAME}{int(time.time()):010d}.archbench").write_bytes(records(self.events))

    def add_event(self, event: Any) -> None:
        """Add an `event_pb2.Event`."""
        self.events.append(event.SerializeToString())

    def add_summary(self, summary: Any, step: int = 0, wall_time: float | None = None) -> None:
        """Add a `summary_pb2.Summary` at a step; by default of now."""
        from tensorboard.compat.proto.event_pb2 import Event

        self.add_event(Event(summary=summary, step=int(step), wall_time=time.time() if wall_time is None else wall_time))

    def add_scalar(self, tag: str, value: float, step: int, wall_time: float | None = None) -> None:
        """Add one point of a curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step, wall_time)

    def add_text(self, tag: str, text: str, step: int = 0) -> None:
        """Add a text in Markdown, for the tab Text."""
        from tensorboard.plugins.text.metadata import create_summary_metadata

        self._add_tensor(f"{tag}/text_summary", text.encode(), create_summary_metadata("", ""), step, shape=[1])

    def add_figure(self, tag: str, figure: Figure) -> None:
        """Add a picture of a figure, as PNG."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=figure.dpi)
        width, height = (int(side) for side in figure.canvas.get_width_height())
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=picture.getvalue())
        self.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]))

    def add_margins(self, layout: dict[str, dict[str, list[str]]]) -> None:
        """Add the layout of the tab Custom Scalars: {category: {chart: the tags of its line, lower and upper edge}}."""
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        categories = []
        for title, charts in layout.items():
            margins = {
                chart: layout_pb2.MarginChartContent.Series(value=tags[0], lower=tags[1], upper=tags[2])
                for chart, tags in charts.items()
            }
            shown = [
                layout_pb2.Chart(title=chart, margin=layout_pb2.MarginChartContent(series=[series]))
                for chart, series in margins.items()
            ]
            categories.append(layout_pb2.Category(title=title, chart=shown))
        content = layout_pb2.Layout(category=categories).SerializeToString()
        self._add_tensor(metadata.CONFIG_SUMMARY_TAG, content, metadata.create_summary_metadata(), 0, shape=[])

    def _add_tensor(self, tag: str, content: bytes, metadata: Any, step: int, shape: list[int]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        form = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape])
        tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=form)
        self.add_summary(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]), step)


def records(events: list[bytes]) -> bytes:
    """The bytes of a TFRecord file of these events."""
    sums = checksums(events)
    lengths = [len(event).to_bytes(8, "little") for event in events]
    of_lengths = dict(zip(lengths, checksums(lengths), strict=True))
    return b"".join(
        part
        for event, length, masked in zip(events, lengths, sums, strict=True)
        for part in (length, of_lengths[length], event, masked)
    )


def checksums(texts: list[bytes]) -> list[bytes]:
    """The masked CRC-32C of each text of at least 4 bytes, as TFRecord stores it.

    The sum is linear: every byte adds what its value adds at its distance from the end (a table), so all bytes of all texts
    are looked up at once. A sum starts as if the first four bytes were inverted, and goes on as if it were added to the next
    four; so of each text the last ROWS bytes are looked up with the others, and what is before them by itself.
    """
    if not texts:
        return []
    lasts = [text if len(text) <= ROWS else _after(text) for text in texts]
    content = np.frombuffer(b"".join(lasts), dtype=np.uint8).copy()
    lengths = np.array([len(text) for text in lasts])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    for i in range(4):
        content[starts + i] ^= 0xFF
    added = _table()[np.repeat(ends, lengths) - 1 - np.arange(len(content)), content]
    sums = ~np.bitwise_xor.reduceat(added, starts)
    masked = ((sums >> np.uint32(15)) | (sums << np.uint32(17))) + np.uint32(0xA282EAD8)
    return [each.tobytes() for each in masked.astype("<u4")]


def _after(text: bytes) -> bytes:
    """A text of at most ROWS bytes that has the same sum as a longer one."""
    while len(text) > ROWS:
        head = np.frombuffer(text[: ROWS - 4], dtype=np.uint8).copy()
        head[:4] ^= 0xFF
        state = np.bitwise_xor.reduce(_table()[np.arange(len(head) - 1, -1, -1), head])
        # The next text starts with its first four bytes inverted: take that back here.
        following = int.from_bytes(text[ROWS - 4 : ROWS], "little") ^ int(state) ^ 0xFFFFFFFF
        text = following.to_bytes(4, "little") + text[ROWS:]
    return text


@cache
def _table() -> np.ndarray:
    """(ROWS, 256): what a byte of each value adds to the sum of a text, by how many bytes follow it."""
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = np.where(first & 1, (first >> 1) ^ np.uint32(POLYNOMIAL), first >> 1).astype(np.uint32)
    table = np.empty((ROWS, 256), dtype=np.uint32)
    table[0] = first
    for i in range(1, ROWS):
        table[i] = (table[i - 1] >> 8) ^ first[table[i - 1] & 0xFF]
    return table
