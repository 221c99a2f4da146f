"""What keras_kd/_keras relies on and Keras, TensorFlow and KerasTuner do not document, in one sentence for each name.

A release that breaks a sentence is found here, before a training fails. `make test-newest` runs them on pre-releases.
"""

import ast
import inspect
import json
import multiprocessing
import pathlib
import types
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.exporting import litert_conversion
from tests import private_names

X = np.arange(12, dtype="float32").reshape(6, 2)
Y = np.zeros((6, 1), "float32")

#: Which private names a sentence is about.
CONTRACTS: dict[str, str] = {}


def about(*names):
    def noted(test):
        CONTRACTS.update(dict.fromkeys(names, test.__name__))
        return test

    return noted


def linear(kind=keras.Model, **arguments):
    inputs = keras.Input((2,))
    return kind(inputs, keras.layers.Dense(1, **arguments)(inputs))


def compiled(kind=keras.Model, metrics=None):
    model = linear(kind)
    model.compile("sgd", "mse", metrics=metrics, run_eagerly=True)
    return model


@pytest.fixture
def two_replicas(monkeypatch):
    """Make Keras see a strategy of two replicas."""
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: types.SimpleNamespace(num_replicas_in_sync=2))


def test_each_private_name_has_its_sentence():
    trees = [ast.parse(path.read_text()) for path in pathlib.Path(keras_kd.__file__).parent.glob("_keras/*.py")]
    assert set(CONTRACTS) == set.union(*(private_names.used(tree) | private_names.named(tree) for tree in trees))


# What `compile` makes.


@about("_compile_loss", "_compile_metrics")
def test_compile_makes_a_loss_and_a_container_of_metrics_where_they_are_given():
    model = linear()
    model.compile("sgd")
    assert model._compile_loss is None and model._compile_metrics is None
    model = compiled(metrics=["mae"])
    assert model._compile_loss(Y, Y + 2, None) == 4 and model._compile_loss.metrics == []
    assert isinstance(model._compile_metrics, keras.metrics.Metric) and not model._compile_metrics.built


@about("_compile_loss")
def test_a_loss_of_several_outputs_makes_its_metrics_from_symbolic_tensors():
    class Comparison(keras.Operation):
        def call(self, y, y_pred):
            return model._compile_loss(y, y_pred)

    inputs = keras.Input((2,))
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"})
    model.compile("sgd", {"a": "mse", "b": "mae"})
    assert not model._compile_loss.built and model._compile_loss.metrics == []
    Comparison().compute_output_spec(model.output, model.output)
    assert model._compile_loss.built and [each.name for each in model._compile_loss.metrics] == ["a_loss", "b_loss"]
    assert all(isinstance(each.total.value, tf.Variable) for each in model._compile_loss.metrics)


@about("_flat_losses")
def test_a_loss_calls_those_of_the_outputs_that_it_lists_by_their_paths():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"})
    model.compile("sgd", {"a": "mse", "b": "mae"})
    container, y = model._compile_loss, {"a": Y, "b": Y}
    assert container._flat_losses is None
    assert container(y, {"a": Y + 2, "b": Y + 3}) == 4 + 3
    assert [(each.path, each.loss.name) for each in container._flat_losses] == [
        (("a",), "mse"),
        (("b",), "mae"),
    ]
    container._flat_losses = [each._replace(loss=lambda y, y_pred, weight: 5.0) for each in container._flat_losses]
    assert container(y, {"a": Y, "b": Y}) == 10
    single = compiled()
    single._compile_loss(Y, Y)
    assert [each.path for each in single._compile_loss._flat_losses] == [()]


def test_a_loss_and_metrics_that_are_set_to_none_are_forgotten():
    model = compiled(metrics=["mae"])
    model._compile_loss = model._compile_metrics = model.loss = None
    model.compile("sgd")
    assert [each.name for each in model.metrics] == ["loss"]


def test_a_model_trains_with_what_another_was_compiled_with_when_it_has_its_attributes():
    lender, borrower = compiled(metrics=["mae"]), linear()
    names = ("optimizer", "loss", "compiled", "_compile_loss", "_compile_metrics", "_loss_tracker")
    vars(borrower).update({name: vars(lender)[name] for name in names})
    assert borrower.compute_loss(y=Y, y_pred=Y + 2) == 4
    assert borrower.test_step((X, Y)).keys() == {"loss", "mae"}


@about("_loss_tracker")
def test_compile_makes_a_mean_of_the_loss_that_is_logged():
    tracker = compiled()._loss_tracker
    assert isinstance(tracker, keras.metrics.Mean) and tracker.name == "loss"


@about("_user_metrics", "_user_weighted_metrics", "_flat_metrics", "_flat_weighted_metrics")
def test_compiled_metrics_can_be_made_again_and_know_their_outputs():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"})
    model.compile("sgd", "mse", metrics={"a": ["mae"]}, weighted_metrics={"b": ["mse"]})
    given = model._compile_metrics
    twin = type(given)(given._user_metrics, given._user_weighted_metrics, output_names=given.output_names)
    twin.build(model.output, model.output)
    lists = [each for each in (*twin._flat_metrics, *twin._flat_weighted_metrics) if each]
    found = [(each.output_name, metric.name) for each in lists for metric in each.metrics]
    assert found == [("a", "mae"), ("b", "mse")] and twin.built and not given.built


@about("_compute_loss")
def test_a_model_computes_its_loss_by_either_signature():
    class Older(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return ops.sum(y_pred)

    class Newer(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum(y_pred)

    for kind in (Older, Newer):
        assert linear(kind)._compute_loss(x=X, y=Y, y_pred=Y + 1, sample_weight=None, training=True) == 6


@about("_aggregate_additional_loss")
def test_keras_divides_losses_by_the_number_of_replicas(two_replicas):
    model = compiled()
    assert model._compile_loss(Y, Y + 2, None) == 2
    assert model._aggregate_additional_loss(ops.ones(())) == 0.5
    assert model.compute_loss(y=Y, y_pred=Y + 2) == 2


@about("_clear_losses")
def test_a_model_drops_the_losses_of_a_forward_pass():
    model = linear(activity_regularizer="l2")
    model(X)
    assert len(model.losses) == 1
    model._clear_losses()
    assert model.losses == []


@about("_direction")
@pytest.mark.parametrize("direction, expected", [("up", ops.greater), ("down", ops.less)])
def test_a_metric_declares_its_direction(direction, expected):
    metric, stopping = keras.metrics.Mean(name="watched"), keras.callbacks.EarlyStopping("val_watched")
    metric._direction = direction
    model = linear()
    model.compile("sgd", "mse", metrics=[metric])
    model._compile_metrics.build(model.output, model.output)
    stopping.set_model(model)
    stopping._set_monitor_op()
    assert stopping.monitor_op is expected
    assert keras.metrics.BinaryAccuracy()._direction == "up" and keras.metrics.MeanSquaredError()._direction == "down"


@about("_set_monitor_op")
def test_a_checkpoint_finds_a_direction_in_one_method_and_saves_all_without(tmp_path):
    class Undirected(keras.callbacks.ModelCheckpoint):
        def _set_monitor_op(self):
            monitors.append(self.monitor)

    monitors, file = [], tmp_path / "model.keras"
    checkpoint = Undirected(file, monitor="val_unknown")
    checkpoint.set_model(compiled())
    checkpoint.on_epoch_end(0, {"val_unknown": 1.0})
    assert monitors == ["val_unknown"] and file.exists()


# How `fit` runs.


class Recorded(keras.Model):
    """Notes the inputs of each step."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.read = []

    def train_step(self, data):
        self.read.append(np.array(data[0]))
        return {"step": 1.0}


@about("_maybe_symbolic_build")
def test_symbolic_build_is_called_before_the_first_batch():
    class Building(Recorded):
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            assert self.read == [] and (iterator is None) != (data_batch is None)
            built.append((data_batch or next(next(each for _, _, each in iterator)))[0])

    built = []
    compiled(Building).fit(X, Y, shuffle=False, verbose=0)  # which reads the first batch again
    compiled(Building).train_on_batch(X, Y)
    np.testing.assert_array_equal(built, [X, X])


@about("_symbolic_build")
def test_symbolic_build_makes_all_variables_from_one_batch():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    model._symbolic_build(data_batch=(X, Y))
    assert model.built and model._compile_metrics.built and model.optimizer.built


@about("_get_metrics_result_or_logs")
def test_a_model_makes_the_logs_of_an_epoch_from_those_of_its_last_step():
    class Merging(Recorded):
        def _get_metrics_result_or_logs(self, logs):
            return {**logs, "epoch": 2.0}

    assert compiled(Merging).fit(X, Y, verbose=0).history == {"step": [1.0], "epoch": [2.0]}


def test_fit_takes_each_step_by_a_function_of_an_iterator_that_the_model_makes():
    class Own(Recorded):
        def make_train_function(self, force=False):
            self.train_function = lambda iterator: given.append((iterator, next(iterator))) or {"step": 0.0}

    given = []
    compiled(Own).fit(((X, Y, None) for _ in range(2)), shuffle=False, steps_per_epoch=2, verbose=0)
    assert [isinstance(iterator, tf.data.Iterator) for iterator, _ in given] == [True, True]
    assert isinstance(given[0][1][2], tf.experimental.Optional)  # in the place of what is not given


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("known, read", [(True, [0, 2]), (False, [0, 1])])
def test_an_epoch_makes_two_iterators_of_a_dataset_of_known_cardinality_and_one_of_others(known, read):
    def data():
        shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(6, seed=0).batch(6)
        return shuffled if known else shuffled.filter(lambda x, y: True)

    same, model = data(), compiled(Recorded)
    orders = [next(iter(same))[0] for _ in range(3)]  # each iterator that is made shuffles anew
    model.fit(data(), epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(model.read, [orders[place] for place in read])


def test_an_iterator_is_one_tensor_and_its_specification():
    iterator = iter(tf.data.Dataset.range(2))
    [handle] = tf.nest.flatten(iterator, expand_composites=True)
    again = tf.nest.pack_sequence_as(tf.type_spec_from_value(iterator), [handle], expand_composites=True)
    assert again.get_next() == 0 and iterator.get_next() == 1


# Layers and tensors.


@about("_flatten_layers")
def test_a_layer_lists_itself_and_all_layers_in_it():
    inner = keras.Sequential([keras.layers.Dense(1)])
    outer = keras.Sequential([inner, keras.layers.ReLU()])
    found = list(outer._flatten_layers())
    assert found[0] is outer and {id(each) for each in (inner, *inner.layers, *outer.layers)} <= set(map(id, found))


@about("_metrics")
def test_a_layer_lists_its_own_metrics():
    class Measuring(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seen = keras.metrics.Mean()

    layer = Measuring()
    assert layer._metrics == [layer.seen]


@about("_seed_generators")
def test_a_layer_lists_what_it_draws_from():
    assert [type(each) for each in keras.layers.Dropout(0.5)._seed_generators] == [keras.random.SeedGenerator]


@about("_keras_history", "_inbound_nodes")
def test_the_history_of_a_tensor_names_its_layer_and_inputs():
    shared, inputs = keras.layers.Dense(1), [keras.Input((2,)), keras.Input((2,))]
    outputs = [shared(each) for each in inputs]
    for given, output in zip(inputs, outputs, strict=True):
        layer, node, index = output._keras_history
        assert layer is shared and index == 0 and shared._inbound_nodes[node].input_tensors[0] is given
    assert [id(output) for node in shared._inbound_nodes for output in node.output_tensors] == list(map(id, outputs))


@about("_run_through_graph")
def test_a_graph_runs_again_call_by_call():
    inputs = keras.Input((2,))
    hidden = keras.layers.ReLU(name="hidden")(inputs)
    graph = keras.Model({"x": inputs}, {"sum": hidden + hidden})
    called = []

    def call(operation, *args, **kwargs):
        called.append(operation.name)
        return operation(*args, **kwargs)

    received = graph._run_through_graph({"x": X}, operation_fn=lambda operation: operation, call_fn=call)
    np.testing.assert_array_equal(received["sum"], 2 * np.maximum(X, 0))
    assert called[0] == "hidden" and len(called) == 2


@about("_keras_mask")
def test_a_mask_is_on_the_tensor_and_losses_find_it_there():
    np.testing.assert_array_equal(keras.layers.Embedding(3, 2, mask_zero=True)(X[:1])._keras_mask, [[False, True]])
    values = tf.constant([[1.0], [3.0]])
    values._keras_mask = tf.constant([True, False])
    assert float(keras.losses.MeanSquaredError()(tf.zeros((2, 1)), values)) == pytest.approx(1)


@about("_keras_logits")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_know_their_logits(activation):
    logits = tf.constant(X)
    assert keras.layers.Activation(activation)(logits)._keras_logits is logits


def test_keras_raises_its_error_around_that_of_a_layer():
    class Refusing(keras.layers.Layer):
        def call(self, x):
            raise ValueError("own words")

    with pytest.raises(ValueError) as raised:
        Refusing()(X)
    error = raised.value
    while error.__cause__ is None and isinstance(error.__context__, ValueError):
        error = error.__context__
    assert str(error) == "own words"


# Several replicas.


@about("_distribute_strategy")
def test_a_model_keeps_the_strategy_it_was_made_under():
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        assert linear()._distribute_strategy is strategy
    assert linear()._distribute_strategy is None


@about("_in_multi_worker_mode")
def test_a_strategy_knows_whether_it_spans_several_machines():
    assert tf.distribute.MirroredStrategy(["CPU:0"]).extended._in_multi_worker_mode() is False


def test_keras_takes_the_mean_of_the_parts_of_a_batch_and_of_results_along_their_first_axis():
    # Where this changes, `build_model` or `with_axis` in keras_kd/_keras/replicas.py may have become needless.
    original = keras.Model._maybe_symbolic_build
    build, trainer = inspect.getsource(original), inspect.getsource(inspect.getmodule(original))
    assert "self._symbolic_build(data_batch=data_batch)" in build and "axis=None" in build
    assert 'strategy.reduce("MEAN", v, axis=0)' in trainer


@about("_accumulated_gradients", "_iterations")
def test_an_optimizer_counts_batches_and_divides_the_sum_of_their_gradients_by_their_number():
    variables = [keras.Variable([3.0]), keras.Variable([0.0, 0.0])]
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    optimizer.apply_gradients(zip([tf.constant([2.0]), tf.constant([1.0, 5.0])], variables, strict=True))
    assert int(optimizer._iterations) == 1 and int(optimizer.iterations) == 0
    for each, expected in zip(optimizer._accumulated_gradients, ([2.0], [1.0, 5.0]), strict=True):
        np.testing.assert_array_equal(each, expected)
        each.assign(each * 0.5)
    optimizer.apply_gradients(zip([tf.constant([4.0]), tf.constant([0.0, 0.0])], variables, strict=True))
    np.testing.assert_array_equal(variables[0], [3.0 - (1.0 + 4.0) / 2])
    np.testing.assert_array_equal(variables[1], [-0.25, -1.25])
    np.testing.assert_array_equal(optimizer._accumulated_gradients[1], [0.0, 0.0])
    assert not variables[0].overwrite_with_gradient


@about("_clip_gradients")
@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_an_optimizer_clips_gradients_without_applying_them(limit):
    optimizer = keras.optimizers.SGD(**{limit: 1.0})
    expected = [1.0, 1.0] if limit == "clipvalue" else [0.6, 0.8]
    np.testing.assert_allclose(optimizer._clip_gradients([tf.constant([3.0, 4.0])])[0], expected, rtol=1e-6)


# TensorFlow.


@about("tensorflow.python.framework.ops.gradient_registry", "_registry")
def test_gradients_that_a_graph_defines_are_registered_last_and_can_be_removed():
    from tensorflow.python.framework.ops import gradient_registry

    @tf.function(input_signature=[tf.TensorSpec(())])
    @tf.custom_gradient
    def double(x):
        return 2 * x, lambda upstream: 2 * upstream

    before = list(gradient_registry.list())
    double.get_concrete_function()
    names = list(gradient_registry.list())
    assert len(names) > len(before) and names[: len(before)] == before
    for name in names[len(before) :]:
        gradient_registry._registry.pop(name)
    assert list(gradient_registry.list()) == before and double(2.0) == 4


@about("tensorflow.python.eager.record")
def test_tensorflow_returns_whether_a_tape_may_record():
    from tensorflow.python.eager import record

    assert not record.could_possibly_record()
    with tf.GradientTape():
        assert record.could_possibly_record()


def test_tensorflow_returns_whether_a_tape_watches_a_tensor():
    from tensorflow.python.eager import record

    watched, other = tf.constant(1.0), tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        assert record.should_record_backprop([watched]) and not record.should_record_backprop([other])
        assert not record.should_record_backprop([tf.stop_gradient(watched)])


@about("tensorflow.python.ops.control_flow_util")
@pytest.mark.parametrize("compiled", [True, False])
def test_tensorflow_returns_whether_xla_compiles_a_graph(compiled):
    from tensorflow.python.ops import control_flow_util

    @tf.function(jit_compile=compiled)
    def traced(x):
        found.append(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
        return x

    found = []
    traced.get_concrete_function(tf.TensorSpec(()))
    assert found == [compiled]


def test_xla_drops_assertions_and_others_raise_them_with_their_values():
    def checked(x):
        with tf.control_dependencies([tf.raw_ops.Assert(condition=x > 0, data=["<expected", x, ">"])]):
            return x + 1

    assert tf.function(checked, jit_compile=True)(tf.constant(-1.0)) == 0
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[<expected\] \[-1\] \[>\]"):
        tf.function(checked)(tf.constant(-1.0))


@about("tf.__internal__.tracking.AutoTrackable")
def test_an_object_that_tensorflow_tracks_is_saved_with_a_list_named_variables(tmp_path):
    tracked = tf.__internal__.tracking.AutoTrackable()
    tracked.variables = [tf.Variable(3.0)]
    tf.saved_model.save(tracked, str(tmp_path))
    assert tf.saved_model.load(str(tmp_path)).variables[0] == 3


@about("_use_cached_eval_dataset")
def test_fit_lets_evaluate_read_the_validation_data_that_it_was_given_as_they_are():
    class Noted(keras.Model):
        def evaluate(self, *data, **arguments):
            noted.append((arguments["x"], arguments["_use_cached_eval_dataset"]))
            return super().evaluate(*data, **arguments)

    noted, model = [], linear(Noted)
    model.compile("sgd", "mse")
    model.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert noted[0][0] is X and noted[0][1] is True


# KerasTuner, Python and Ray.


@about("keras_tuner.src.engine.stateful")
def test_every_record_of_keras_tuner_is_saved_as_json_by_one_method(tmp_path):
    engine = pytest.importorskip("keras_tuner").engine
    from keras_tuner.src.engine import stateful

    trial, file = engine.trial.Trial(engine.hyperparameters.HyperParameters(), "0"), str(tmp_path / "trial.json")
    assert type(trial).save is stateful.Stateful.save
    assert issubclass(engine.oracle.Oracle, stateful.Stateful)
    text = trial.save(file)
    assert json.loads(text) == json.loads(pathlib.Path(file).read_text()) == json.loads(json.dumps(trial.get_state()))


@about("_inputs")
def test_a_dataset_knows_what_it_was_made_of():
    rows, others = tf.data.Dataset.range(3), tf.data.Dataset.range(3)
    both = tf.data.Dataset.zip(rows, others)
    assert both._inputs() == [rows, others] and rows._inputs() == []
    for made in (both.map(lambda a, b: a), both.batch(2), both.take(1), both.repeat(), both.shuffle(3), both.cache()):
        assert list(made._inputs()) == [both]


@about("_mp_context")
def test_an_executor_keeps_how_it_starts_processes():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        assert executor._mp_context.get_start_method() == "spawn"


@about("_node_ip_address")
def test_ray_starts_on_the_address_that_it_is_given():
    ray = pytest.importorskip("ray")
    assert "_node_ip_address" in inspect.getsource(ray.init)


# What a task of KerasHub keeps while it generates.


@about("_build_cache")
def test_the_cache_of_a_task_comes_last_and_holds_keys_and_values_of_each_token():
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    hidden, cache = causal_lm(1, units=6)._build_cache(np.zeros((2, 5), "int32"))
    assert hidden.shape == (2, 5, 6) and cache.shape == (2, 1, 2, 5, 2, 3)  # layers, both, tokens, heads, their width


# How layers are called in graphs, by which `export(float_layers=)` finds them.


def names_of_operations(model):
    signature = tf.function(lambda x: model(x, training=False), autograph=False)
    graph = signature.get_concrete_function(tf.TensorSpec((None, 2))).graph
    return [operation.name for operation in graph.get_operations()]


def two_layers_and_a_model():
    inputs = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="point")], name="inner")
    x = inner(keras.layers.Dense(2, name="dense")(inputs))
    return keras.Model(inputs, keras.layers.Dense(1, name="dense_1")(x), name="whole")


def test_operations_of_a_layer_are_in_its_scope_whose_number_is_higher_than_that_of_its_name():
    names = names_of_operations(two_layers_and_a_model())
    products = [name for name in names if name.endswith("MatMul")]
    assert products == ["whole_1/dense_1/MatMul", "whole_1/inner_1/point_1/MatMul", "whole_1/dense_1_2/MatMul"]
    for layer, expected in (("dense", 0), ("inner/point", 1), ("point", 1), ("dense_1", 2)):
        found = litert_conversion.tensors_of(layer, names)
        assert products[expected] in found and len(set(products) & set(found)) == 1


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated", "ignore:Statistics for quantized inputs")
def test_a_file_of_litert_has_the_names_of_operations_and_those_that_are_denied_stay_in_float():
    model = two_layers_and_a_model()
    signature = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec((1, 2)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([signature])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([X[row : row + 1]] for row in range(len(X)))
    options = tf.lite.experimental.QuantizationDebugOptions(fully_quantize=True)
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)

    def types(content):
        details = tf.lite.Interpreter(model_content=content).get_tensor_details()
        return {each["name"]: each["dtype"] for each in details}

    names = list(types(debugger.calibrated_model))
    products = [f"whole_1/{name}/MatMul" for name in ("dense_1", "inner_1/point_1", "dense_1_2")]
    assert set(products) <= set(names)
    whole = types(debugger.get_nondebug_quantized_model())
    assert [whole[name] for name in products] == [np.int8] * 3
    options.denylisted_nodes = litert_conversion.tensors_of("inner/point", names)
    part = types(debugger.get_nondebug_quantized_model())
    assert [part[name] for name in products] == [np.int8, np.float32, np.int8]
