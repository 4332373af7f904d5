import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vit_hybrid.first_use import on_first_use


def test_a_name_is_found_when_asked_for_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    find = on_first_use("json", {"JSONDecodeError": "decoder"})
    monkeypatch.delattr(json, "JSONDecodeError")
    assert find("JSONDecodeError") is json.decoder.JSONDecodeError
    assert vars(json)["JSONDecodeError"] is json.decoder.JSONDecodeError


def test_a_module_is_handed_on_also_where_it_has_such_a_name_itself(tmp_path: Path) -> None:
    package = tmp_path / "handing_on_made"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from vit_hybrid.first_use import on_first_use\n"
        "__getattr__ = on_first_use(__name__, {'same': None, 'absent': 'same'})\n"
    )
    (package / "same.py").write_text("same = 7\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        try:
            made = importlib.import_module(package.name)
            assert vars(made)["__getattr__"]("same") is sys.modules[f"{package.name}.same"]
            with pytest.raises(AttributeError, match="has no attribute 'absent'"):
                _ = made.absent
        finally:
            for name in (package.name, f"{package.name}.same"):
                sys.modules.pop(name, None)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'dump2'"):
        on_first_use("json", {})("dump2")


@pytest.mark.parametrize("package", ["vit_hybrid", "vit_hybrid.data", "vit_hybrid.cli.main", "vit_hybrid.data.sources"])
def test_nothing_heavy_is_loaded_before(package: str) -> None:
    code = f"import sys, {package}; print({{'torch', 'transformers', 'numpy', 'PIL'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
