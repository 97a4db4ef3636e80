"""Pictures that models were shown, with what they said: of each arm those of its first seed, embedded in the page."""

import html
from collections.abc import Iterable, Sequence

from analysis.evaluated import Evaluated


def section(found: Sequence[Evaluated], arms: Iterable[str]) -> str:
    """A section of a report, as HTML text; empty where no evaluation has pictures."""
    shown = []
    for arm in arms:
        for each in found:
            with_pictures = [(seed, record) for seed, record in sorted(each.records.get(arm, {}).items()) if record.pictures]
            if with_pictures:
                seed, record = with_pictures[0]
                figures = "".join(
                    f'<figure style="display: inline-block; margin: 0 18px 12px 0"><img style="image-rendering: pixelated" '
                    f'height=96 src="data:image/png;base64,{html.escape(picture.png)}" alt="{html.escape(picture.text)}">'
                    f"<figcaption>{html.escape(picture.text)}</figcaption></figure>"
                    for picture in record.pictures
                )
                shown.append(f"<h3>{html.escape(f'{arm}, seed {seed}: {each.key}')}</h3>{figures}")
    return f"<section><h2>What models read in pictures</h2>{''.join(shown)}</section>" if shown else ""
