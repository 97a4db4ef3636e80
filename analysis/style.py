"""The CSS of a report for light and dark screens, narrow ones and print. Figures use the same colour variables."""

import html

from arch.words import visible

CSS = """
:root { --ink: #1c2026; --muted: #6a717b; --grid: #dfe2e7; --paper: #fefefe; --card: #f5f6f8; --accent: #0072b2;
  --bad: #a63d00; --failed: #b3001b; --good: #00694c; --same: #00558a; --open: #6a717b;
  --arm1: #0072b2; --arm2: #d55e00; --arm3: #009e73; --arm4: #cc79a7; --arm5: #e69f00; --arm6: #56b4e9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --muted: #9ea6b2; --grid: #363c46; --paper: #15181d;
  --card: #1e232a; --accent: #56b4e9; --bad: #ff9a5c; --failed: #ff7b86; --good: #4fd1a5; --same: #7cc4f2; --open: #9ea6b2;
  --arm1: #4aa3e0; --arm2: #f0823c; --arm3: #2fc79a; --arm4: #e09cc4; --arm5: #f2b93a; --arm6: #8fd0f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 40px 28px 72px; }
header, .answer { max-width: 1024px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 20px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 0 0 12px; }
main { overflow-wrap: break-word; } .name, .answer, .heading, .where { overflow-wrap: anywhere; }
.where { color: var(--muted); font-size: 14px; margin: 0 0 6px; }
.answer { background: var(--card); border-left: 4px solid var(--accent); border-radius: 0 8px 8px 0; padding: 18px 22px; }
.answer > p { font-size: 18px; line-height: 1.5; margin: 0; }
.answer ul { margin: 12px 0 0; padding: 0; list-style: none; color: var(--muted); font-size: 15px; }
.answer li + li { margin-top: 6px; }
.note { color: var(--muted); font-size: 13.5px; max-width: 86ch; margin-top: 10px; }
.warning { color: var(--bad); font-size: 15px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 9px 12px 9px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; line-height: 1.3; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
.results th, .results td { padding-right: 8px; }
.results td:last-child, .results th:last-child { padding-right: 0; }
.results tbody tr:first-child { background: var(--card); }
.results tbody th { padding-left: 8px; }
small { display: block; color: var(--muted); font-size: 12.5px; font-weight: 400; }
.compact { width: auto; } .compact th, .compact td { padding: 5px 26px 5px 0; }
.specs td, .specs tbody th { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; font-weight: 400; }
.badge { display: inline-block; border: 1px solid; border-radius: 999px; padding: 0 9px; font-size: 12.5px; font-weight: 600;
  white-space: nowrap; color: var(--open); }
.badge.worse { color: var(--bad); } .badge.better { color: var(--good); } .badge.no-difference { color: var(--same); }
.badge.supported, .badge.reproduced { color: var(--good); } .badge.contradicted { color: var(--bad); }
.badge.unstable, .badge.failed, .badge.not-comparable { color: var(--failed); }
.failed { color: var(--failed); }
.badge.baseline { border-color: transparent; padding: 0; font-weight: 400; }
figure { margin: 0; max-width: 1024px; } details + figure { margin-top: 26px; }
.still { overflow-x: auto; } .still svg, .still img { display: block; width: 100%; min-width: 540px; height: auto; }
.chart { display: none; } .drawn .chart { display: block; } .drawn .still { display: none; }
.panels { display: grid; gap: 18px 22px; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.heading { font-size: 14px; font-weight: 600; line-height: 1.35; margin: 0 0 6px; }
.axis { color: var(--muted); font-size: 12.5px; line-height: 1.35; margin: 0; } .below { text-align: center; }
.names { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 0 0 10px; }
.name { display: inline-flex; align-items: center; gap: 7px; border: 0; padding: 3px 4px; background: none; color: var(--ink);
  font: inherit; font-size: 13.5px; text-align: left; } button.name { cursor: pointer; }
button.name[aria-pressed=false] { opacity: .4; text-decoration: line-through; } button.name:hover { background: var(--card); }
.scale { display: flex; align-items: center; gap: 8px; margin: 0 0 10px; color: var(--muted); font-size: 12.5px; }
.scale i { flex: 0 1 220px; height: 10px; border-radius: 2px; }
.name i { width: 22px; border-top: 3px var(--dash, solid) var(--colour); } .name i.none { width: 0; border: 5px solid var(--colour);
  border-radius: 9px; } .name i.dashed { --dash: dashed; } .name i.dotted { --dash: dotted; } .name i.dotdash { --dash: double; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; margin: 0; font-size: 14.5px; }
dl { max-width: 1024px; } dt { color: var(--muted); } dd { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
code, pre { font: 13.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
code { background: var(--card); border: 1px solid var(--grid); border-radius: 4px; padding: 1px 5px; overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: 6px; padding: 12px 14px; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--muted); font-size: 14.5px; }
@media (max-width: 640px) { .panels { grid-template-columns: minmax(0, 1fr); }
  .results th[scope=row] { min-width: 112px; max-width: 136px; overflow-wrap: anywhere; }
  .results td small { max-width: 118px; } .results th, .results td { padding-right: 9px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 8px; } main { padding: 24px 16px 48px; } }
@media print { .drawn .still { display: block; } .still svg, .still img { min-width: 0; } .drawn .chart { display: none; }
  :root { --ink: #000; --muted: #444; --grid: #ccc; --paper: #fff; --card: #f4f4f4; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } .scroll { overflow: visible; } table { font-size: 8.5pt; }
  section, figure, tr { break-inside: avoid; } h2 { margin-top: 20pt; } }
"""


# The page of a study that is watched: loaded anew, unless somebody has just touched it.
AGAIN = """<noscript><meta http-equiv=refresh content={seconds}></noscript><script>
{{ let touched = 0; for (const each of ["pointerdown", "wheel", "keydown"]) addEventListener(each, () => touched = Date.now());
setInterval(() => Date.now() - touched > 60000 && location.reload(), {seconds}000); }}
</script>"""


def page(title, parts, again=None):
    """A whole page as HTML text that needs no other file. parts: its sections as HTML; empty ones are left out.

    Control characters are shown, not written. again: seconds after which the page loads itself anew; None: never.
    """
    content = visible("\n".join(part for part in parts if part))
    if "<svg" in content:
        from analysis import drawing

        content = drawing.shared_glyphs(content)
    charts = ""
    if "class=live>" in content:
        from analysis import live  # with matplotlib, which a page without figures does not need

        charts = live.library()
    reload = AGAIN.format(seconds=again) if again else ""
    return (
        f"<!doctype html>\n<html lang=en>\n<head><meta charset=utf-8><title>{visible(html.escape(title))}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><style>{CSS}</style>{reload}</head>\n"
        f"<body><main>\n{content}\n</main>{charts}</body>\n</html>\n"
    )
