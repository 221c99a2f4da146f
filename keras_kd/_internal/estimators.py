"""What scikit-learn's estimators have in common, and those of LightGBM, XGBoost and others with their protocol."""

from typing import Any, Protocol, runtime_checkable

import keras


@runtime_checkable
class Estimator(Protocol):
    """An object that predicts for the rows of a table."""

    def predict(self, x: Any, /) -> Any:
        """Return what is predicted for each row."""

    def get_params(self) -> dict[str, Any]:
        """Return the arguments that it was made with."""


def is_estimator(value: Any) -> bool:
    """Return whether an object has the protocol, and is neither a class nor a Keras layer."""
    return isinstance(value, Estimator) and not isinstance(value, (type, keras.layers.Layer))
