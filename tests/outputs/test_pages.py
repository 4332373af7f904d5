"""What pages may load, and that a title is text whatever it says."""

from __future__ import annotations

import base64
import hashlib

import pytest

from vit_hybrid.outputs.pages import beginning, ending


@pytest.mark.parametrize("script", [None, "let one = '<two>';", "\n two();\n"])
def test_no_script_runs_but_the_pages_own(script: str | None) -> None:
    begun, ended = beginning("a <title> \udce9", "p { color: red; }\n", script), ending(script)
    assert "<title>a &lt;title&gt; \\xe9</title>" in begun
    assert "<h1>a &lt;title&gt; \\xe9</h1>" in begun
    assert "p { color: red; }\n</style>" in begun
    [policy] = [line for line in begun.splitlines() if "Content-Security-Policy" in line]
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script is not None:
        allowed += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert f'content="{allowed}"' in policy
    assert ended == ("" if script is None else f"<script>{script}</script>\n") + "</body>\n</html>\n"
