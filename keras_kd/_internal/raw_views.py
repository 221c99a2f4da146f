"""What each model reads of raw examples: tokens of its own tokenizer, images of its own size.

A task of KerasHub has a preprocessor, and takes strings and images in `fit`, `evaluate` and `predict`. Called, as a
student and a teacher are in a step, it takes what the preprocessor returns. Anything with a method
`preprocess_samples(x, y, sample_weight)` and a `preprocessor` that is not None is such a model; KerasHub need not be
installed.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import layer_reader
from keras_kd._types import Tensors

#: The key of raw examples as they are, for teachers that read these.
RAW = "raw"


class Views(NamedTuple):
    """A batch as each model reads it.

    Attributes:
        student: what the student is fed.
        teachers: what the teachers are fed, by the keys of `Teacher.views`.
    """

    student: Tensors
    teachers: dict[str, Tensors]


class Shared(NamedTuple):
    """A batch for models that predict something for each token, and must read the same tokens.

    Attributes:
        student: what the student and the teachers are fed.
    """

    student: Tensors


def are_made(x: Tensors) -> bool:
    """Return whether a batch holds what the models read in the place of raw examples."""
    return isinstance(x, (Views, Shared))


def of_student(x: Any) -> Tensors:
    """Return what the student is fed; a batch that is not raw passes through."""
    return x.student if are_made(x) else x


def of_teacher(x: Any, key: str) -> Tensors:
    """Return what the teacher with a key is fed; a batch that is not raw passes through."""
    if isinstance(x, Shared):
        return x.student
    return x.teachers[key] if isinstance(x, Views) else x


def is_task(model: Any) -> bool:
    """Return whether a model may preprocess examples of its own, as a task of KerasHub, which need not be installed."""
    return hasattr(model, "preprocess_samples") and hasattr(model, "preprocessor")


def preprocessing(model: Any) -> Callable[..., Any] | None:
    """Return a model's own preprocessing of (x, y, sample_weight), or None for a model that has none."""
    return model.preprocess_samples if is_task(model) and model.preprocessor is not None else None


def view(model: Any, x: Tensors) -> Tensors:
    """Return what a model reads of raw examples; those of a model without preprocessing pass through."""
    return x if preprocessing(model) is None else preprocessed(model, x)[0]


def preprocessed(model: Any, x: Tensors, y: Tensors = None, sample_weight: Tensors = None) -> tuple[Any, Any, Any]:
    """Return x, y and sample_weight as a model's own preprocessing returns them.

    Raises:
        ValueError: numbers where it needs text; weights that it would drop; a dict that it does not take.
    """
    if tokenizer(model) is not None and not has_text(x):
        raise ValueError(
            f"Expected raw text for {model.name!r}, whose preprocessor makes tokens of it. Received numbers. For "
            "examples that are tokens already, set its `preprocessor` to None."
        )
    if is_per_token(model) and sample_weight is not None:
        raise ValueError(
            f"Expected no `sample_weight` beside raw text for {model.name!r}, whose preprocessor weights the tokens "
            "that it makes. Received some, which it would drop. Make tokens with weights of your own by "
            "keras_kd.language.completions, and set its `preprocessor` to None."
        )
    x = tree.map_structure(_as_python, x) if tf.executing_eagerly() else x
    try:
        return keras.utils.unpack_x_y_sample_weight(model.preprocess_samples(x, y, sample_weight))
    except (TypeError, ValueError) as error:
        if tokenizer(model) is None or not isinstance(x, dict):
            raise
        raise ValueError(
            f"Expected examples that the preprocessor of {model.name!r} takes. It refused a dict with the keys "
            f"{sorted(x)}. If it takes plain texts alone, make tokens of prompts and answers by "
            "keras_kd.language.completions, and set its `preprocessor` to None."
        ) from error


def tokenizer(model: Any) -> Any:
    """Return the tokenizer of a model's own preprocessing, or None."""
    return None if preprocessing(model) is None else getattr(model.preprocessor, "tokenizer", None)  # of images: none


def is_per_token(model: Any) -> bool:
    """Return whether a model with a tokenizer of its own predicts something for each token, as a language model does.

    Its preprocessor makes the labels then.
    """
    return tokenizer(model) is not None and len(model.outputs[0].shape) > 2  # (batch, tokens, classes)


def is_random(model: Any) -> bool:
    """Return whether a model's own preprocessing returns something else each time: it masks tokens."""
    return preprocessing(model) is not None and getattr(model.preprocessor, "mask_selection_rate", None) is not None


def by_vocabulary(models: dict[str, Any]) -> list[list[str]]:
    """Return the names of models in groups that share a vocabulary; a model without tokenizer belongs to the first."""
    tokens = {name: tuple(vocabulary(tokenizer(model))) for name, model in models.items() if is_per_token(model)}
    vocabularies = list(dict.fromkeys(tokens.values())) or [()]
    return [[name for name in models if tokens.get(name, vocabularies[0]) == each] for each in vocabularies]


def check_vocabularies(student: Any, teacher: Any) -> None:
    """Refuse models that predict something for each token, and have other tokens.

    Raises:
        ValueError: their vocabularies differ.
    """
    if not (is_per_token(student) and is_per_token(teacher)):
        return
    ours, theirs = tokenizer(student), tokenizer(teacher)
    if vocabulary(ours) != vocabulary(theirs):
        raise ValueError(
            f"Expected a teacher with the vocabulary of the student, as the two are compared token by token. "
            f"{student.name!r} has {ours.vocabulary_size():,} tokens, {teacher.name!r} other ones, "
            f"{theirs.vocabulary_size():,}. Give the student the teacher's tokenizer, or take a teacher with the "
            "student's; or compare the spans of the text at which both meet: keras_kd.language.align."
        )


def tokens_of(model: Any) -> dict[str, Any] | None:
    """Return what distinguishes the tokens for which a model predicts from others, as plain values.

    Returns:
        A checksum of the tokenizer's vocabulary and merges, the size of the vocabulary, and how many tokens an example
        has; None of a model that does not predict for each token of its own preprocessing.
    """
    if not is_per_token(model):
        return None
    made = tokenizer(model)
    content = json.dumps([vocabulary(made), list(getattr(made, "merges", None) or [])])
    return {
        "vocabulary": hashlib.sha256(content.encode()).hexdigest(),
        "size": int(made.vocabulary_size()),
        "length": getattr(model.preprocessor, "sequence_length", None),
    }


def check_tokens(model: Any, known: dict[str, Any] | None, owner: str) -> None:
    """Refuse a model that predicts for other tokens than targets are of.

    Args:
        model: the student.
        known: what `tokens_of` has returned for the model that the targets are of.
        owner: of the targets, for the message.

    Raises:
        ValueError: another vocabulary, or another number of tokens.
    """
    ours = tokens_of(model)
    if ours is None or known is None or ours == known:
        return
    if ours["vocabulary"] != known["vocabulary"]:
        what = f"the tokenizer with which {owner} was built, of {known['size']:,} tokens"
        received, remedy = f"another one, of {ours['size']:,}", "Give the student the teacher's tokenizer"
    else:
        what, received = f"examples of {known['length']} tokens, as {owner} has", f"{ours['length']}"
        remedy = f"Set sequence_length={known['length']} on the student's preprocessor"
    raise ValueError(
        f"Expected a student with {what}, as targets are compared token by token. {model.name!r} has {received}. "
        f"{remedy}, or build another cache."
    )


def has_text(x: Tensors) -> bool:
    """Return whether there are strings among tensors, arrays or their specs."""
    return any(_is_text(leaf) for leaf in tree.flatten(x))


def check_text(model: Any, x: Tensors, owner: str) -> None:
    """Refuse strings for a model that takes numbers.

    Args:
        model: of Keras, or anything else.
        x: a batch, or the specs of one.
        owner: "student" or "teacher".

    Raises:
        ValueError: it declares its inputs, and none is a string.
    """
    inputs = getattr(model, "inputs", None)  # layers, functions and subclassed models declare none
    if not inputs or any(each.dtype == "string" for each in inputs):
        return
    if has_text(layer_reader.select(model, x)):
        raise ValueError(
            f"Expected numbers for the {owner} {model.name!r}, which has no `preprocessor` and no input of strings. "
            "Received strings. Take a task of KerasHub with its preprocessor, put a keras.layers.TextVectorization "
            "into the model, or pass tokens."
        )


def vocabulary(tokenizer: Any) -> list[str]:
    """Return the tokens of a vocabulary in the order of their ids: byte pairs have them in any order."""
    tokens, ids = tokenizer.get_vocabulary(), getattr(tokenizer, "vocabulary", None)
    return sorted(tokens, key=ids.__getitem__) if isinstance(ids, dict) else list(tokens)


def _as_python(leaf: Any) -> Any:
    """Return strings as a list: outside of a graph, tokenizers of KerasHub take no arrays or tensors of them."""
    if not _is_text(leaf):
        return leaf
    return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in np.asarray(leaf).tolist()]


def _is_text(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "US" or (leaf.dtype == object and isinstance(next(leaf.flat, None), (str, bytes)))
    return isinstance(leaf, (str, bytes)) or getattr(leaf, "dtype", None) == "string"  # of what has none
