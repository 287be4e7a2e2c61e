"""How pages look. Every rule that sets a colour sets its background too: a test computes contrast.

No colour stands alone: each state has its sign as well.
"""

from __future__ import annotations

CSS = """
body { color: #1a1a1a; background: #ffffff; font: 100%/1.5 system-ui, sans-serif; margin: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
a { color: #0b4f9e; background: #ffffff; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible
  { outline: 3px solid #0b4f9e; outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { position: static; }
.good { color: #0b5a24; background: #e3f4e7; padding: .25rem .5rem; }
.bad { color: #8f1111; background: #fdeaea; padding: .25rem .5rem; }
.wide { overflow: auto; max-height: 90vh; }
table { border-collapse: collapse; }
caption { text-align: left; padding: .25rem 0; }
th, td { border: 1px solid #767676; padding: .1rem .4rem; text-align: left; }
thead th { color: #1a1a1a; background: #eeeeee; position: sticky; top: 0; }
.matrix { table-layout: fixed; border-collapse: separate; border-spacing: 0; width: max-content; }
.matrix col.name { width: 14rem; } .matrix col.pair { width: 2.2rem; }
.matrix th, .matrix td { border-width: 0 1px 1px 0; padding: 0; text-align: center;
  overflow: hidden; white-space: nowrap; height: 1.6rem; }
.matrix tbody th { color: #1a1a1a; background: #eeeeee; text-align: left; padding: 0 .4rem;
  position: sticky; left: 0; text-overflow: ellipsis; }
.matrix tbody th a { color: #0b4f9e; background: #eeeeee; }
.matrix td a { display: block; color: inherit; background: inherit; text-decoration: none; }
.matrix td a:focus-visible { outline-offset: -3px; }
.encrypted { color: #0b5a24; background: #d7f0dd; }
.one-sided { color: #0b4f9e; background: #dfecfa; }
.down { color: #8f1111; background: #fbd9d9; font-weight: bold; }
.open { color: #ffffff; background: #a30000; font-weight: bold; }
.disagree { color: #6b3f00; background: #ffe9c2; font-weight: bold; }
.unknown { color: #3d3d3d; background: #e4e4e4; }
.absent { color: #595959; background: #ffffff; }
.self { color: #595959; background: #ffffff; }
.key { display: inline-block; width: 2rem; text-align: center; }
dt { font-weight: bold; } dd { margin: 0 0 .5rem 1rem; }
.words { overflow-wrap: anywhere; max-width: 60rem; }
svg { max-width: 100%; } svg rect { fill: #a30000; } svg path { stroke: #595959; }
"""
