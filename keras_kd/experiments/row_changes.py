"""What `distill` may do to rows: the user's own changes, or those that suit the data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_kd import augment
from keras_kd._keras import layer_tree
from keras_kd._types import Tensors
from keras_kd.augment.changes import Change

#: The smallest images that are cropped; of smaller ones, a part hardly shows what the whole does.
_PIXELS = 16

#: The least share of an image that is seen.
_SCALE = 0.3


class Offered(NamedTuple):
    """A change of rows, and Python that makes it."""

    change: Change | Callable[..., Any]
    code: str


def given(changes: Mapping[str, Any]) -> dict[str, Offered]:
    """Return the user's own changes.

    Raises:
        ValueError: one without a name, or that has no labels for the student alone.
    """
    for name, change in changes.items():
        if not isinstance(name, str) or not name or getattr(change, "adds_unlabelled", False):
            raise ValueError(
                "Expected `changes` to map names to changes whose rows keep or mix their labels, as "
                f"keras_kd.augment.CutMix(); they are put beside the rows. Received: {name!r}: {change!r}"
            )
    return {name: Offered(change, f"changes[{name!r}]") for name, change in changes.items()}


def settings(offered: Mapping[str, Offered]) -> dict[str, Any]:
    """Return what decides changes: their class or function, and the arguments of a `Change`."""
    return {
        name: [each.code, each.change, vars(each.change) if isinstance(each.change, Change) else None]
        for name, each in offered.items()
    }


def suitable(
    student: keras.Model, x: Tensors, has_quantities: bool, is_of_rows: bool, codes: Iterable[int | str] = ()
) -> dict[str, Offered]:
    """Return the changes that suit rows: mixtures of quantities, crops of images, noise of tokens.

    Args:
        student: built; where its only input are ids of an embedding with `mask_zero`, rows are tokens.
        x: the rows.
        has_quantities: whether an average of two rows means something.
        is_of_rows: whether outputs are of whole rows, and not of tokens, which noise would move.
        codes: columns that are no quantities.
    """
    found, leaves = {}, [np.asarray(leaf) for leaf in tree.flatten(x) if leaf is not None]
    if has_quantities:
        codes = list(codes)
        code = f"kd.augment.MixUp(codes={codes})" if codes else "kd.augment.MixUp()"
        found["mixtures"] = Offered(augment.MixUp(codes=codes), code)
    if any(leaf.ndim == 4 and min(leaf.shape[1:3]) >= _PIXELS for leaf in leaves):
        change = augment.RandomResizedCrop((_SCALE, 1.0))
        found["crops"] = Offered(change, f"kd.augment.RandomResizedCrop(({_SCALE}, 1.0))")
    are_ids = len(leaves) == 1 and leaves[0].ndim == 2 and not has_quantities
    tokens = _vocabulary(student) if are_ids and is_of_rows else None
    if tokens is not None:
        found["token noise"] = Offered(augment.TokenNoise(tokens), f"kd.augment.TokenNoise({tokens})")
    return found


def _vocabulary(student: keras.Model) -> int | None:
    """Return how many ids there are, where a student has one embedding, whose id 0 is padding."""
    layers = [layer for layer in layer_tree.all_layers(student) if isinstance(layer, keras.layers.Embedding)]
    return layers[0].input_dim if len(layers) == 1 and layers[0].mask_zero else None
