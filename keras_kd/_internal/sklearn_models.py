"""What scikit-learn's estimators have in common, and those of LightGBM, XGBoost and others with their protocol."""

from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
from keras import tree

#: What to give in the place of a DataFrame.
_BY_NAME = "columns by name, fit({name: df[name].to_numpy() for name in df}, y)"


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


def check_fitted(estimator: Any) -> None:
    """Refuse an estimator that is not fitted, where scikit-learn knows it."""
    try:
        from sklearn.base import BaseEstimator
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    except ImportError:  # then it is none of scikit-learn's
        return
    if not isinstance(estimator, BaseEstimator):
        return
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ValueError(
            f"Expected a fitted estimator. Received: {type(estimator).__name__} that is not. Call its `fit` first."
        ) from error


def columns_of(estimator: Any) -> list[str] | None:
    """Return the names of the columns that an estimator was fitted on, or None for one fitted on arrays."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def as_fitted(estimator: Any, x: Any) -> Any:
    """Return rows in the form of those that an estimator was fitted on: a DataFrame with its columns, or an array.

    Args:
        estimator: a fitted one.
        x: an array, (rows, columns), or a dict from names to arrays, (rows,) or (rows, 1), which may have more.

    Raises:
        ValueError: a column is missing, or has more than one value a row.
        ImportError: pandas is not installed.
    """
    name, names = type(estimator).__name__, columns_of(estimator)
    if names is None:
        if isinstance(x, dict):
            raise ValueError(
                f"Expected one array of columns, as {name} has no `feature_names_in_`. Received: a dict with "
                f"{sorted(x)}. Fit it on a DataFrame, or stack them by `preprocess` in the order of its columns."
            )
        return x
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"To give {name} the DataFrame that it expects: pip install pandas") from error
    if isinstance(x, dict):
        missing = [each for each in names if each not in x]
        if missing:
            raise ValueError(
                f"Expected the columns that {name} was fitted on. Missing: {missing}. Received: {sorted(x)}."
            )
        columns = {each: _column(each, x[each]) for each in names}
        text = [each for each, values in columns.items() if values.dtype == object and _takes_categories(estimator)]
        return pandas.DataFrame(columns).astype({each: "category" for each in text})
    if np.ndim(x) != 2 or np.shape(x)[1] != len(names):
        raise ValueError(
            f"Expected a dict of columns, or an array with the {len(names)} columns that {name} was fitted on, "
            f"{names}. Received: {np.shape(x) if hasattr(x, 'shape') else type(x).__name__}."
        )
    return pandas.DataFrame(x, columns=names)


def check_frame(estimator: Any, x: Any) -> None:
    """Refuse a DataFrame that Keras would not read as the table that an estimator was fitted on.

    Args:
        estimator: a fitted one.
        x: as `fit` takes it. Keras reads a DataFrame as one array, without names, and no text of pandas.
    """
    frames = [each for each in tree.flatten(x) if hasattr(each, "iloc")]  # of pandas, which need not be installed
    of_no_numbers = [each for each in frames if np.asarray(each.iloc[:1]).dtype == object]
    if of_no_numbers:
        raise TypeError(
            f"Expected numbers, or arrays. Received: a {type(of_no_numbers[0]).__name__} with text or several types, "
            f"which Keras cannot read. Give {_BY_NAME}, to a student that has an input for each column that it reads."
        )
    names = columns_of(estimator)
    given = [[str(name) for name in each.columns] for each in frames if each is x and each.ndim == 2]
    if names is not None and given and given[0] != names:
        raise ValueError(
            f"Expected the columns that {type(estimator).__name__} was fitted on, in their order, {names}: Keras reads "
            f"a DataFrame as one array, without names. Received: {given[0]}. Give df[{names}], or {_BY_NAME}."
        )


def _takes_categories(estimator: Any) -> bool:
    """Return whether text has to be pandas categories, which LightGBM, and XGBoost from 3.1 on, find by their names."""
    packages = {each.__module__.partition(".")[0] for each in type(estimator).__mro__}
    return "lightgbm" in packages or ("xgboost" in packages and hasattr(estimator.get_booster(), "get_categories"))


def _column(name: str, values: Any) -> Any:
    values = np.asarray(values)
    if values.size != len(values):
        raise ValueError(f"Expected one value a row in the column {name!r}. Received: {values.shape}.")
    return values.reshape(-1)
