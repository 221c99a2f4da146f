"""Say which Keras backend the library needs, before anything else can fail."""

import os

try:
    import keras

    _backend = keras.backend.backend()
except ImportError:  # the other backend is not installed: that is not what this is about
    _backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if _backend == "tensorflow":
        raise

if _backend != "tensorflow":
    raise ImportError(
        f"keras_kd needs the TensorFlow backend of Keras. Received: {_backend!r}. "
        "Set the environment variable KERAS_BACKEND=tensorflow before the first import of keras."
    )
