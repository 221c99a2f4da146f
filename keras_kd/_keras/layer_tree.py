"""The layers in a layer, and what they draw their random numbers from."""

import keras


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer and all layers in it."""
    return list(layer._flatten_layers())


def custom_classes(layer: keras.layers.Layer) -> list[type]:
    """Return the classes of a layer and all layers in it that are not Keras's own: loading its file needs them."""
    classes = {type(each) for each in [layer, *all_layers(layer)]}
    own = [each for each in classes if not each.__module__.startswith("keras.")]
    return sorted(own, key=lambda each: (each.__module__, each.__qualname__))


def supports_jit(layer: keras.layers.Layer) -> bool:
    """Return whether a layer and all layers in it can be compiled with XLA."""
    return all(part.supports_jit for part in all_layers(layer))


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return what the random layers in a layer draw from."""
    return [generator for part in all_layers(layer) for generator in part._seed_generators]
