"""The code of each guide runs as it stands, from an empty folder, and prints what the page names."""

import functools
import math

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
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_onnx_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/onnx.md", tmp_path, monkeypatch)
    found = {name: 100 * each["accuracy"] for name, each in names["comparison"].quality.items()}
    for name, accuracy in {"teacher": 91, "alone": 85, "distilled": 90}.items():
        assert found[name] == pytest.approx(accuracy, abs=3)
    assert found["teacher"] > found["distilled"] > found["alone"]
    assert [each.error for each in names["report"].artefacts] == ["", ""]


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_detectors_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    pytest.importorskip("keras_hub")
    names = run(ROOT / "docs/guides/detector.md", tmp_path, monkeypatch)
    quality = names["comparison"].quality
    f1 = {name: 100 * each["cls/f1_macro"] for name, each in quality.items()}
    pixels = {name: each["box/mae"] for name, each in quality.items()}
    assert f1 == pytest.approx({"teacher": 99, "alone": 89, "distilled": 93}, abs=11)  # seeds differ by as much
    assert f1["teacher"] > f1["distilled"] > f1["alone"]
    assert pixels == pytest.approx({"teacher": 0.2, "alone": 0.5, "distilled": 0.5}, abs=0.1)
    assert [each.error for each in names["report"].artefacts] == ["", ""]
    assert {"foreground_classes", "foreground_boxes", "neck_P3", "neck_P4", "cls_logits_loss"} <= names["logs"].keys()
    assert set(names["found"]) == {"boxes", "labels", "confidence", "num_detections"}


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_language_models_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/language_model.md", tmp_path, monkeypatch)
    found = {name: each["perplexity"] for name, each in names["comparison"].quality.items()}
    assert found == pytest.approx({"teacher": 5.3, "alone": 10.3, "distilled": 8.5, "top 8": 8.9}, abs=0.5)
    assert found["distilled"] < found["top 8"] < found["alone"]
    bits = {name: each["bits_per_byte"] for name, each in names["comparison"].quality.items()}
    assert bits == pytest.approx({name: math.log2(each) for name, each in found.items()}, rel=1e-4)
    assert names["written"].finished.mean() == pytest.approx(0.25, abs=0.1)
    assert len(names["x"]) == pytest.approx(3_300, rel=0.2)  # other versions of Python have other docstrings
    assert (names["y"][:, 0] == -100).all()
    assert [each.error for each in names["report"].artefacts] == [""]


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_trees_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/trees.md", tmp_path, monkeypatch)
    found = {name: each["pr_auc"] for name, each in names["comparison"].quality.items()}
    for name, area in {"teacher": 0.63, "alone": 0.60, "distilled": 0.64}.items():
        assert found[name] == pytest.approx(area, abs=0.04)
    assert found["distilled"] > found["alone"]
    assert names["report"].passed
    assert names["answer"]["classes"].numpy()[0] in (b"legitimate", b"fraud")


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_applications_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/applications.md", tmp_path, monkeypatch)
    found = {name: 100 * each["accuracy"] for name, each in names["comparison"].quality.items()}
    for name, accuracy in {"teacher": 96, "alone": 76, "distilled": 91}.items():
        assert found[name] == pytest.approx(accuracy, abs=4)
    assert found["teacher"] > found["distilled"] > found["alone"] + 5
    assert [each.error for each in names["report"].artefacts] == ["", ""]
    assert names["x"].min() == 0 and names["x"].max() == 255


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_backbones_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/backbones.md", tmp_path, monkeypatch)
    linear, nearest = (
        {name: 100 * each[kind] for name, each in names["probes"].items()} for kind in ("linear", "nearest")
    )
    assert linear == pytest.approx({"random": 62, "distilled": 90, "teacher": 93}, abs=5)
    assert nearest == pytest.approx({"random": 55, "distilled": 88, "teacher": 86}, abs=7)
    assert {round(100 * each) for each in names["accuracies"].values()} <= set(range(80, 91))
    assert names["cache"].info().bytes_per_example == pytest.approx(642, abs=5)


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_kerashub_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
    names = run(ROOT / "docs/guides/kerashub.md", tmp_path, monkeypatch)
    found = {name: 100 * each["accuracy"] for name, each in names["comparison"].quality.items()}
    for name, accuracy in {"teacher": 75, "alone": 60, "distilled": 72}.items():
        assert found[name] == pytest.approx(accuracy, abs=6)
    assert found["distilled"] > found["alone"] + 3
    assert names["report"].passed
    assert names["answer"]["classes"].numpy()[0].decode() in names["PACKAGES"]


@pytest.mark.slow
@pytest.mark.one_in(2, group="guides")
def test_the_guide_to_pruning_has_the_numbers_that_it_names(tmp_path, monkeypatch):
    names = run(ROOT / "docs/guides/pruning.md", tmp_path, monkeypatch)
    before, after = names["report"].multiplications
    assert after <= 0.25 * before
    found = {name: 100 * each["accuracy"] for name, each in names["comparison"].quality.items()}
    for name, accuracy in {"teacher": 96, "pruned": 95, "alone": 92}.items():
        assert found[name] == pytest.approx(accuracy, abs=4)
    assert names["whole_report"].multiplications[1] <= 0.12 * before


def test_every_guide_is_tested_and_on_the_site():
    assert [page.stem for page in PAGES] == [
        "applications",
        "backbones",
        "detector",
        "kerashub",
        "language_model",
        "onnx",
        "pruning",
        "trees",
    ]
    index = (ROOT / "docs/index.md").read_text()
    for page in PAGES:
        assert f"docs/guides/{page.stem}\n" in index
        lines = [line for block in blocks(str(page.relative_to(ROOT))) for line in block.code.splitlines()]
        assert max(map(len, lines)) <= 100
