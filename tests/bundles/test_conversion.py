"""What converters do besides converting."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from vit_hybrid.bundles.conversion import quiet

USES = """
import os, sys
from contextlib import nullcontext
from vit_hybrid.bundles.conversion import quiet
from openvino_telemetry.backend.backend_ga4 import GA4Backend

sent = []
GA4Backend.send = lambda self, message: sent.append(message)
before = dict(os.environ)
with quiet() if sys.argv[1] == "quiet" else nullcontext():
    import openvino
    from openvino import opset13
    import nncf.telemetry.wrapper
    from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
    telemetry = init_ovc_telemetry()
    telemetry.start_session("ovc")
    telemetry.send_event("ovc", "version", "1")
    nncf.telemetry.wrapper.telemetry.start_session("nncf")
assert os.environ == before
telemetry.force_shutdown(0.5)
print(len(sent))
"""


@pytest.mark.parametrize(("how", "is_sent"), [("quiet", False), ("loud", True)])
def test_nothing_is_reported_to_their_makers(how: str, is_sent: bool, tmp_path: Path) -> None:
    for library in ("openvino", "nncf", "openvino_telemetry"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    said = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment = {**said, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", USES, how], env=environment, capture_output=True, text=True, check=True
    )
    assert (int(found.stdout.split()[-1]) > 0) is is_sent
    assert (tmp_path / "intel").exists() is is_sent


def test_what_is_kept_quiet_is_heard_again_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TF_BUILD", "mine")
    monkeypatch.delenv("NNCF_CI", raising=False)
    told = logging.getLogger("converter")
    logging.disable(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as caught, suppress(ValueError), quiet():
            assert (os.environ["TF_BUILD"], os.environ["NNCF_CI"]) == ("1", "1")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            told.error("hidden")
            print("loud")
            raise ValueError("broken")
        assert not caught
        assert logging.root.manager.disable == logging.DEBUG
        told.error("heard")
    finally:
        logging.disable(logging.NOTSET)
    assert [record.getMessage() for record in caplog.records] == ["heard"]
    assert capsys.readouterr().out == ""
    assert os.environ["TF_BUILD"] == "mine"
    assert "NNCF_CI" not in os.environ
