"""What a cache's files may contain: formats that can be read, and no content that does not fit together."""

import copy
import hashlib
import json
import random

import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.cache import format_1, manifest, row_fingerprints
from keras_kd.teachers.ensemble import as_teacher
from tests.caches import CLASSES, built, data, dataset, jittered, student, teacher
from tests.test_objective import distill


def opened(folder, **arguments):
    """Open a cache and read it to its end."""
    cache = kd.TeacherCache(folder, **arguments)
    cache.epoch = 0
    return list(cache.join(dataset()))


def of_format_1(folder):
    """Write a cache as the first format has it: 2 bytes of the fingerprint, and logits in float16 as they are."""
    x, _ = data()
    logits = (teacher()(x).numpy() + 8.0).astype("float16")
    rows = np.concatenate([tf.fingerprint(x).numpy()[:, :2], logits.view(np.uint8)], axis=1)
    name = "view-0000/shard-000000.tfrecord"
    (folder / name).parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / name)) as file:
        file.write(rows[:40].tobytes())
        file.write(rows[40:].tobytes())
    new = built(folder / "new")._manifest
    kept = {key: value for key, value in new.items() if key not in ("teacher_code", "check_bytes")}
    fields = [{"name": "", "part": "check", "dtype": "uint16", "shape": []}]
    fields += [{"name": "logits", "part": "values", "dtype": "float16", "shape": [CLASSES]}]
    described = {
        "bytes": 50 * (2 + 2 * CLASSES) + 2 * 16,
        "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
    }
    architecture = format_1.comparable(new, as_teacher(teacher()))["teacher_architecture"]
    changes = {"format": 1, "layout": fields, "files": {name: described}, "teacher_architecture": architecture}
    manifest.write(folder / manifest.MANIFEST, {**kept, **changes, "rows_per_record": 40, "rows_per_shard": 80})
    return logits.astype("float32")


@pytest.mark.slow
def test_a_cache_of_the_first_format_is_read(tmp_path):
    logits = of_format_1(tmp_path)
    for cache in (kd.TeacherCache(tmp_path), kd.TeacherCache(tmp_path, teacher=teacher())):
        ((x, _),) = cache.join(dataset()).batch(50)
        np.testing.assert_array_equal(kd.teachers.Cached(cache)(x, {})["logits"], logits)
        distill(student(), kd.teachers.Cached(cache), optimizer="sgd").fit(cache.join(dataset()).batch(10), verbose=0)
        assert cache.info().examples == 50
    cache.build(dataset(), 4, verbose=0)
    assert cache.verify(dataset(), 1.0).largest["logits"] == pytest.approx(8.0, abs=0.01)  # what was added above


def test_a_cache_of_the_first_format_is_compared_with_its_teacher(tmp_path):
    of_format_1(tmp_path)
    with pytest.raises(ValueError, match="another"):
        kd.TeacherCache(tmp_path, teacher=teacher(8))
    with pytest.raises(ValueError, match="check_bytes = 2. Received: 8"):
        kd.TeacherCache(tmp_path, teacher=teacher(), check_bytes=8)


def test_the_first_format_hashes_a_configuration_with_its_keys_in_order(monkeypatch):
    config = {"name": "dense_3", "class_name": "Dense", "config": {"units": 3, "name": "dense_3", "trainable": True}}
    monkeypatch.setattr(format_1.configuration_fingerprints, "serialized", lambda teacher: config)
    plain = b'{"class_name": "Dense", "config": {"name": "#0", "units": 3}, "name": "#0"}'
    expected = {"views": 1, "teacher_architecture": hashlib.sha256(plain).hexdigest()}
    assert format_1.comparable({"views": 1, "teacher_code": "another"}, as_teacher(teacher())) == expected


def edited(path, change):
    """Edit a file, and write the checksum that fits."""
    content = json.loads(path.read_text())["content"]
    change(content)
    manifest.write(path, content)


def renamed(name):
    def change(content):
        files = content["files"]
        files[name] = files.pop(sorted(files)[0])

    return change


EDITS = {
    "a file outside of the folder": renamed("../../etc/passwd"),
    "an absolute path": renamed("/etc/passwd"),
    "a file too many": lambda content: content["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}),
    "a file too few": lambda content: content["files"].popitem(),
    "no files": lambda content: content.pop("files"),
    "a number of bytes that is a word": lambda content: next(iter(content["files"].values())).update(bytes="many"),
    "no checksum": lambda content: next(iter(content["files"].values())).pop("sha256"),
    "another number of examples": lambda content: content.update(count=51),
    "too many examples for any loop": lambda content: content.update(count=10**14, rows_per_shard=1),
    "too many views for any loop": lambda content: content.update(views=10**14),
    "no shards": lambda content: content.update(rows_per_shard=0),
    "a fraction of rows": lambda content: content.update(rows_per_record=2.5),
    "no taps": lambda content: content.update(taps={}),
    "an unknown head": lambda content: content["taps"].update(logits="softmaxx"),
    "a tap without fields": lambda content: content["taps"].update(hidden="values"),
    "no layout": lambda content: content.update(layout=[]),
    "a field of another type": lambda content: content["layout"][1].update(dtype="object"),
    "a field of a negative size": lambda content: content["layout"][1].update(shape=[-8]),
    "a missing field": lambda content: content["layout"].pop(0),
    "an unknown part": lambda content: content["layout"][1].update(part="logits"),
    "classes behind the end": lambda content: content["layout"][1].update(shape=[2]),
    "another size of the check": lambda content: content.update(check_bytes=8),
    "a key that no row has": lambda content: content.update(key="id"),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("what", EDITS)
def test_a_manifest_that_was_edited_with_its_checksum_is_refused(tmp_path, what):
    built(tmp_path, batch_size=25)
    path = tmp_path / manifest.MANIFEST
    edited(path, EDITS[what])
    with pytest.raises(ValueError, match="is damaged, or was edited: expected '.*' to be .*build the cache again"):
        kd.TeacherCache(tmp_path)


@pytest.mark.parametrize("shape", [[3], [1, 2]])
def test_weights_that_do_not_fit_to_the_members_of_an_ensemble_are_refused(tmp_path, shape):
    def change(content):
        (field,) = (field for field in content["layout"] if field["part"] == "log_weights")
        field["shape"] = shape

    built(tmp_path, teacher=[teacher(1), teacher(2)], batch_size=25)
    edited(tmp_path / manifest.MANIFEST, change)
    with pytest.raises(ValueError, match="expected 'layout' to be"):
        kd.TeacherCache(tmp_path)


def places(content, path=()):
    """Yield the way to every value in JSON."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


VALUES = [None, True, 0, -1, 3, 2.5, 10**30, "", "x", "../x", [], {}, [1], {"a": 1}]


@pytest.mark.parametrize("number", [15, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arguments", [{}, {"top_k": 2, "views": 2, "augment": jittered}, {"dtype": "float32"}])
def test_no_edit_of_a_manifest_ends_in_an_error_that_does_not_name_it(tmp_path, arguments, number):
    cache = built(tmp_path, batch_size=25, **arguments)
    path, augment = tmp_path / manifest.MANIFEST, arguments.get("augment")
    whole, draw, refused = cache._manifest, random.Random(0), 0
    for _ in range(number):
        content = copy.deepcopy(whole)
        *way, last = draw.choice(list(places(whole)))
        owner = content
        for step in way:
            owner = owner[step]
        owner[last] = draw.choice(VALUES)
        if draw.random() < 0.2:
            owner.pop(last)
        manifest.write(path, content)
        try:
            opened(tmp_path, augment=augment)
        except ValueError as error:
            assert str(tmp_path) in str(error), (way, last)
            refused += 1
    assert refused > number / 2


@pytest.mark.parametrize("number", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_no_edit_of_an_unfinished_cache_ends_in_an_error_that_does_not_name_it(tmp_path, number):
    cache = kd.TeacherCache(tmp_path, teacher=teacher())
    cache.build(dataset(), 25, shard=(0, 2), verbose=0)
    paths = [tmp_path / manifest.PLAN, tmp_path / "job-00000-of-00002.json"]
    draw, refused = random.Random(0), 0
    contents = {path: manifest.read(path) for path in paths}
    for _ in range(number):
        path = draw.choice(paths)
        content = copy.deepcopy(contents[path])
        content[draw.choice(list(content))] = draw.choice(VALUES)
        manifest.write(path, content)
        for use in (lambda: kd.TeacherCache(tmp_path), lambda: cache.build(dataset(), 25, shard=(0, 2), verbose=0)):
            try:
                use()
            except ValueError as error:
                assert str(tmp_path) in str(error)
                refused += 1
        for each in paths:
            manifest.write(each, contents[each])
    assert refused > number


def test_a_file_is_json_with_a_checksum_in_the_same_bytes_in_every_version(tmp_path):
    manifest.write(tmp_path / "file.json", {"b": 1, "a": [2]})
    checksum = hashlib.sha256(b'{"a": [2], "b": 1}').hexdigest()
    lines = ["{", f' "checksum": "{checksum}",', ' "content": {', '  "a": [', "   2", "  ],", '  "b": 1', " }", "}", ""]
    assert (tmp_path / "file.json").read_text() == "\n".join(lines)


def test_the_fingerprint_of_several_inputs_is_that_of_their_fingerprints():
    x, y = data()
    both = np.concatenate([tf.fingerprint(each).numpy() for each in (x, y[:, None])], axis=1)
    for nbytes, dtype in ((2, "uint16"), (8, "int64")):
        for given, octets in ((x, x), ({"a": x, "b": y[:, None], "c": None}, both)):
            expected = tf.fingerprint(octets).numpy()[:, :nbytes].copy().view(dtype)[:, 0]
            np.testing.assert_array_equal(row_fingerprints.fingerprints(given, nbytes), expected)


def test_a_manifest_that_is_no_file_is_refused(tmp_path):
    (tmp_path / manifest.MANIFEST).mkdir()
    with pytest.raises(ValueError, match="to be a file"):
        kd.TeacherCache(tmp_path)


@pytest.mark.parametrize(
    "content", ['{"examples": NaN, "seconds": 1}', '{"examples": 1' + "0" * 400 + ', "seconds": 1}', "[" * 99999, "{}"]
)
def test_times_that_cannot_be_read_are_left_out(tmp_path, content):
    cache = built(tmp_path)
    next(tmp_path.glob("timing-*")).write_text(content)
    assert cache.info().break_even is None
