"""What a tf.data.Dataset was made of."""

import tensorflow as tf


def sources(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Return a dataset, and all that it was made of by `map`, `batch`, `zip` and the like, each once."""
    found = {id(dataset): dataset}
    new = [dataset]
    while new:
        inputs = {id(each): each for one in new for each in one._inputs()}
        new = [each for key, each in inputs.items() if key not in found]
        found |= inputs
    return list(found.values())
