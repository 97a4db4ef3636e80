"""Whether a page needs anything but itself."""

import base64
import gzip
import json
import re

CLOSED = re.compile(r"""(?:src|href|srcset|data|action)\s*=\s*["']?\s*([^"'\s>]+)|url\(([^)]*)\)|@import""")
# What a page may run: the charts' data, their library, and its own few lines.
SCRIPTS = re.compile(r"<script( type='text/plain' class=live| type='text/plain' id=bokeh|)>.*?</script>", re.DOTALL)


def charts_of(page):
    """The charts of a page, unpacked."""
    return [json.loads(gzip.decompress(base64.b64decode(data))) for data in re.findall(r"class=live>(.*?)</script>", page)]


def assert_self_contained(page):
    """Nothing is fetched; what scripts there are is the page's own, and the library stands in it once."""
    assert page.count("id=bokeh>") <= 1
    bare = SCRIPTS.sub("", page)
    for match in CLOSED.finditer(bare):
        target = (match[1] or match[2] or "").strip("\"'")
        assert target.startswith("#"), match[0]
    assert "<script" not in bare and "<link" not in bare and "http://" not in bare and "https://" not in bare
