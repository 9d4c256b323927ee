"""How the HTML page looks: its frame and its style sheet, light and dark. Figure colours are those of figure.py."""

from string import Template

STYLE = """
:root { color-scheme: light dark; --ink:#1d2433; --muted:#5d6675; --grid:#e3e6eb; --paper:#ffffff; --back:#f5f6f8;
  --greedy:#0067a6; --majority:#b54708; --select:#00795b; --pass:#667085; --ok:#00795b; --bad:#b42318; --tint:#eef5fb;
  --c0:#0b4a78; --c1:#3f8cc4; --c2:#a5cdea; --c3:#c0c6d0; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8ebf1; --muted:#a0a9b8; --grid:#333b49; --paper:#191e27;
  --back:#11151c; --greedy:#5fb3ea; --majority:#f79a5b; --select:#4cc79f; --pass:#a7b0bf; --ok:#4cc79f; --bad:#ff8f85;
  --tint:#1d2a38; --c0:#8fd0ff; --c1:#3f8cc4; --c2:#265a86; --c3:#5f6a7b; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--back); color:var(--ink); line-height:1.5;
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif; }
main { max-width:70rem; margin:0 auto; padding:2.5rem 1.25rem 4rem; }
h1 { font-size:1rem; font-weight:600; color:var(--muted); margin:0 0 .5rem; overflow-wrap:anywhere; }
.headline { font-size:1.6rem; line-height:1.3; font-weight:650; margin:0 0 .6rem; max-width:52rem; text-wrap:balance; }
h2 { font-size:1.15rem; margin:0 0 .8rem; }
section { background:var(--paper); border:1px solid var(--grid); border-radius:12px; padding:1.4rem 1.5rem;
  margin-top:1.25rem; }
p { margin:.2rem 0 .8rem; max-width:52rem; }
.soft, caption, .provenance { color:var(--muted); }
figure { margin:0 0 1rem; } figure svg { width:100%; height:auto; max-height:34rem; }
.scroll { overflow-x:auto; margin-bottom:1rem; } .scroll:last-child { margin-bottom:0; }
table { border-collapse:collapse; width:100%; font-size:.88rem; font-variant-numeric:tabular-nums; }
caption { text-align:left; padding-bottom:.35rem; font-size:.85rem; }
th, td { text-align:left; padding:.42rem .7rem .42rem 0; border-bottom:1px solid var(--grid); vertical-align:top; }
thead th { color:var(--muted); font-weight:600; font-size:.8rem; vertical-align:bottom; }
tbody th { font-weight:600; white-space:nowrap; }
.num { text-align:right; white-space:nowrap; } thead .num { white-space:normal; }
tbody tr:last-child > * { border-bottom:0; }
tr.chosen > * { background:var(--tint); font-weight:600; } tr.chosen .soft { font-weight:400; }
tr > :first-child { padding-left:.6rem; } tr > :last-child { padding-right:.6rem; }
.badge { display:inline-block; font-size:.75rem; font-weight:600; padding:.02rem .5rem; border-radius:99px;
  border:1px solid currentColor; color:var(--muted); white-space:nowrap; }
.badge.ok { color:var(--ok); } .badge.bad { color:var(--bad); } tr.chosen .badge { color:var(--greedy); }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr)); gap:.8rem; margin:1.4rem 0 0; }
.tile { background:var(--paper); border:1px solid var(--grid); border-top:3px solid var(--muted); border-radius:10px;
  padding:.7rem 1rem .8rem; }
.tile dt { color:var(--muted); font-size:.82rem; } .tile dd { margin:0; }
.tile b { font-size:1.5rem; font-variant-numeric:tabular-nums; } .tile span, .tile small { color:var(--muted); }
.tile span { font-size:.82rem; } .tile small { display:block; }
.s-greedy { border-top-color:var(--greedy); } .s-majority { border-top-color:var(--majority); }
.s-select { border-top-color:var(--select); } .s-pass { border-top-color:var(--pass); }
.bar { display:flex; height:.7rem; min-width:9rem; border-radius:3px; overflow:hidden; background:var(--grid); gap:1px;
  margin-top:.3rem; }
.bar i { display:block; } .c0 { background:var(--c0); } .c1 { background:var(--c1); }
.c2 { background:var(--c2); } .c3 { background:var(--c3); }
.key { display:flex; flex-wrap:wrap; gap:.1rem .9rem; margin-top:.3rem; font-size:.8rem; color:var(--muted); }
.key b { color:var(--ink); } .dot { display:inline-block; width:.6rem; height:.6rem; border-radius:2px;
  margin-right:.3rem; }
.facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(13rem,1fr)); gap:.7rem 1.2rem; margin:0; }
.facts dt { color:var(--muted); font-size:.82rem; } .facts dd { margin:0; overflow-wrap:anywhere; }
summary { cursor:pointer; padding:.35rem 0; }
summary:focus-visible, .scroll:focus-visible { outline:2px solid var(--greedy); }
.trace + .trace { border-top:1px solid var(--grid); }
.problem { display:flex; gap:1.4rem; flex-wrap:wrap; align-items:flex-start; margin:.5rem 0 1rem; }
.problem > div { flex:1 1 18rem; } .problem img { max-width:min(20rem,100%); border-radius:8px; background:#fff; }
.said, pre, .choices { unicode-bidi:isolate; overflow-wrap:anywhere; } .said { white-space:pre-wrap; }
.choices { list-style:none; padding:0; margin:.3rem 0; } .choices li { padding:.1rem 0; } .gold { font-weight:600; }
.gold .badge { color:var(--ok); }
article { border-left:3px solid var(--grid); padding-left:.9rem; margin:0 0 1rem; } article header { font-size:.9rem; }
pre { white-space:pre-wrap; margin:.35rem 0 0; padding:.7rem .9rem; background:var(--back); border-radius:8px;
  max-height:24rem; overflow:auto;
  font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace; }
@media print { section { break-inside:avoid; } body { background:none; } }
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title: selftrain report</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p class="headline">$headline</p>
<p class="provenance">$provenance</p>
$tiles
</header>
$sections
</main>
</body>
</html>
""")
