"""What the package of training hands on, and when."""

from __future__ import annotations

import fresh_process
import pytest


def test_the_names_that_people_use_are_handed_on() -> None:
    from vit_hybrid.train import Run, job, load_recipe, recipe, run, train

    assert (train, Run, load_recipe) == (job.train, run.Run, recipe.load_recipe)
    with pytest.raises(ImportError, match="trian"):
        from vit_hybrid.train import trian  # type: ignore[attr-defined]  # noqa: F401


def test_a_run_and_a_recipe_need_no_torch() -> None:
    loaded = fresh_process.run(
        "import sys; from vit_hybrid.train import Run, load_recipe; load_recipe('adamw')\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert loaded.strip() == "set()"
