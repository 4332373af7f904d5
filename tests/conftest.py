"""What the tests share: tiny models, the photos and data sets (where they are), and what needs a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import tiny_hybrid

if TYPE_CHECKING:
    from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or REPOSITORY.parent / "shared" / "data")

# Before torch is loaded: with models as tiny as these, threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Busy machines miss hypothesis' deadlines, and a failure should come back without a database of earlier ones.
hypothesis.settings.register_profile("vit-hybrid", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("vit-hybrid")


@pytest.fixture(scope="session", autouse=True)
def converted_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which models that the tests convert are kept: none of them in the user's cache."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIT_HYBRID_CACHE", str(folder))
        yield folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", action="store_true", help="Only the tests that must not share the machine.")


@pytest.hookimpl(optionalhook=True)  # for those who run the tests without pytest-xdist
def pytest_xdist_auto_num_workers() -> int | None:
    """As many as there are cores for this process, which in a container are often fewer than the machine has."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None  # for pytest-xdist itself to say
    return len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_to_the_other_call(config, items)
    _skip_without_gpu(items)


def _leave_to_the_other_call(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes the tests marked `alone` from those of several processes, and all others from those of `--alone`."""
    if not (config.getoption("--alone") or hasattr(config, "workerinput")):
        return
    kept, left = [], []
    for item in items:
        (kept if bool(item.get_closest_marker("alone")) == config.getoption("--alone") else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def _skip_without_gpu(items: Sequence[pytest.Item]) -> None:
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a server that plays S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket, for fsspec to open."""
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    name = f"bucket-{os.urandom(8).hex()}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of photos and data sets: `VIT_HYBRID_DATA`, or `../shared/data` beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at {DATA}; VIT_HYBRID_DATA names another place")
    return DATA


@pytest.fixture
def tiny_config() -> ViTHybridConfig:
    """The configuration of a hybrid of 32 x 32 pixels and three labels."""
    return tiny_hybrid.tiny_config()


@pytest.fixture
def tiny_model(tiny_config: ViTHybridConfig) -> ViTHybridForImageClassification:
    """A classifier with random weights, always the same, in evaluation mode."""
    import torch

    from vit_hybrid import ViTHybridForImageClassification

    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_config).eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` and its image processor, saved; not to be changed."""
    return tiny_hybrid.save_tiny_model(tmp_path_factory.mktemp("tiny"))
