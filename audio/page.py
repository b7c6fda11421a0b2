"""The page that a report's sections stand on: one HTML file, its style inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audio.files import write_atomically
from audio.markup import el, text


@dataclass(frozen=True)
class Section:
    """One part of the page: a title (none for the headline), a lead sentence, and markup."""

    title: str
    body: str
    lead: str = ""


def write_report(path: Path, *, title: str, sections: Sequence[Section]) -> None:
    """Write the page to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(title, sections).encode("utf-8"))


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the whole page as HTML; sections without a title go to the head of it."""
    named = [s for s in sections if s.title]
    anchors = _anchors([s.title for s in named])
    links = [el("a", text(s.title), href=f"#{a}") for s, a in zip(named, anchors, strict=True)]
    parts = [
        el(
            "section",
            el("div", el("h2", text(s.title)), el("p", text(s.lead)) if s.lead else "",
               class_="lead"),
            el("div", s.body, class_="content"),
            id=anchor,
        )
        for s, anchor in zip(named, anchors, strict=True)
    ]  # fmt: skip
    head = "".join(s.body for s in sections if not s.title)
    nav = el("nav", *links, aria_label="Sections") if links else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # the browser itself then refuses anything that would leave the page
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + el("header", el("p", "melbandit", class_="mark"), el("h1", text(title)), head, nav)
        + "\n"
        + el("main", "\n".join(parts))
        + "\n"
        + el("footer", el("p", "Written by melbandit. This page is one file and needs no network."))
        + "\n</body>\n</html>\n"
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        seen[slug] = seen.get(slug, 0) + 1
        out.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
    return out


# Blue and orange are told apart by every kind of colour vision (Okabe & Ito 2008); each is
# darkened or lightened until text in it reaches a contrast of 4.5 on its ground.
STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf6; --card: #ffffff; --ink: #1c2230; --soft: #5c6374; --line: #e1ded4;
  --blue: #1d5fa9; --orange: #b4500b; --wash: #dfe9f5; --over: #ffffff; --accent: #7a2a80; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #13161c; --card: #1a1e26; --ink: #e9e6df; --soft: #a2a8b6; --line: #303642;
  --blue: #7db4f0; --orange: #f2a35e; --wash: #24344a; --over: #10141b; --accent: #e59be0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans",
  sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
body::before { content: ""; display: block; height: 6px; background: linear-gradient(to right,
  #1f114b, #57147d, #8c2980, #c33b74, #f0605d, #fd9f6c, #fddd9f); }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 2rem; }
header { padding-top: 2.75rem; padding-bottom: 1.5rem; }
h1, h2, .headline { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L",
  P052, Georgia, "Liberation Serif", serif; font-weight: 500; line-height: 1.2; margin: 0; }
.mark { margin: 0 0 .25rem; color: var(--accent); font-size: .8rem; font-weight: 600;
  letter-spacing: .14em; text-transform: uppercase; }
h1 { font-size: 1.5rem; }
.headline { font-size: clamp(1.35rem, 3.2vw, 2.1rem); margin: 2rem 0 .75rem; max-width: 46rem;
  text-wrap: balance; }
.headline strong { font-size: clamp(3.4rem, 9vw, 5.75rem); font-weight: 500; line-height: 1;
  letter-spacing: -.02em; display: block; margin-bottom: .35rem; white-space: nowrap; }
.detail { color: var(--soft); margin: 0; max-width: 46rem; }
nav { display: flex; flex-wrap: wrap; gap: .35rem 1.4rem; margin-top: 2.25rem; font-size: .9rem; }
nav a { color: var(--blue); text-decoration: none; border-bottom: 1px solid var(--line); }
nav a:hover { border-color: currentColor; }
section { display: grid; grid-template-columns: 13.5rem minmax(0, 1fr); gap: 1rem 2.5rem;
  padding: 2.25rem 0 2.5rem; border-top: 1px solid var(--line); }
h2 { font-size: 1.4rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; display: flex; align-items: baseline;
  justify-content: space-between; flex-wrap: wrap; gap: 0 1rem; }
.lead p { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; }
.content > * + * { margin-top: 1.25rem; }
.content > :first-child { margin-top: 0; }
figure { margin: 0; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
.soft, .empty { color: var(--soft); }
p.soft { font-size: .85rem; margin-block: 0; }
code, pre { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas,
  "Liberation Mono", monospace; font-size: .875em; }
td code, .chip code { overflow-wrap: anywhere; }
td:has(.chip) { min-width: 11rem; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  margin: .35rem 0 0; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }

table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: .4rem; }
tbody th { min-width: 5.5rem; }
th, td { text-align: left; vertical-align: baseline; font-weight: 400;
  padding: .38rem 1rem .38rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom;
  border-bottom-color: var(--soft); }
th:last-child, td:last-child { padding-right: .3rem; }
.n { text-align: right; white-space: nowrap; }
td.bar { background: linear-gradient(to right, var(--wash) var(--share), transparent 0)
  right .3rem top .42rem / 5.5rem 1.35em no-repeat; min-width: 6.2rem; padding-right: .6rem; }
mark { background: var(--wash); color: inherit; font-weight: 600; padding: .1rem .4rem;
  margin-left: -.4rem; border-radius: 4px; }
.chip { display: inline-block; background: var(--wash); border-radius: 999px; margin: .1rem .3rem
  .1rem 0; padding: .05rem .65rem; font-size: .82rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
summary { cursor: pointer; padding: .6rem 1rem; font-size: .9rem; color: var(--blue); }
details[open] > summary { border-bottom: 1px solid var(--line); }
details > :not(summary) { margin: 1rem; }

.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
.whole { white-space: nowrap; }
.tile, .card, .callout { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 1rem 1.15rem; }
.tile p { margin: 0; }
.tile .name { font-size: .85rem; color: var(--soft); }
.tile .name::first-letter { text-transform: uppercase; }
.tile .value { font-size: 1.9rem; line-height: 1.3; }
.callout { border-left: 4px solid var(--blue); padding: 1.35rem 1.5rem; }
.callout > * + *, .callout > * + p.soft { margin-top: 1.1rem; }
.callout table { width: auto; min-width: min(100%, 30rem); }
.words { font-size: 1.08rem; margin: 0; max-width: 42rem; }
.say { margin: 0; max-width: 42rem; }
.content > .say + .say { margin-top: .5rem; }
.content > * + .legend, .content > * + p.soft { margin-top: 1.25rem; }
.share-note { font-weight: 400; font-size: .8rem; }
.with { font-weight: 400; }
.pair, .cards, .columns, .gallery { display: grid; gap: 1.25rem; }
.pair, .cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20.5rem), 1fr)); }
.cards { align-items: start; }
.columns { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.75rem; }
.whisker { min-width: 0 !important; margin: .2rem 0 .3rem; }
.seeds { min-width: 8.5rem; text-align: right; color: var(--soft); }
.weight { font-weight: 400; font-size: .8rem; color: var(--soft); padding-left: 3.6rem;
  background: linear-gradient(to right, var(--accent) var(--share), var(--line) 0)
  left center / 3rem 4px no-repeat; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; font-size: .85rem;
  color: var(--soft); }
.legend span { display: inline-flex; align-items: center; gap: .45rem; }
.legend i { width: .8rem; height: .8rem; border-radius: 50%; flex: none; }
.legend .blue { background: var(--blue); border-radius: 3px; }
.legend .orange { background: var(--orange); border-radius: 3px; }
.legend .disc { background: var(--blue); }
.legend .grey { background: var(--soft); }
.legend .seed { background: var(--soft); opacity: .5; width: .55rem; height: .55rem; }
.legend .ring { border: 2px solid var(--ink); }
.legend .blue-ring { border: 2px solid var(--blue); }
.legend .band { background: var(--orange); opacity: .3; border-radius: 3px; }
.legend .light { background: var(--blue); opacity: .3; border-radius: 3px; }
.legend .blue-stroke { height: 2.5px; width: 1.4rem; background: var(--blue); border-radius: 0; }
.legend .ink-stroke { height: 2px; width: 1.4rem; background: var(--ink); border-radius: 0; }
.legend .soft-stroke { height: 2px; width: 1.4rem; background: var(--soft); opacity: .5;
  border-radius: 0; }
.legend .hollow { border: 1.5px solid var(--soft); }
.legend .faint { background: var(--soft); opacity: .45; }
.legend .diamond { background: var(--ink); border-radius: 0; transform: rotate(45deg) scale(.8); }
.legend .stroke { height: 2px; width: 1.4rem; background: var(--orange); border-radius: 0; }
.legend .cross { border-radius: 0; clip-path: polygon(0 15%, 15% 0, 50% 35%, 85% 0, 100% 15%,
  65% 50%, 100% 85%, 85% 100%, 50% 65%, 15% 100%, 0 85%, 35% 50%); background: var(--orange); }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30%, 14rem), 1fr));
  gap: .9rem; }
.shots figcaption { font-size: .78rem; color: var(--soft); line-height: 1.35; }
.picture { position: relative; }
.picture img { display: block; width: 100%; height: auto; aspect-ratio: 5 / 2; border-radius: 5px;
  object-fit: fill; }
.picture span { position: absolute; left: .3rem; font-size: .65rem; line-height: 1; color: #fff;
  text-shadow: 0 0 3px #000, 0 0 3px #000, 0 0 2px #000; }
.shots figure + figure .picture span { display: none; }
.picture .high { top: .3rem; }
.picture .low { bottom: .3rem; }
.times { display: flex; justify-content: space-between; font-size: .7rem; color: var(--soft);
  line-height: 1.5; }

svg text { font-size: 12px; fill: var(--ink); }
svg text.soft { fill: var(--soft); font-size: 11.5px; }
svg text.tiny { font-size: 10px; }
svg .end { text-anchor: end; }
svg .mid { text-anchor: middle; }
svg .strong { font-weight: 700; }
svg .over { fill: var(--over); }
.grid, .axis, .mark-line, .rail { stroke: var(--line); fill: none; }
.axis { stroke: var(--soft); }
.rail { stroke-width: 2; stroke-linecap: round; }
path.mark { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s1 { stroke: var(--blue); } .t1 { fill: var(--blue) !important; }
.s2 { stroke: var(--orange); } .t2 { fill: var(--orange) !important; }
.hit { fill: transparent; }
.hit:hover { fill: var(--ink); }
.trial.agent { fill: var(--blue); fill-opacity: .75; }
.trial.random { fill: var(--paper); fill-opacity: .5; stroke: var(--soft); stroke-width: 1.4; }
.trial.default { fill: var(--ink); }
.trial.pruned { fill: var(--soft); fill-opacity: .4; }
.trial.replicate { fill: var(--card); stroke: var(--blue); stroke-width: 1.6; }
.trial.failed { stroke: var(--orange); stroke-width: 1.6; fill: none; }
.band { fill: var(--orange); fill-opacity: .14; stroke: none; }
.curve path { fill: none; stroke: var(--soft); stroke-opacity: .4; stroke-width: 1.2; }
.curve.pruned path { stroke: var(--orange); stroke-opacity: .45; }
.curve.pruned .end-cross { stroke-opacity: 1; }
.curve.default path { stroke: var(--ink); stroke-opacity: 1; stroke-width: 2; }
.curve.best path { stroke: var(--blue); stroke-opacity: 1; stroke-width: 2.5; }
.curve:hover path { stroke-opacity: 1; stroke-width: 3; }
.share.together { fill: var(--blue); fill-opacity: .28; }
.share.alone { fill: var(--blue); }
.trial:hover { stroke: var(--ink); stroke-width: 2; }
path.bar { stroke: var(--soft); stroke-width: 2; stroke-linecap: round; }
path.bar.recommended, path.bar.both { stroke: var(--blue); stroke-width: 2.5; }
.dot { fill: var(--soft); }
.dot.recommended { fill: var(--blue); }
.dot.default { fill: var(--card); stroke: var(--ink); stroke-width: 2; }
.dot.both { fill: var(--blue); stroke: var(--ink); stroke-width: 2; }
.seed { fill: var(--soft); fill-opacity: .5; }
.ground { fill: var(--card); stroke: var(--line); }
.hit-cell { fill: var(--blue); } .miss-cell { fill: var(--orange); }
.best { stroke: var(--ink); stroke-width: 2; }

footer p { color: var(--soft); font-size: .8rem; margin: 0; padding: 1.5rem 0 3rem;
  border-top: 1px solid var(--line); }
@media (max-width: 60rem) {
  header, main, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  section { grid-template-columns: minmax(0, 1fr); padding: 1.75rem 0 2rem; }
  .callout { padding: 1rem; }
}
@media (max-width: 40rem) {
  th, td { padding-right: .6rem; }
  table { font-size: .84rem; }
  td.bar { background: none; min-width: 0; }
  tbody th { min-width: 4rem; }
  .tiles { gap: .7rem; }
  svg.wide text, svg.wide text.soft { font-size: 14px; }
  svg.wide text.tiny { font-size: 12px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #111; --soft: #555;
    --line: #ccc; --blue: #1d5fa9; --orange: #b4500b; --wash: #dfe9f5; --over: #fff;
    --accent: #7a2a80; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; }
  nav, summary { display: none; }
  section { display: block; padding: 1.25rem 0; }
  .lead { margin-bottom: .75rem; break-after: avoid; }
  details { border: 0; } details > :not(summary) { margin: 0; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  .scroll { overflow: visible; } svg { min-width: 0 !important; }
  figure, .tile, .card, tr, .gallery > div { break-inside: avoid; }
}
"""
