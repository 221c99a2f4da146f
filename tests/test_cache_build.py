"""Building a cache: killed, shared among jobs and machines, without disk space, by two processes at once."""

import errno
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd._internal import soft_targets
from keras_kd.cache import manifest, plan, shards
from keras_kd.cache.elements import Examples
from keras_kd.cache.layout import Field, Layout
from keras_kd.teachers import teacher_cache
from tests.caches import CLASSES, FEATURES, built, data, dataset, files, jittered, teacher

#: Each kill takes two seconds or three; .ci/run runs 12. Four rows are a shard and 32 ms: however fast the machine,
#: there is something left to write at each.
KILLS, ROWS = (12, 256) if os.environ.get("KERAS_KD_THOROUGH") else (2, 64)

ROOT = pathlib.Path(__file__).parents[1]


def start(folder, *arguments, **environment):
    """Start a build in a process of its own, and wait until it builds."""
    command = [sys.executable, "-m", "tests.caches", str(folder), *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def finish(process, code=0):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return output + errors


def in_process(folder, rows, shard=None, verbose=0):
    """Build here what tests/caches.py builds."""
    cache = kd.TeacherCache(folder, teacher=teacher(), views=2, augment=jittered)
    cache.build(dataset(rows), batch_size=2, shard=shard, verbose=verbose)
    return cache


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path):
    in_process(tmp_path / "whole", ROWS)
    process = start(tmp_path / "killed", "--rows", ROWS, "--slow", 0.004, "--kills", KILLS)
    output = finish(process)
    ends = [line for line in output.splitlines() if line.startswith(f"exit code -{int(signal.SIGKILL)} ")]
    assert len(ends) == KILLS and len(set(ends)) > KILLS // 2, output  # in different places
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_finished_build_is_not_repeated(tmp_path):
    in_process(tmp_path, 20)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    in_process(tmp_path, 20)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def shards_in(folder):
    return [int(path.stem.removeprefix("shard-")) for path in folder.rglob("shard-*.tfrecord")]


def test_the_progress_counts_the_examples_that_are_written(tmp_path, capsys):
    kd.TeacherCache(tmp_path, teacher=teacher()).build(dataset(), batch_size=20)
    output = capsys.readouterr().out
    printed = [int(each) for each in re.findall(r"(\d+)/50", output)]
    assert "━" in output  # a bar, by default
    assert set(printed) <= {20, 40, 50} and printed[-1] == 50  # Keras leaves out what follows too soon


@pytest.mark.slow
def test_independent_jobs_make_the_cache_of_their_plan(tmp_path, capsys):
    rows = 100
    in_process(tmp_path, rows, (2, 3))
    assert {number % 3 for number in shards_in(tmp_path)} == {2}
    in_process(tmp_path, rows, (0, 3), verbose=1)
    assert "Not done: job 1 of 3" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not finished. Not done: job 1 of 3"):
        kd.TeacherCache(tmp_path, augment=jittered)
    cache = in_process(tmp_path, rows, (1, 3))
    x, y = data(rows)
    for epoch in range(2):
        cache.epoch = epoch
        for found, labels in cache.join(dataset(rows)).batch(rows):
            np.testing.assert_array_equal(labels, y)
            np.testing.assert_allclose(soft_targets.decode(found.targets["logits"]), teacher()(found.inputs), atol=5e-3)
    assert not list(tmp_path.glob("job-*")) and not (tmp_path / "plan.json").exists()


def test_jobs_of_datasets_of_unknown_length(tmp_path):
    unknown = dataset(70).filter(lambda x, y: True)
    cache = kd.TeacherCache(tmp_path, teacher=teacher())
    cache.build(unknown, batch_size=1, shard=(0, 2), verbose=0)
    assert {number % 2 for number in shards_in(tmp_path)} == {0}
    cache.build(unknown, batch_size=1, shard=(1, 2), verbose=0)
    assert cache.info().examples == 70
    assert sum(1 for _ in cache.join(unknown)) == 70


def test_jobs_of_another_plan_are_refused(tmp_path):
    in_process(tmp_path, 20, (0, 2))
    with pytest.raises(ValueError, match="made with jobs = 2. Received: 3"):
        in_process(tmp_path, 20, (1, 3))
    with pytest.raises(ValueError, match="0 <= index < count"):
        in_process(tmp_path / "other", 20, (2, 2))


@pytest.mark.slow
def test_the_error_of_a_second_process_names_the_first(tmp_path):
    process = start(tmp_path, "--slow", 0.05)
    while not (tmp_path / "plan.json").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(ValueError, match="Another process is building into"):
            in_process(tmp_path, 200)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_finished_shards_are_kept(tmp_path, monkeypatch):
    in_process(tmp_path / "whole", 100)
    full = shards.shard_path(tmp_path / "full", 1, 3)
    full.parent.mkdir(parents=True)
    content = manifest.read(tmp_path / "whole" / manifest.MANIFEST)
    manifest.write(tmp_path / "full" / manifest.PLAN, {name: content[name] for name in content if name != "files"})
    partial = tmp_path / "no space"
    partial.symlink_to("/dev/full")
    named = shards.partial_path
    monkeypatch.setattr(shards, "partial_path", lambda path: partial if path == full else named(path))
    with pytest.raises(OSError, match="shard-000003.tfrecord'.*No space left.*call build again"):
        in_process(tmp_path / "full", 100)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "full").rglob("shard-*.tfrecord")}
    assert len(kept) == len(list((tmp_path / "whole" / "view-0000").iterdir())) + 3
    monkeypatch.undo()
    in_process(tmp_path / "full", 100)
    assert files(tmp_path / "full") == files(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_a_teacher_that_predicts_nan_is_refused(tmp_path):
    def broken(x):
        return tf.where(x[:, :1] == x[:, :1], x * np.nan, x)

    with pytest.raises(ValueError, match="examples 0 to 3.*NaN"):
        built(tmp_path, teacher=broken)


@pytest.mark.parametrize("augment", [None, jittered])
def test_a_warning_of_probabilities_read_as_logits_comes_before_they_are_stored(tmp_path, augment):
    model = teacher()

    def probable(x):
        return tf.nn.softmax(model(x))

    with pytest.warns(UserWarning, match="look like probabilities.*taken for logits"):
        built(tmp_path / "undeclared", teacher=[teacher(), probable], augment=augment)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The outputs of")
        built(tmp_path / "declared", teacher=[teacher(), kd.teachers.Frozen(probable, head="softmax")], augment=augment)


def test_features_that_half_precision_cannot_hold_are_refused(tmp_path):
    x = keras.Input((FEATURES,))
    large = keras.layers.Rescaling(1e6, name="large")(x)
    model = keras.Model(x, keras.layers.Dense(CLASSES)(large))
    with pytest.raises(ValueError, match='dtype="float32"'):
        built(tmp_path, teacher=model, taps=("large",))
    built(tmp_path / "wide", teacher=model, taps=("large",), dtype="float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype"),
        ({"views": 0, "augment": jittered}, "views"),
        ({"views": 2}, "augment"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": CLASSES + 1}, "number of classes"),
        ({"top_k": 2, "taps": ("hidden",)}, "softmax"),
        ({"taps": "logits"}, "taps"),
        ({"taps": ("nowhere",)}, "nowhere"),
        ({"check_bytes": 4}, "check_bytes"),
        ({"check_bytes": True}, "check_bytes"),
        ({"teacher": [lambda x: x, kd.teachers.EMA()]}, "let it run live"),
        ({"teacher": [lambda x: x, kd.teachers.Cached()]}, "let it run live"),
        ({"teacher": kd.teachers.EMA()}, "let it run live"),
        ({"teacher": kd.teachers.SelfTeacher()}, "let it run live"),
        ({"teacher": kd.teachers.Cached()}, "let it run live"),
        ({"teacher": kd.teachers.Ensemble([lambda x: x] * 2, weights="agreement")}, "the labels, the step"),
        ({"teacher": kd.teachers.Ensemble([lambda x: x] * 2, weights=[1.0, lambda step: 1.0])}, "the labels, the step"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.TeacherCache(tmp_path, **{"teacher": teacher(), **arguments})


def test_top_k_is_limited_by_the_output_of_the_fewest_classes(tmp_path):
    x = keras.Input((FEATURES,))
    model = keras.Model(x, {"few": keras.layers.Dense(3)(x), "many": keras.layers.Dense(5)(x)})
    kd.TeacherCache(tmp_path, teacher=model, taps=("few", "many"), top_k=3)
    with pytest.raises(ValueError, match=r"from 1 to the number of classes, \[3, 5\]"):
        kd.TeacherCache(tmp_path, teacher=model, taps=("few", "many"), top_k=4)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (lambda: dataset().batch(5), "one shape in all examples.*unbatch"),
        (lambda: dataset().batch(5, drop_remainder=True), "unbatch"),
        (lambda: dataset().repeat(), "repeat"),
        (lambda: dataset().take(0), "empty"),
        (lambda: dataset().map(lambda x, y: (tf.sparse.from_dense(x), y)), "make sparse and ragged ones dense"),
        (lambda: dataset().map(lambda x, y: (x[:2], y)), "cannot read"),
        (lambda: [data()[0], data()[1][:3]], "one length"),
    ],
)
def test_data_that_cannot_be_cached_is_refused(tmp_path, examples, message):
    with pytest.raises(ValueError, match=message):
        built(tmp_path, examples())
    assert not list(tmp_path.iterdir())  # before anything is written


@pytest.mark.parametrize(
    "change",
    [
        lambda examples: examples.shuffle(50),
        lambda examples: examples.shuffle(50, seed=1),
        lambda examples: examples.map(lambda x, y: (x + tf.random.normal([FEATURES]), y)),
        lambda examples: examples.map(lambda x, y: (x + tf.random.normal([FEATURES], seed=1), y)),
    ],
    ids=["shuffled", "shuffled from a seed", "augmented", "augmented from a seed"],
)
def test_a_dataset_that_differs_in_each_pass_is_refused_before_the_teacher_runs(tmp_path, change):
    with pytest.raises(ValueError, match="same order each time.*begins otherwise.*until after `join`.*`key`"):
        built(tmp_path, change(dataset()))
    assert not list(tmp_path.iterdir())


def test_any_fixed_order_is_accepted(tmp_path):
    fixed = dataset().shuffle(50, seed=1, reshuffle_each_iteration=False)
    assert sum(1 for _ in built(tmp_path, fixed).join(fixed)) == 50


def test_an_augmentation_that_ignores_its_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stateless"):
        built(tmp_path, augment=lambda x, seed: x + tf.random.normal([FEATURES]))


@pytest.mark.parametrize(("jobs", "rows"), [(1, 32), (15, 20)])
def test_a_plan_cuts_the_examples_into_whole_batches(jobs, rows):
    layout = Layout([Field("", "check", "uint16", ()), Field("logits", "values", "float16", (CLASSES,))])
    made = plan.make_plan({"views": 1}, layout, Examples(data(1000)[0]), None, 4, plan.Job(0, jobs))
    # About 32 shards, or 4 for each job where these are more: of 250 batches, a 32nd is 8, a 60th is 5.
    assert (made["rows_per_record"], made["rows_per_shard"]) == (4, rows)


@pytest.mark.parametrize("rows", [1, 4, 10])
def test_the_rows_of_a_shard_are_counted_from_its_size(tmp_path, rows):
    layout = Layout([Field("", "check", "uint16", ()), Field("logits", "values", "float16", (CLASSES,))])
    writer = shards.Writer(tmp_path / "shard", 4)
    writer.write(np.zeros((rows, 2 + 2 * CLASSES), np.uint8))
    writer.finish()
    made = {"layout": layout.get_config(), "rows_per_record": 4}
    assert shards.rows_in(tmp_path / "shard", made) == rows
    # TFRecord adds 16 bytes to each record, of 4 rows but for the last.
    records = {1: 1, 4: 1, 10: 3}[rows]
    size = (tmp_path / "shard").stat().st_size
    assert shards.size_bounds(rows, made) == (size, size) and size == 14 * rows + 16 * records


def test_records_of_large_rows_have_a_megabyte_and_shards_256():
    assert [shards.rows_per_record(row_bytes, 12) for row_bytes in (2**18, 2**18 + 1, 2**21)] == [4, 3, 1]
    assert shards.rows_per_shard(2**20, 4, 10**6, 1) == 256
    assert shards.rows_per_shard(14, 4, None, 1) == 256  # 64 batches, where the number of examples is not known
    assert shards.rows_per_shard(2**30, 2, 100, 1) == 2  # a batch, however large


# Several processes, on one machine or on several


def test_a_builder_that_starts_when_another_has_just_finished_uses_its_cache(tmp_path, monkeypatch, capsys):
    late = kd.TeacherCache(tmp_path, teacher=teacher())
    make_plan = teacher_cache.make_plan

    def while_the_other_builds(*arguments):
        monkeypatch.setattr(teacher_cache, "make_plan", make_plan)
        built(tmp_path)
        return make_plan(*arguments)

    monkeypatch.setattr(teacher_cache, "make_plan", while_the_other_builds)
    late.build(dataset(), 4, verbose=1)
    assert "finished already" in capsys.readouterr().out
    assert late.info().examples == 50 and sum(1 for _ in late.join(dataset())) == 50


def test_a_lock_whose_file_was_removed_meanwhile_is_acquired_on_the_new_one(tmp_path, monkeypatch):
    path, lock_now, opened = tmp_path / "job.lock", manifest.lock_now, []

    def lock_after_the_holder_has_ended(descriptor):
        if not opened:
            path.unlink()
        opened.append(descriptor)
        lock_now(descriptor)

    monkeypatch.setattr(manifest, "lock_now", lock_after_the_holder_has_ended)
    with manifest.lock(path):
        assert path.exists() and len(opened) == 2
        with pytest.raises(ValueError, match="Another process is building"), manifest.lock(path):
            pass
    assert not path.exists()


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(manifest, "lock_now", no_locks)
    with pytest.raises(ValueError, match="file system with locks.*No locks available"):
        built(tmp_path)


def cluster(monkeypatch, index):
    """Let this process be one of two workers."""
    config = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def test_a_worker_does_not_wait_for_ever_for_one_that_has_ended(tmp_path, monkeypatch):
    cluster(monkeypatch, 0)
    monkeypatch.setattr(plan, "_PATIENCE", 0.5)
    monkeypatch.setattr(plan, "_SHARDS_MISSED", 0.0)
    cache = kd.TeacherCache(tmp_path, teacher=teacher())
    with pytest.raises(TimeoutError, match="Expected job 1 of 2 to write.*Nothing was written for.*start all workers"):
        cache.build(dataset(), 4, verbose=0)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    cluster(monkeypatch, 1)
    cache.build(dataset(), 4, verbose=0)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()) and kept
    assert cache.info().examples == 50


def test_a_worker_waits_as_long_as_the_others_make_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_PATIENCE", 0.4)

    def other():
        for number in range(6):
            time.sleep(0.2)
            (tmp_path / f"shard-{number}").touch()
        (tmp_path / manifest.MANIFEST).touch()

    thread = threading.Thread(target=other)
    thread.start()
    started = time.monotonic()
    plan.wait(tmp_path, {"jobs": 2}, seconds_per_shard=0.0)
    thread.join()
    assert time.monotonic() - started > 0.8


def test_a_worker_that_waits_names_every_minute_the_jobs_that_are_missing(tmp_path, monkeypatch, capsys):
    seconds = []

    def half_a_minute(_):
        seconds.append(30.0)
        if sum(seconds) == 150.0:
            (tmp_path / manifest.MANIFEST).touch()

    clock = types.SimpleNamespace(monotonic=lambda: sum(seconds), sleep=half_a_minute)
    monkeypatch.setattr(plan, "time", clock)
    plan.wait(tmp_path, {"jobs": 2}, seconds_per_shard=0.0)
    assert capsys.readouterr().out.count("Waiting for job 0 of 2, job 1 of 2") == 3  # after 0, 60 and 120 seconds


@pytest.mark.parametrize(("kind", "workers"), [("evaluator", 2), ("worker", 1)])
def test_an_evaluator_and_a_worker_that_is_alone_share_no_work(monkeypatch, kind, workers):
    machines = {"worker": ["localhost:1", "localhost:2"][:workers], "evaluator": ["localhost:3"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": machines, "task": {"type": kind, "index": 0}}))
    assert plan.job_of_cluster() is None


def test_patience_follows_from_the_time_that_a_shard_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_PATIENCE", 0.1)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        plan.wait(tmp_path, {"jobs": 2}, seconds_per_shard=0.04)
    assert 0.8 < time.monotonic() - started < 5  # 20 shards of 0.04 s


def test_unfinished_files_of_two_machines_have_different_names(monkeypatch):
    path = pathlib.Path("view-0000/shard-000001.tfrecord")
    here = {shards.partial_path(path).name for _ in range(50)}  # of one process, too
    assert len(here) == 50 and all(name.startswith(f"partial-{socket.gethostname()}-{os.getpid()}-") for name in here)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert shards.partial_path(path).name.startswith("partial-elsewhere-")


def test_unfinished_files_are_removed_by_the_job_that_continues_and_at_the_end(tmp_path, monkeypatch):
    folder = tmp_path / "view-0000"
    cache = kd.TeacherCache(tmp_path, teacher=teacher())
    cache.build(dataset(), 4, shard=(0, 2), verbose=0)
    own, others = (shards.partial_path(folder / f"shard-{number:06d}.tfrecord") for number in (4, 3))
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    elsewhere = shards.partial_path(folder / "shard-000004.tfrecord")
    monkeypatch.undo()
    for path in (own, others, elsewhere):
        path.touch()
    cache.build(dataset(), 4, shard=(0, 2), verbose=0)
    assert not own.exists() and others.exists() and elsewhere.exists()
    cache.build(dataset(), 4, shard=(1, 2), verbose=0)
    assert not list(tmp_path.rglob("partial-*"))


@pytest.mark.parametrize(
    "name", ["view-0000", "view-0000/shard-000002.tfrecord", "timing-job-00000-of-00001.json", "plan.json"]
)
def test_a_link_in_the_folder_is_not_followed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir() if name == "view-0000" else victim.write_text("precious")
    link = tmp_path / "cache" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(ValueError, match=f"{pathlib.Path(name).name}' is a link to '{victim}'. Remove it"):
        built(tmp_path / "cache")
    assert not list(victim.iterdir()) if victim.is_dir() else victim.read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "job-00000-of-00001.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="folder that can be written to"):
        built(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_is_itself_a_link_is_built_into(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert built(tmp_path / "cache").info().examples == 50


def test_the_error_of_a_missing_cache_names_how_to_build_one(tmp_path):
    with pytest.raises(ValueError, match="There is no cache"):
        kd.TeacherCache(tmp_path)
    with pytest.raises(ValueError, match="There is no cache"):
        kd.TeacherCache(tmp_path, teacher=teacher()).join(dataset())
