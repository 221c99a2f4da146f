"""The layers in a layer, and the masks of what they return."""

import keras


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer and all layers in it."""
    return list(layer._flatten_layers())


def supports_jit(layer: keras.layers.Layer) -> bool:
    """Return whether a layer and all layers in it can be compiled with XLA."""
    return all(part.supports_jit for part in all_layers(layer))


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return what the random layers in a layer draw from."""
    return [generator for part in all_layers(layer) for generator in part._seed_generators]
