"""Tables that `fit` takes, in places that need arrays."""

from typing import Any

import numpy as np
from keras import tree

from keras_kd._types import Tensors


def as_arrays(data: Tensors) -> Tensors:
    """Return data with an array in the place of each pandas DataFrame or Series, as Keras reads them.

    Raises:
        TypeError: a SciPy sparse matrix, of which Keras makes sparse tensors.
    """
    return tree.map_structure(_as_array, data)


def _as_array(leaf: Any) -> Any:
    if hasattr(leaf, "tocsr"):  # of SciPy, which need not be installed
        raise TypeError(
            f"Expected dense arrays here. Received a sparse matrix, {type(leaf).__name__} of the shape {leaf.shape}. "
            "Give x.toarray(), or, where that is too large, a tf.data.Dataset that makes its examples dense."
        )
    if not hasattr(leaf, "iloc"):  # of pandas, which need not be installed
        return leaf
    array = np.asarray(leaf)
    return array[:, None] if array.ndim == 1 else array
