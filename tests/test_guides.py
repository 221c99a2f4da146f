"""The code of each guide runs as it stands, from an empty folder, and prints what the page names."""

import functools

import keras
import pytest

import keras_kd as kd
from tests.pages import ROOT, blocks

PAGES = sorted((ROOT / "docs/guides").glob("*.md"))


def run(page, tmp_path, monkeypatch):
    """Run the blocks of a page in one namespace, as a reader would, and return the names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kd, "export", functools.partial(kd.export, fresh=False))
    keras.utils.set_random_seed(0)
    names: dict = {}
    for block in blocks(str(page.relative_to(ROOT))):
        block.run(names)
    return names


@pytest.mark.slow
def test_the_guide_to_onnx_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/onnx.md", tmp_path, monkeypatch)
    found = {name: 100 * each["accuracy"] for name, each in names["comparison"].quality.items()}
    for name, accuracy in {"teacher": 91, "alone": 85, "distilled": 90}.items():
        assert found[name] == pytest.approx(accuracy, abs=3)
    assert found["teacher"] > found["distilled"] > found["alone"]
    assert [each.error for each in names["report"].artefacts] == ["", ""]


def test_every_guide_is_tested_and_on_the_site():
    assert [page.stem for page in PAGES] == ["onnx"]
    index = (ROOT / "docs/index.md").read_text()
    for page in PAGES:
        assert f"docs/guides/{page.stem}\n" in index
        lines = [line for block in blocks(str(page.relative_to(ROOT))) for line in block.code.splitlines()]
        assert max(map(len, lines)) <= 100
