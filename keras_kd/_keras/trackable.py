"""An object whose attributes a SavedModel holds."""

from typing import Any

import tensorflow as tf


def trackable() -> Any:
    """Return an empty object that TensorFlow tracks; a `tf.Module` has no place for a list named `variables`."""
    return tf.__internal__.tracking.AutoTrackable()
