"""How commands run: what they say while they do, and how they end."""

from __future__ import annotations

import sys
import time

import pytest

from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.cli import session


class TestLoadingMessage:
    @pytest.mark.parametrize(
        ("model", "message"), [(BUILT_IN_MODEL, f"Loading {BUILT_IN_MODEL}"), ("a/b", "Getting a/b from the hub")]
    )
    def test_is_shown_on_a_terminal(
        self, model: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        with session.loading(model):
            time.sleep(0.2)
        assert message in capsys.readouterr().err

    def test_is_not_shown_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        with session.loading(BUILT_IN_MODEL):
            pass
        assert capsys.readouterr().err == ""
