"""The style sheet of the report page, for light and dark mode, narrow and wide screens, and print."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#57606a;--paper:#fff;--panel:#f6f8fa;--rule:#d0d7de;
--good:#1f6f8b;--warn:#c77700;--bad:#b3261e;--p50:#1f6f8b;--p95:#c77700;--p99:#8b3f9b}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa7b4;--paper:#0f1419;--panel:#1a212a;--rule:#333d48;
--good:#5bb0cf;--warn:#f0ad4e;--bad:#ff7b72;--p50:#5bb0cf;--p95:#f0ad4e;--p99:#d2a8ff}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.25rem;max-width:72rem;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:1.75rem 0 .6rem}h3{font-size:.95rem;margin:0}
header p{margin:.25rem 0 0;color:var(--dim);overflow-wrap:anywhere}
header .verdict{color:var(--ink);font-size:1.1rem;margin-top:.6rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;margin:0}
.tiles>div{background:var(--panel);border:1px solid var(--rule);border-radius:.4rem;padding:.55rem .7rem}
dt{color:var(--dim);font-size:.85rem}dd{margin:0;font-size:1.35rem;font-variant-numeric:tabular-nums}
dd small{display:block;color:var(--dim);font-size:.8rem}dd.times{font-size:.95rem}
.tiles>.wide{grid-column:span 2}dd.times span{display:block}
dd.times b{font-weight:inherit;white-space:nowrap}
.bad-text{color:var(--bad);font-weight:600}.unknown{color:var(--dim)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1.2rem 1.6rem}
figure{margin:0;min-width:0;display:flex;flex-direction:column}figcaption{margin-bottom:.4rem}
.legend{margin:.15rem 0 0;font-size:.8rem;color:var(--dim);display:flex;flex-wrap:wrap;gap:.2rem 1rem}
.legend svg{margin-right:.35rem}
.chart{display:flex;margin-top:auto}.chart svg:first-child{flex:none}.chart svg:last-child{flex:1;min-width:0}
svg text{fill:var(--dim);font-size:12px}.distribution text{fill:var(--ink);font-size:13px}
.grid{stroke:var(--rule);stroke-width:1}.line{stroke-width:2}
.good{fill:var(--good)}.warn{fill:var(--warn)}.bad{fill:var(--bad)}
.p50{fill:var(--p50);stroke:var(--p50)}.p95{fill:var(--p95);stroke:var(--p95)}.p99{fill:var(--p99);stroke:var(--p99)}
rect.p50,rect.p95,rect.p99{stroke:none}
details{margin-top:.8rem}summary{cursor:pointer;color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--rule)}
th{color:var(--dim);font-weight:600}td{overflow-wrap:anywhere}
th.number,td.number{text-align:right;font-variant-numeric:tabular-nums;overflow-wrap:normal}td.number{white-space:nowrap}
th.number:first-child,td.number:first-child{text-align:left}
footer{margin-top:2rem;border-top:1px solid var(--rule);color:var(--dim);font-size:.82rem}footer p{margin:.3rem 0}
@media (max-width:36rem){body{padding:.8rem}.minor{display:none}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}.tiles>.wide{grid-column:auto}
table{width:max-content;max-width:none}td{max-width:16rem}}
@media print{:root{color-scheme:light;--ink:#000;--dim:#444;--paper:#fff;--panel:#fff;--rule:#bbb;
--good:#1f6f8b;--warn:#c77700;--bad:#b3261e;--p50:#1f6f8b;--p95:#c77700;--p99:#8b3f9b}
html{font-size:11px}body{padding:0 1rem;max-width:none;font-size:1rem}svg text,.distribution text{font-size:10px}
figure,tr,.tiles>div{break-inside:avoid}
.figures{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:repeat(6,1fr)}h2{break-after:avoid}
details:not([open]){display:none}.scroll{overflow:visible}table{font-size:.8rem}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
