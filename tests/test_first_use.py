import subprocess
import sys

import pytest

from vit_hybrid.first_use import on_first_use


def test_a_name_is_found_when_asked_for_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    find = on_first_use("json", {"JSONDecodeError": "decoder"})
    monkeypatch.delattr(json, "JSONDecodeError")
    assert find("JSONDecodeError") is json.decoder.JSONDecodeError
    assert vars(json)["JSONDecodeError"] is json.decoder.JSONDecodeError


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'dump2'"):
        on_first_use("json", {})("dump2")


@pytest.mark.parametrize("package", ["vit_hybrid", "vit_hybrid.data", "vit_hybrid.cli.main", "vit_hybrid.data.sources"])
def test_nothing_heavy_is_loaded_before(package: str) -> None:
    code = f"import sys, {package}; print({{'torch', 'transformers', 'numpy', 'PIL'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
