"""What every test starts from, and the one data set that is not embedded in a package."""

import collections
import gc
import os
import signal
import zlib

import keras
import pytest

from keras_kd import data

# TensorFlow and Keras hold millions of objects, which tracing a function would have looked through again and again: a
# fifth of the time of the tests.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """Leave out slow tests, unless KERAS_KD_THOROUGH is set, and a part of the cases of others.

    Of the cases of a test with parameters, a sixth runs, or one in n of those marked `one_in`; cases are those of a
    test, or all tests whose marker has the same `group`. Which ones depends on KERAS_KD_DRAW, which .ci/run sets to the
    commit; where it is set, a twentieth of the slow tests is drawn, too. With KERAS_KD_THOROUGH=all, all run.
    """
    changing = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if changing:  # workers of pytest-xdist would collect different tests, and run none
        raise pytest.UsageError(f"Expected names of tests that stay the same, without addresses. Received: {changing}")
    thorough = os.environ.get("KERAS_KD_THOROUGH")
    if thorough == "all":
        return
    families = collections.defaultdict(list)
    draw = os.environ.get("KERAS_KD_DRAW", "")
    for item in items:
        marker, is_slow = item.get_closest_marker("one_in"), bool(item.get_closest_marker("slow"))
        if is_slow and not thorough:
            item.add_marker(pytest.mark.skip(reason="slow: with KERAS_KD_THOROUGH=1"))
        elif marker:
            family = marker.kwargs.get("group", (item.path, item.originalname))
            families[family, marker.args[0], is_slow].append(item)
        elif is_slow and draw:
            families["slow", 20, True].append(item)
        elif hasattr(item, "callspec"):
            families[(item.path, item.originalname), 6, is_slow].append(item)
    left_out = set()
    for (_, n, _), cases in families.items():
        # By a hash of the names, so that each value of several parameters has its turn.
        drawn = sorted(cases, key=lambda item: zlib.crc32((draw + item.name).encode()))
        left_out.update(drawn[-(-len(cases) // n) :])
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def fresh_keras():
    """Give each test a Keras without models of other tests, and the same random numbers."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt this process, also where it was started in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def fashion_mnist():
    """Fashion-MNIST, for tests marked `tfds`; skips them where there is neither the data nor a network."""
    try:
        return data.load("fashion_mnist")
    except ConnectionError as error:
        pytest.skip(str(error))
