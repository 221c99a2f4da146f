"""The parts of Keras's training loop that a Distiller replaces."""

from typing import Any

import keras

from keras_kd._keras import loops, replicas, step_errors


class Trainer(keras.Model):
    """A `keras.Model` whose steps cost less, whose checks raise a `ValueError`, and which trains on uneven replicas."""

    def before_training(self, iterator: Any) -> Any:
        """Prepare for the first step of `fit`, and return the iterator that it is to read."""
        return iterator

    def before_evaluation(self, iterator: Any) -> Any:
        """Prepare for the first step of `evaluate`, and return the iterator that it is to read."""
        return iterator

    def prepared(self, x: Any, y: Any, sample_weight: Any, batch_size: int | None, *, predicts: bool) -> Any:
        """Return x, y, sample_weight and batch_size that `evaluate`, or `predict`, is to read in the place of these."""
        return x, y, sample_weight, batch_size

    def evaluate(  # type: ignore[override]  # Keras's further arguments go by name
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        **keras_arguments: Any,
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does."""
        if not keras_arguments.get("_use_cached_eval_dataset"):  # `fit` has prepared it
            x, y, sample_weight, batch_size = self.prepared(x, y, sample_weight, batch_size, predicts=False)
        return super().evaluate(x, y, batch_size, verbose, sample_weight, **keras_arguments)

    def predict(  # type: ignore[override]
        self, x: Any, batch_size: int | None = None, verbose: int | str = "auto", **keras_arguments: Any
    ) -> Any:
        """Predict as `keras.Model.predict` does."""
        x, _, _, batch_size = self.prepared(x, None, None, batch_size, predicts=True)
        return super().predict(x, batch_size, verbose, **keras_arguments)

    def make_train_function(self, force: bool = False) -> None:
        """Make the function for a step; what it checks in the data raises a `ValueError`."""
        if self.train_function is None or force:
            super().make_train_function(force)
            function = loops.fast_function(self, self.train_step, self.train_function)
            self.train_function = step_errors.with_value_errors(self, function, self.before_training)

    def make_test_function(self, force: bool = False) -> None:
        """Make the function for a step of evaluation; errors as in training."""
        if self.test_function is None or force:
            super().make_test_function(force)
            function = loops.fast_function(self, self.test_step, self.test_function)
            self.test_function = step_errors.with_value_errors(self, function, self.before_evaluation)

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the epoch's metrics under the keys of the last step's logs; Keras wants the two sets to be equal."""
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build what a first batch decides about, under a strategy."""
        replicas.build_model(self, iterator, data_batch)
