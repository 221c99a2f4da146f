"""Read a model's outputs and named layers, nested ones too, in one forward pass."""

import difflib
from typing import Any

import keras
from keras import tree

from keras_kd._internal import heads, token_maps
from keras_kd._internal.attention_projections import NAMES, WithProjections
from keras_kd._internal.model_graphs import functional as functional
from keras_kd._types import Tensor, Tensors

#: What may be read of a layer, beside its output.
_INPUT, _PRE_ACTIVATION = "input", "pre_activation"

#: Layers that end in their activation.
_ACTIVATED = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


class Reader:
    """Run a model once and return its outputs, by name.

    The names are "logits" for the one output of a model that has one; the name of each output of a model that has
    several; and the name of a layer, as "layer" or, inside a nested model, as "backbone/layer". Behind the name of a
    layer, ":input" stands for what it reads, ":pre_activation" for what its activation is applied to, and ":0" for the
    first of its outputs where it has several, or ":scores" where "scores" is its key. Of a
    `keras.layers.MultiHeadAttention`, ":query", ":key" and ":value" are what it makes of its inputs, for all heads. At
    the end, ":map" makes a map of what is read, tokens of images become the grid of their patches, and ":global" one
    vector of an image.

    Args:
        model: a Keras model or layer. Only a Functional or Sequential one can be read at named layers.
        names: what will be read. Anything that is not an output is looked for among the layers.
        head: what the outputs mean (see `heads.KINDS`): one kind for all, or a dict from output name to kind.
        owner: "student" or "teacher", for error messages.

    Raises:
        ValueError: a name that is neither an output nor a layer, or a layer that is called more than once; an output
            that is read and has its classes on another axis than the last.
    """

    def __init__(
        self,
        model: Any,
        names: tuple[str, ...] = (),
        head: str | dict[str, str] = "auto",
        owner: str = "model",
    ) -> None:
        self._model = model
        self._owner = owner
        graph = functional(model)
        #: The model's symbolic output, or None where it has no graph.
        self.output = graph.output if graph is not None else None
        known = _named(graph, self.output) if graph is not None else None
        self.layers = tuple(dict.fromkeys(name for name in names if known is not None and name not in known))
        self._tapped = _read(graph, self.layers, owner, tuple(known or ())) if self.layers else None
        self._symbolic = known
        self._heads = self._make_heads(head)
        for name, tensor in (known or {}).items():
            if name in names and self.kind(name) not in ("logits", "values"):
                heads.require_last_axis(tensor, name, owner)

    def __call__(self, x: Tensors, training: bool) -> tuple[Tensors, dict[str, Tensor]]:
        """Run the model on `x`.

        Returns:
            The model's output as it is, and a dict from name to logits (outputs) or features (layers).
        """
        features: dict[str, Tensor] = {}
        if self._tapped is None:
            output = self._model(select(self._model, x), training=training)
        else:
            result = self._tapped(select(self._tapped, x), training=training)
            output, features = result["output"], dict(zip(self.layers, result["taps"], strict=True))
        outputs = {name: self._head(name)(value) for name, value in _named(self._model, output).items()}
        return output, {**features, **outputs}

    def outputs(self, read: dict[str, Tensor]) -> list[str]:
        """Return, of what was read, the names that are outputs."""
        return [name for name in read if name not in self.layers]

    @property
    def specs(self) -> dict[str, Any] | None:
        """Symbolic tensors by name, or None where the model has no graph to read them from."""
        if self._symbolic is None:
            return None
        taps = self._tapped.output["taps"] if self._tapped is not None else ()
        return {**dict(zip(self.layers, taps, strict=True)), **self._symbolic}

    def kind(self, name: str) -> str:
        """Return the head of an output; a layer's features are "values"."""
        return "values" if name in self.layers else self._head(name).kind

    def in_doubt(self, names: tuple[str, ...]) -> bool:
        """Return whether an output among `names` is taken for logits, and may be something else."""
        outputs = [name for name in names if self.kind(name) == "auto"]
        return bool(outputs) and (
            self._symbolic is None or any(heads.in_doubt(self._symbolic[name]) for name in outputs)
        )

    def _head(self, name: str) -> heads.Head:
        return self._heads.get(name, self._heads[""])

    def _make_heads(self, head: str | dict[str, str]) -> dict[str, heads.Head]:
        given = head if isinstance(head, dict) else {}
        unknown = set(given) - set(self._symbolic) if self._symbolic is not None else ()
        if unknown:
            raise ValueError(
                f"`head` names {sorted(unknown)}; the outputs of the {self._owner} are {sorted(self._symbolic or ())}."
            )
        default = "auto" if isinstance(head, dict) else head
        kinds = {
            name: heads.recognise(tensor) if default == "auto" else default
            for name, tensor in (self._symbolic or {}).items()
        }
        return {name: heads.Head(kind) for name, kind in ({"": default} | kinds | given).items()}


def layer_outputs(model: Any, names: tuple[str, ...], owner: str) -> tuple[Any, list[Any]]:
    """Return a model's graph and the symbolic outputs of some of its layers in it.

    Raises:
        ValueError: the model has no graph, or no such layers.
    """
    graph = functional(model)
    if graph is None:
        raise ValueError(f"Expected the {owner} to be a built Functional or Sequential model. Received: {model!r}")
    tapped = _read(graph, names, owner)
    return keras.Model(tapped.input, tapped.output["output"]), tapped.output["taps"]


def _named(model: Any, output: Any) -> dict[str, Tensor]:
    """Give each output tensor of a model its name."""
    if not tree.is_nested(output):
        return {"logits": output}
    flat = tree.flatten_with_path(output)
    names = ["/".join(str(part) for part in path) for path, _ in flat]
    if isinstance(output, (list, tuple)):
        given = getattr(model, "output_names", None)  # only Functional models name the outputs in a list
        names = list(given) if given and len(given) == len(flat) else [f"output_{name}" for name in names]
    named = dict(zip(names, (value for _, value in flat), strict=True))
    return {"logits": flat[0][1], **named} if len(flat) == 1 else named


def select(model: Any, x: Tensors) -> Tensors:
    """Return what a Functional model reads of a dict of inputs: it would take other keys for inputs as well.

    One tensor is put under the key of a model that takes a dict of one, as backbones of KerasHub do.

    Raises:
        ValueError: the model has one input, and the dict has no key of its name.
    """
    if not isinstance(x, dict):
        wanted = model.input if getattr(model, "operations", None) and not tree.is_nested(x) else None
        return dict.fromkeys(wanted, x) if isinstance(wanted, dict) and len(wanted) == 1 else x
    if isinstance(model, keras.Sequential) and model.inputs:
        wanted = model.inputs[0]
    elif getattr(model, "operations", None):
        wanted = model.input
    else:
        return x  # a subclassed model chooses for itself
    if isinstance(wanted, dict):
        return {key: x[key] for key in wanted if key in x}
    if tree.is_nested(wanted):
        return x
    if wanted.name not in x:
        raise ValueError(
            f"Expected inputs with the key {wanted.name!r}, the name of the one input of {model.name!r}. Received the "
            f"keys {sorted(x)}. Name the keras.Input after a key, or choose with teachers.Frozen(preprocess=...)."
        )
    return x[wanted.name]


def _read(graph: Any, names: tuple[str, ...], owner: str, outputs: tuple[str, ...] = ()) -> Any:
    """Return a model that returns its output and what is named, as `token_maps` makes of it where the names say so."""
    return token_maps.with_maps(_tap(graph, token_maps.bases(names), owner, outputs), names, owner, graph)


def _tap(graph: Any, names: tuple[str, ...], owner: str, outputs: tuple[str, ...] = ()) -> Any:
    """Return a model of the same layers that returns its output and the tensors of the named layers.

    The graph is called again on its own layers, symbolically: `layer.output` alone is ambiguous when a layer has been
    used in another model as well, and does not reach into nested models.
    """
    calls: dict[str, list[Tensor]] = {}

    def record(operation: Any, *args: Any, **kwargs: Any) -> Tensors:
        prefix = operation.name + "/"
        inner = tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        nested = functional(operation) if inner else None
        wanted = [part for name in names for layer, part in (_split(name),) if part and layer == operation.name]
        parts: dict[str, Any] = {}
        if nested is not None:
            both = _tap(nested, inner, f"{owner}'s {operation.name}")(*args, **kwargs)
            result = both["output"]
            for name, tensor in zip(inner, both["taps"], strict=True):
                calls.setdefault(prefix + name, []).append(tensor)
        elif _PRE_ACTIVATION in wanted:
            result, parts[_PRE_ACTIVATION] = _with_pre_activation(operation, owner)(*args, **kwargs)
        elif isinstance(operation, keras.layers.MultiHeadAttention) and set(NAMES) & set(wanted):
            result, projected = WithProjections(operation)(*args, **kwargs)
            parts |= dict(zip(NAMES, projected, strict=True))
        else:
            result = operation(*args, **kwargs)
        parts |= {_INPUT: args[0] if len(args) == 1 else args}
        parts |= _several(result)
        for part in wanted:
            if part not in parts:
                raise ValueError(
                    f"Expected a part of layer {operation.name!r} of the {owner}: {_INPUT!r}, {_PRE_ACTIVATION!r}, or "
                    "the number or key of one of several tensors that it returns. "
                    f"Received: {operation.name}:{part}. It has {sorted(parts)}."
                )
            calls.setdefault(f"{operation.name}:{part}", []).append(parts[part])
        calls.setdefault(operation.name, []).append(result)
        return result

    # On the same inputs: those that Keras would make are neither optional nor sparse.
    clone = keras.models.clone_model(
        graph, input_tensors=graph.input, clone_function=lambda operation: operation, call_function=record
    )
    for name in names:
        _check_tap(name, calls.get(name, []), owner, [*outputs, *_layer_names(graph)])
    return keras.Model(clone.input, {"output": clone.output, "taps": [calls[name][0] for name in names]})


def _layer_names(graph: Any) -> list[str]:
    """Return the names of all layers, those of nested models as 'model/layer'."""
    names = []
    for layer in graph.layers:
        nested = functional(layer)
        names.append(layer.name)
        names += [f"{layer.name}/{name}" for name in _layer_names(nested)] if nested is not None else []
    return names


def _check_tap(name: str, calls: list[Tensor], owner: str, offered: list[str]) -> None:
    if not calls:
        by_last_part = [full for full in offered if full.endswith("/" + name)]
        close = by_last_part or difflib.get_close_matches(name, offered, n=3, cutoff=0.5)
        raise ValueError(
            f"Expected {name!r} to be an output or a layer of the {owner}. "
            + (f"Did you mean {' or '.join(map(repr, close))}? " if close else "")
            + f"It offers {offered}: name one with `at`."
        )
    if len(calls) > 1:
        raise ValueError(
            f"Layer {name!r} of the {owner} is called {len(calls)} times, so its name does not decide which output to "
            "read. Give each call a layer of its own after it (a keras.layers.Identity) and name that one."
        )
    if tree.is_nested(calls[0]):
        several = "reads" if name.endswith(f":{_INPUT}") else "returns"
        raise ValueError(
            f"Layer {_split(name)[0]!r} of the {owner} {several} several tensors, and a term reads one: name the layer "
            f"that makes it, or one that is returned: {[f'{_split(name)[0]}:{part}' for part in _several(calls[0])]}."
        )


def _several(tensors: Any) -> dict[str, Any]:
    """Return tensors by their number or key, "1/stage1" in a dict that is the second of a tuple; nothing for one."""
    if not tree.is_nested(tensors):
        return {}
    return {"/".join(map(str, path)): each for path, each in tree.flatten_with_path(tensors)}


def _split(name: str) -> tuple[str, str]:
    """Return the name of a layer, and of the part of it that is read; no part is its output."""
    layer, colon, part = name.rpartition(":")
    return (layer, part) if colon else (name, "")


def _with_pre_activation(layer: Any, owner: str) -> keras.layers.Layer:
    if not isinstance(layer, _ACTIVATED):
        raise ValueError(
            f"Expected a dense layer or a convolution, of whose activation {_PRE_ACTIVATION!r} is the input. Received: "
            f"{layer.name!r} of the {owner}, of type {type(layer).__name__}. Of a layer that is an activation, name "
            f"'{layer.name}:{_INPUT}'."
        )
    return WithPreActivation(layer)


class WithPreActivation(keras.layers.Layer):
    """Run a layer, and return its output and what its activation is applied to.

    Args:
        layer: a dense layer or a convolution.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(name=f"{layer.name}_with_pre_activation", dtype=layer.dtype_policy, autocast=False)
        self.layer = layer
        self.supports_masking = True
        self.built = True

    def call(self, *inputs: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
        """Return the layer's output and its pre-activation."""
        activation = self.layer.activation
        object.__setattr__(
            self.layer, "activation", keras.activations.linear
        )  # for this call, past the tracker of Keras
        try:
            before = self.layer(*inputs, **arguments)
        finally:
            object.__setattr__(self.layer, "activation", activation)
        return activation(before), before

    def compute_mask(self, inputs: Tensors, previous_mask: Tensors = None) -> Tensors:
        """Return the layer's mask for both."""
        mask = self.layer.compute_mask(inputs, previous_mask)
        return mask, mask
