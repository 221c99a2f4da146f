"""Where `kd.export` writes: two at once, links, a disk that is full."""

import contextlib
import errno
import functools
import os
import shutil
import threading
import types

import keras
import pytest

import keras_kd as kd
from keras_kd.exporting.scratch_folder import is_full, scratch
from tests.models import mlp

export = functools.partial(kd.export, fresh=False)


def test_a_second_export_to_a_path_is_refused_before_any_work(tmp_path):
    with scratch(tmp_path / "1"):
        with pytest.raises(
            FileExistsError, match="no other export to .*1. One is going on in .*Wait for it, or remove"
        ):
            export(mlp(1), tmp_path / "1")
        export(mlp(1), tmp_path / "2")
    export(mlp(1), tmp_path / "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_of_exports_that_start_at_once_one_is_written_and_the_others_are_refused(tmp_path):
    barrier, found = threading.Barrier(8), []

    def one(i):
        barrier.wait()
        try:
            with scratch(tmp_path / "1") as folder:
                (folder / "version").mkdir()
                barrier.wait(timeout=30)
                found.append("written")
        except FileExistsError:
            found.append("refused")
            barrier.wait(timeout=30)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["refused"] * 7 + ["written"] and list(tmp_path.iterdir()) == []


def test_a_path_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    written = []

    def write(self, folder):
        (tmp_path / "1").mkdir()
        written.append(folder)

    monkeypatch.setattr("keras_kd.exporting.export_report.ExportReport.write", write)
    with pytest.raises(FileExistsError, match="1 exists, and is not overwritten"):
        export(mlp(1), tmp_path / "1")
    assert written and list((tmp_path / "1").iterdir()) == [] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("place", ["itself", "parent", "grandparent", "loop"])
def test_a_link_to_nowhere_is_named_before_any_work(tmp_path, place):
    link = tmp_path / "link"
    link.symlink_to(link if place == "loop" else tmp_path / "nowhere")
    path = {"parent": link / "1", "grandparent": link / "a" / "1"}.get(place, link)
    with pytest.raises(FileExistsError, match="link is a link to .*, which does not exist"):
        export(mlp(1), path)
    assert list(tmp_path.iterdir()) == [link]


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(mlp(1), tmp_path / "link" / "1")
    assert (tmp_path / "real" / "1" / "saved_model.pb").exists()


def test_space_for_the_weights_is_checked_before_any_work(tmp_path, monkeypatch):
    student = mlp(1, units=1000)  # 8,003 weights of 4 bytes
    bytes_needed = 4 * sum(weight.size for weight in student.get_weights())
    for free, enough in ((bytes_needed - 1, False), (bytes_needed, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        if enough:
            export(student, tmp_path / "1")
            return
        with pytest.raises(OSError, match="room for at least 0.0 MiB .*are free") as caught:
            export(student, tmp_path / "1")
        assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def files_of_at_most(size):
    """Let this process write no larger files, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="no such limits there")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("formats", [("saved_model",), ("keras",), ("saved_model", "litert", "onnx", "keras")])
def test_a_file_without_space_is_an_error_that_names_it_and_leaves_nothing(tmp_path, formats):
    pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    x = keras.Input((300,))
    student = keras.Model(x, keras.layers.Dense(300)(x))  # 353 KiB
    with files_of_at_most(100_000), pytest.raises(OSError, match="room for the export.*Nothing was written") as caught:
        export(student, tmp_path / "1", formats=formats)
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_the_folders_above_an_export_are_made(tmp_path):
    with scratch(tmp_path / "models" / "student" / "1") as folder:
        assert folder.is_dir() and folder.parent == tmp_path / "models" / "student"


def test_messages_of_other_processes_show_a_full_disk():
    assert is_full("UnknownError: /x: No space left on device") and is_full(f"[Errno 27] {os.strerror(errno.EFBIG)}")
    assert not is_full("largest difference 3, allowed 2")


def test_an_error_that_is_not_about_space_stays_unchanged(tmp_path):
    with pytest.raises(PermissionError, match="mine"), scratch(tmp_path / "1"):
        raise PermissionError(errno.EACCES, "mine")
    assert list(tmp_path.iterdir()) == []
