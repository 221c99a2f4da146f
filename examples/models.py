"""The teacher and the students that the examples use. All end in logits."""

import keras
from keras import layers


def build_teacher(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A convolutional network: 95,618 parameters on images of 28 x 28 x 1 and ten classes, 14,978 on 8 x 8 x 1."""
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(24, 3, padding="same", activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.4),
            layers.Dense(56, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes),
        ],
        name="teacher",
    )


def build_large_teacher(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A wider one: 241,130 parameters on images of 28 x 28 x 1 and ten classes."""
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(96, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes),
        ],
        name="large_teacher",
    )


def build_student(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A smaller one that strides over the image: 20,490 parameters on 28 x 28 x 1, 6,090 on 8 x 8 x 1."""
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv_2"),
            layers.Flatten(name="flat"),
            layers.Dense(classes),
        ],
        name="student",
    )


def build_small(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """One of fewer than 2,000 parameters: 1,810 on images of 28 x 28 x 1, 850 on 8 x 8 x 1."""
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(classes),
        ],
        name="small",
    )
