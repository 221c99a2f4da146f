"""The cache of a language model knows its tokenizer, its length and its template, and refuses others."""

import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._internal import raw_views
from keras_kd.cache import json_checks, manifest
from tests.caches import built, dataset, teacher

pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
from tests.tasks import causal_lm, distiller  # noqa: E402

TEXTS = np.array(["a tale of two", "the end", "to be or not to be", "once"] * 2, object)
DATA = tf.data.Dataset.from_tensor_slices(TEXTS.astype(str))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a cache of a language model's texts."""
    path = tmp_path_factory.mktemp("texts")
    arguments = {"top_k": 4, "dtype": "packed", "template": {"system": "none", "version": 2}}
    kd.TeacherCache(path, causal_lm(2), **arguments).build(DATA, batch_size=4, verbose=0)
    return path


@pytest.mark.slow
def test_a_student_with_the_tokens_of_the_cache_learns_from_texts(folder):
    cache = kd.TeacherCache(folder)
    made = distiller(causal_lm(1), kd.teachers.Cached(cache, tail="bucket"), temperature=1.0)
    losses = made.fit(cache.join(DATA).batch(4), epochs=3, verbose=0).history["distillation_loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"more": "."}, "the tokenizer with which .* of 29 tokens.*has another one, of 30.*teacher's tokenizer"),
        ({"length": 10}, "examples of 12 tokens.*has 10. Set sequence_length=12"),
    ],
)
def test_a_student_of_other_tokens_is_refused(folder, student, message):
    with pytest.raises(ValueError, match=message):
        distiller(causal_lm(1, **student), kd.teachers.Cached(kd.TeacherCache(folder)), temperature=1.0)


def test_the_same_vocabulary_with_other_merges_is_another_tokenizer():
    first, second = (causal_lm(1, more=["Ġa"]) for _ in range(2))
    assert raw_views.tokens_of(first) == raw_views.tokens_of(second)
    changed = second.preprocessor.tokenizer
    changed.set_vocabulary_and_merges(changed.vocabulary, ["Ġ t", "Ġ a"])
    with pytest.raises(ValueError, match="the tokenizer with which it was built, of 30 tokens"):
        raw_views.check_tokens(second, raw_views.tokens_of(first), "it")


def test_a_template_is_compared(folder):
    template = {"version": 2, "system": "none"}
    assert kd.TeacherCache(folder, template=template).tokens["length"] == 12
    with pytest.raises(ValueError, match="template = .*version.*3.*another template"):
        kd.TeacherCache(folder, template={**template, "version": 3})
    with pytest.raises(ValueError, match="another template"):
        kd.TeacherCache(folder, causal_lm(2), top_k=4, dtype="packed")


@pytest.mark.parametrize("template", [3, {"function": print}, {1j: 2}])
def test_a_template_is_text_or_plain_values(tmp_path, template):
    with pytest.raises(TypeError, match="Expected `template` to be a string, or a dict"):
        kd.TeacherCache(tmp_path, teacher(), template=template)


def test_a_cache_of_format_2_has_neither_and_is_read(tmp_path):
    cache = built(tmp_path)
    path = tmp_path / manifest.MANIFEST
    content = json_checks.read_manifest(path)
    manifest.write(
        path, {name: each for name, each in {**content, "format": 2}.items() if name not in ("tokens", "template")}
    )
    for opened in (kd.TeacherCache(tmp_path), kd.TeacherCache(tmp_path, teacher=teacher())):
        assert opened.tokens is None and len(list(opened.join(dataset()))) == 50
    assert cache.mark == opened.mark


@pytest.mark.parametrize("change", [{"tokens": 3}, {"tokens": {"size": 2}}, {"template": 4}])
def test_what_no_build_writes_is_refused(tmp_path, change):
    built(tmp_path)
    path = tmp_path / manifest.MANIFEST
    manifest.write(path, {**json_checks.read_manifest(path), **change})
    with pytest.raises(ValueError, match="damaged, or was edited"):
        kd.TeacherCache(tmp_path)
