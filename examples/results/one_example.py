"""What a teacher and a student take for one example, the student as a LiteRT file."""

import argparse
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras

import keras_kd as kd

logging.getLogger("tensorflow").setLevel("ERROR")  # it warns of many models in one process


def costs(
    name: str,
    teacher: Callable[[], Any],
    student: keras.Model,
    x: Any,
    options: argparse.Namespace,
    quantize: str | None = None,
) -> dict[str, float]:
    """Export the student, and return its bytes and the microseconds of both, as `recorded.Result` names them.

    Args:
        name: of the folder to write in `options.output`; what is there is replaced.
        teacher: a function that predicts for one example.
        student: a trained one.
        x: some hundred examples.
        options: of the command line.
        quantize: as `kd.export` takes it.
    """
    folder = options.output / name
    shutil.rmtree(folder, ignore_errors=True)
    report = kd.export(
        student, folder, formats=("litert",), quantize=quantize, representative=x, fresh=not options.smoke
    )
    (file,) = report.artefacts
    return {
        "student_bytes": file.size,
        "teacher_us": microseconds(teacher, 10 if options.smoke else 200),
        "student_us": 1e3 * file.latency[0],
    }


def microseconds(call: Callable[[], Any], rounds: int) -> float:
    """Return the median of a number of calls, after some that warm up."""
    times = []
    for number in range(-5, rounds):
        started = time.perf_counter()
        call()
        times += [time.perf_counter() - started] if number >= 0 else []
    return 1e6 * statistics.median(times)
