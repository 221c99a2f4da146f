"""Run the fits of a pipeline one after the other, each resumable: what `stages` is made of.

A stage keeps its state in a folder after every epoch: weights, optimizer, random state. A stage that was killed goes on
with its next epoch and ends where it would have ended; one that was finished is read back.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches
from keras_kd._internal.files import plain, readable, replace
from keras_kd._internal.log import info
from keras_kd._keras import loops
from keras_kd._types import Tensors
from keras_kd.distiller import Distiller

#: What `Distiller.compile` takes and a plain model does not.
_OF_THE_DISTILLER = ("temperature", "alpha")

_REFUSED = ("initial_epoch", "validation_split")


@dataclasses.dataclass
class Stage:
    """What happened in one stage.

    Attributes:
        name: number and name, as in "2-assistant".
        model: the model that was trained.
        teacher: name of what it learned from, or "labels".
        parameters: number of its weights.
        epochs: epochs run.
        seconds: time in `fit`, over all of its runs.
        logs: the last epoch's logs.
        path: the model's .keras file, or None where no folder was given.
    """

    name: str
    model: keras.Model
    teacher: str
    parameters: int
    epochs: int
    seconds: float
    logs: dict[str, float]
    path: str | None


Record = list[Stage]


class Pipeline:
    """Run stages with the same arguments.

    Args:
        compile_arguments: as for `Distiller.compile`; each stage gets an optimizer and metrics of its own.
        fit_arguments: as for `fit`, x and epochs among them.
        folder: where to keep finished and half-finished stages; None keeps nothing.
        seed: of the order of arrays, of fresh weights and of dropout, another in each stage.

    Raises:
        ValueError: an argument that a resumable stage cannot take.
    """

    def __init__(
        self, compile_arguments: dict[str, Any], fit_arguments: dict[str, Any], folder: Any = None, seed: int = 0
    ) -> None:
        if "x" not in fit_arguments:
            raise ValueError(f"Expected `fit_arguments` with the data as 'x'. Received: {sorted(fit_arguments)}")
        refused = [name for name in _REFUSED if name in fit_arguments]
        if refused:
            raise ValueError(f"Expected `fit_arguments` without {refused}: a stage sets or cannot resume these.")
        self.compile_arguments = compile_arguments
        self.fit_arguments = {"epochs": 1, **fit_arguments}
        self.folder = None if folder is None else pathlib.Path(folder)
        self.seed = seed
        self.record: Record = []

    def next_seed(self) -> int:
        """Seed everything for the next stage, the same way whether stages before it were run or read back."""
        seed = self.seed + len(self.record)
        keras.utils.set_random_seed(seed)
        return seed

    def next_name(self, model: keras.Model) -> str:
        """Return the name of the next stage, which is that of its folder too."""
        return f"{len(self.record) + 1}-{model.name}"

    def run(
        self,
        model: keras.Model,
        teacher: str,
        trained: keras.Model | None = None,
        callbacks: tuple[keras.callbacks.Callback, ...] = (),
        finish: Callable[[], None] = lambda: None,
        prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda arguments: arguments,
        label: Callable[[Tensors], Tensors] | None = None,
    ) -> Stage:
        """Train, go on training, or read back, one model.

        Args:
            model: what the stage is about and saves.
            teacher: name of what it learns from, for the record.
            trained: what is compiled and fitted, a Distiller around the model; None for the model itself.
            callbacks: run before the state of an epoch is kept.
            finish: called after the last epoch.
            prepare: changes the arguments of `compile`.
            label: changes the labels.
        """
        name = self.next_name(model)
        seed = self.next_seed()
        trained = model if trained is None else trained
        trained.compile(**prepare(fresh_arguments(self.compile_arguments, isinstance(trained, Distiller))))
        keeper = _Keeper(self.folder and self.folder / name, name, model, self.fit_arguments["epochs"], seed)
        keeper.check()
        if keeper.done is None:
            info(f"stage {name}: {model.count_params():,} parameters, from {teacher}")
            self._fit(trained, keeper, callbacks, finish, label, seed)
        else:
            keeper.read_model()
            if not self.fit_arguments.get("steps_per_epoch"):
                _pass_over(self.fit_arguments["x"], keeper.done["epochs"])
        stage = Stage(name, model, teacher, model.count_params(), **keeper.done, path=keeper.path)
        self.record.append(stage)
        return stage

    def _fit(
        self,
        trained: keras.Model,
        keeper: "_Keeper",
        callbacks: tuple[keras.callbacks.Callback, ...],
        finish: Callable[[], None],
        label: Callable[[Tensors], Tensors] | None,
        seed: int,
    ) -> None:
        arguments = dict(self.fit_arguments)
        if isinstance(trained, Distiller) and trained.teacher is not None:
            verbose = arguments.get("verbose", "auto")
            arguments["x"] = trained.teacher.before_fit(arguments["x"], verbose)  # which may want the arrays
        data = _dataset(arguments, seed)
        arguments["validation_data"] = validation_data(arguments)
        if label is not None:
            data = data.map(lambda x, y, *weight: (x, label(y), *weight))
            if arguments["validation_data"] is not None:
                arguments["validation_data"] = arguments["validation_data"].map(
                    lambda x, y, *weight: (x, label(y), *weight)
                )
        start = keeper.restore(trained)
        if start == 0:
            _seed_layers(trained, seed)
        steps = arguments.get("steps_per_epoch")
        if steps:
            data = data.skip(start * steps)
        else:
            _pass_over(data, start)
        given = arguments.pop("callbacks", None) or []
        trained.fit(data, **arguments, shuffle=False, initial_epoch=start, callbacks=[*given, *callbacks, keeper])
        finish()
        keeper.finish()


class _Keeper(keras.callbacks.Callback):
    """Keep the state of a stage after each epoch, and its result at the end."""

    def __init__(self, folder: pathlib.Path | None, name: str, model: keras.Model, epochs: int, seed: int) -> None:
        super().__init__()
        self.folder = folder
        self.name = name
        self.kept = model
        self.path = None if folder is None else str(folder / "model.keras")
        self.plan = {"epochs": epochs, "seed": seed, "weights": [list(weight.shape) for weight in model.weights]}
        self.done: Any = None
        self.epochs, self.seconds = 0, 0.0
        self.logs: dict[str, float] = {}
        self.started = time.perf_counter()

    def check(self) -> None:
        """Read a finished stage back, or make sure that this one can be saved, before any work is done.

        Raises:
            ValueError: the folder holds a stage that was planned otherwise.
        """
        if self.folder is None:
            return
        plan = self.folder / "plan.json"
        if plan.exists():
            with readable(plan, self._remedy):
                there = json.loads(plan.read_text())
            if there != self.plan:
                raise ValueError(
                    f"Expected {str(self.folder)!r} to hold the stage that is to be resumed. It was planned otherwise: "
                    f"{json.dumps(there)} there, {json.dumps(self.plan)} now. Use another folder, or remove that one."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(plan, lambda path: path.write_text(json.dumps(self.plan)))
        done = self.folder / "done.json"
        if done.exists():
            with readable(done, self._remedy):
                self.done = _checked(json.loads(done.read_text()))
        else:
            self._save_model()

    def read_model(self) -> None:
        """Give the model the weights that a finished stage has saved."""
        path = pathlib.Path(str(self.path))
        with readable(path, self._remedy):
            self.kept.load_weights(path)

    def restore(self, trained: keras.Model) -> int:
        """Bring a model and its optimizer to the state after the last epoch that was kept; return the next epoch."""
        self.started = time.perf_counter()
        if self.folder is None or not (self.folder / "state.npz").exists():
            return 0
        trained.optimizer.build(trained.trainable_variables)
        path = self.folder / "state.npz"
        with readable(path, self._remedy), np.load(path, allow_pickle=False) as state:
            for number, variable in enumerate(_variables(trained)):
                variable.assign(state[f"variable_{number}"].astype(variable.dtype))
            found = {"epochs": int(state["epochs"]), "seconds": float(state["seconds"])}
            kept = _checked({**found, "logs": json.loads(str(state["logs"]))})
            self.epochs, self.seconds, self.logs = kept["epochs"], kept["seconds"], kept["logs"]
        return self.epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep weights, optimizer, random state and logs."""
        self.logs = {name: float(value) for name, value in (logs or {}).items()}
        self.epochs = epoch + 1
        if self.folder is None:
            return
        values: dict[str, Any] = {
            f"variable_{number}": plain(variable) for number, variable in enumerate(_variables(self.model))
        }
        values.update(epochs=self.epochs, seconds=self._seconds(), logs=json.dumps(self.logs))
        replace(self.folder / "state.npz", lambda path: np.savez(path, **values))

    def finish(self) -> None:
        """Save the model, then mark the stage as done."""
        self.done = {"epochs": self.epochs, "seconds": self._seconds(), "logs": self.logs}
        if self.folder is not None:
            self._save_model()
            replace(self.folder / "done.json", lambda path: path.write_text(json.dumps(self.done)))
            (self.folder / "state.npz").unlink(missing_ok=True)

    def _save_model(self) -> None:
        replace(pathlib.Path(str(self.path)), self.kept.save)

    @property
    def _remedy(self) -> str:
        return f"Remove {str(self.folder)!r}, and the stage is run again."

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.started


def _checked(record: Any) -> dict[str, Any]:
    """Return what is on record of a stage, if it is what `_Keeper` writes."""
    epochs, seconds, logs = (record[name] for name in ("epochs", "seconds", "logs"))
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"'epochs' is {epochs!r}")
    return {"epochs": epochs, "seconds": float(seconds), "logs": {name: float(logs[name]) for name in dict(logs)}}


def validation_data(arguments: dict[str, Any]) -> tf.data.Dataset | None:
    """Return the validation data of `fit`'s arguments in batches, or None."""
    data = arguments.get("validation_data")
    if data is None or isinstance(data, tf.data.Dataset):
        return data
    size = arguments.get("validation_batch_size") or arguments.get("batch_size") or 32
    return batches.dataset(data, size)


def _dataset(arguments: dict[str, Any], seed: int) -> tf.data.Dataset:
    """Take the data out of `fit`'s arguments, as batches whose order is the same in every run."""
    x, y, weight = (arguments.pop(name, None) for name in ("x", "y", "sample_weight"))
    shuffle = arguments.pop("shuffle", True)
    if isinstance(x, tf.data.Dataset):
        return x
    if not all(map(batches.is_array, tree.flatten(x))):
        raise ValueError(
            "Expected the data of a stage as arrays or a tf.data.Dataset, which can be read again from any epoch. "
            f"Received: {type(x).__name__}"
        )
    size = arguments.pop("batch_size", None) or 32
    return batches.dataset((x, y, weight), size, seed if shuffle else None)


def _pass_over(data: Any, epochs: int) -> None:
    """Bring a dataset that shuffles again for each iterator to its order after so many epochs of `fit`."""
    if isinstance(data, tf.data.Dataset):
        for _ in range(epochs * loops.iterators_per_epoch(data)):
            next(iter(data), None)


def _seed_layers(model: keras.Model, seed: int) -> None:
    """Set the random state of dropout and the like: it counts how often a model has run, and no file holds it."""
    others = {id(each) for each in (*model.weights, *model.optimizer.variables)}
    states = [each for each in _variables(model) if id(each) not in others]
    for state, value in zip(states, np.random.SeedSequence(seed).generate_state(len(states)), strict=True):
        state.assign([value, 0])


def fresh_arguments(arguments: dict[str, Any], distils: bool) -> dict[str, Any]:
    """Return arguments of `compile` with an optimizer and metrics that no other stage has used."""
    copied = {name: value for name, value in arguments.items() if distils or name not in _OF_THE_DISTILLER}
    if isinstance(copied.get("optimizer"), keras.optimizers.Optimizer):
        copied["optimizer"] = keras.optimizers.deserialize(keras.optimizers.serialize(copied["optimizer"]))
    for name in ("metrics", "weighted_metrics"):
        copied[name] = tree.map_structure(fresh_metric, copied.get(name))
    return copied


def fresh_metric(metric: Any) -> Any:
    """Return a metric of the same settings; a name or a function is one already."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return what a step depends on and changes: weights, random state, optimizer; not the metrics."""
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [each for each in model.variables if id(each) not in metrics] + list(model.optimizer.variables)
