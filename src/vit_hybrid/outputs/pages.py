"""Pages of one HTML file that need nothing else: how they begin and end, and what they may load."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from string import Template

from ..errors import escaped

# Colors follow the reader's light or dark scheme.
_HEAD = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --back: #fff; --text: #1b1b1b; --faint: #595959; --line: #ccc; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161616; --text: #eee; --faint: #aaa; --line: #444; }
}
body { margin: 1.5rem; background: var(--back); color: var(--text); font: 14px/1.4 system-ui, sans-serif; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
h2 { font-size: 1rem; overflow-wrap: anywhere; }
$style</style>
</head>
<body>
<h1>$title</h1>
""")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_END = "</body>\n</html>\n"


def beginning(title: str, style: str, script: str | None = None) -> str:
    """A page down to its title. Nothing may be loaded, and no script runs but `script`, whatever names say.

    Args:
        title: What it is called.
        style: Its own CSS, beside what all such pages have.
        script: The text of its script, which `ending` puts into it.
    """
    policy = _POLICY
    if script is not None:
        digest = hashlib.sha256(script.encode()).digest()
        policy += f"; script-src 'sha256-{base64.b64encode(digest).decode()}'"
    return _HEAD.substitute(policy=policy, title=escape(escaped(title)), style=style)


def ending(script: str | None = None) -> str:
    """The end of a page, with the script that it began with."""
    return ("" if script is None else f"<script>{script}</script>\n") + _END


__all__ = ["beginning", "ending"]
