"""Small causal language models of ids, and a run that kills itself: `python -m tests.writers FOLDER [PART]`.

Generates into the folder, and kills the process with SIGKILL while it generates the part of that number.
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np

from tests.models import initial

PROMPTS = [[1, 2, 3], [4], [5, 6], [2, 2, 7, 1, 3], [6, 5], [3], [7, 7, 1], [1]]
ARGUMENTS = {"length": 6, "stop_ids": [0], "temperature": 1.0, "samples": 2, "batch_size": 3, "seed": 4, "verbose": 0}


def writer(seed: int, words: int = 8, length: int | None = None) -> keras.Model:
    """Return a recurrent network of ids, (batch, time), to logits, (batch, time, words): it reads no later token."""
    inputs = keras.Input((length,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(words, 6, embeddings_initializer=initial(seed))(inputs)
    kernels = {"kernel_initializer": initial(seed + 1), "recurrent_initializer": initial(seed + 2)}
    x = keras.layers.SimpleRNN(8, return_sequences=True, **kernels)(x)
    outputs = keras.layers.Dense(words, kernel_initializer=initial(seed + 3))(x)
    return keras.Model(inputs, outputs, name=f"writer_{seed}")


def main(folder: str, part: int | None) -> None:
    """Generate, and be killed at a part."""
    from keras_kd import language
    from keras_kd.language.generated_examples import _Writer

    write = _Writer.write

    def killed(self, first: int, last: int) -> dict[str, np.ndarray]:
        if part is not None and first == part * ARGUMENTS["batch_size"]:
            (pathlib.Path(folder) / f"partial-{os.uname().nodename}-{os.getpid()}-00000000-part-000009.npz").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, first, last)

    _Writer.write = killed
    language.generate(writer(1), PROMPTS, folder, **ARGUMENTS)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
