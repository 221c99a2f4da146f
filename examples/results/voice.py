"""Is somebody speaking: Silero's detector of voices teaches a small network that reads a frame at a time.

    pip install -e ".[results]" && pip install --no-deps silero-vad
    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav    # Debian or Ubuntu; no root is needed
    for package in asterisk-core-sounds-*.deb; do dpkg -x "$package" recordings; done
    python examples/results/voice.py --recordings recordings [--seeds 3] [--validation] [--record] [--smoke]

Teacher: the ONNX file in the package silero-vad (MIT), without PyTorch, which the package asks for and its file does
not need. Data: prompts of a telephone exchange, spoken by four people, at 8 kHz (CC-BY-SA-3.0; the Russian ones
CC-BY-3.0). Prompts follow each other with pauses of up to a second and a half, under noise that is generated: white,
pink, brown and the hum of a machine. English and Italian are for training, Spanish is to choose settings on, French and
Russian are for the test: other voices.

For each 32 ms, the student, a GRU, has 24 logarithms of energies in bands of the noisy sound; its LiteRT file takes one
such frame and the state behind the last. Alone, it learns where the clean recording is louder than a threshold.
Distilled, it learns what the teacher predicts for the clean recording, without labels. Scored is the area under the ROC
curve at three ratios of voice to noise; a frame has a voice where the teacher finds one in the clean recording. The
teacher's own row is what it finds under the noise.
"""

import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet
import recorded

NEEDED = {"onnxruntime": "onnxruntime", "scipy": "scipy", "sklearn": "scikit-learn", "ai_edge_litert": "ai-edge-litert"}
recorded.require("voice", {"silero_vad": "--no-deps silero-vad", **NEEDED})
quiet.load_tensorflow()

import importlib.metadata
from typing import Any

import keras
import numpy as np
import onnxruntime
from keras import layers
from one_example import costs
from scipy.io import wavfile
from sklearn.metrics import roc_auc_score

import keras_kd as kd

MODEL = recorded.folder_of("silero_vad") / "data/silero_vad.onnx"
RATE, FRAME, CONTEXT = 8000, 256, 32  # samples: a second, a frame, and what the teacher reads before a frame
PARTS = {"train": ("en_", "it_"), "validation": ("es_",), "test": ("fr_", "ru_")}
FRAMES, BANDS, UNITS = 128, 24, 40
QUIET = 0.1  # of the loudest frame of a prompt
RATIOS = (10, 0, -5)  # decibels of voice to noise
STEPS, BATCH, LEARNING_RATE = 600, 32, 5e-3


def prompts(folder: pathlib.Path, languages: tuple[str, ...]) -> list[np.ndarray]:
    """Return the recordings of some languages, from -1 to 1."""
    files = sorted(each for each in folder.rglob("*.wav") if any(part.startswith(languages) for part in each.parts))
    found = [wavfile.read(each) for each in files if "silence" not in each.parts]
    return [sound.astype("float32") / 2**15 for rate, sound in found if rate == RATE and len(sound) > FRAME]


def clean(sounds: list[np.ndarray], count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of prompts and pauses, (count, samples), and where they are loud, (count, FRAMES)."""
    found, loud = np.zeros((count, FRAMES * FRAME), "float32"), np.zeros((count, FRAMES), "float32")
    for row, is_loud in zip(found, loud, strict=True):
        start = int(random.integers(0, RATE))
        while start < len(row):
            sound = sounds[random.integers(len(sounds))]
            sound = 10 ** random.uniform(-1, 0) * sound / np.abs(sound).max()
            row[start : start + len(sound)] = sound[: len(row) - start]
            energies = np.sqrt(np.mean(np.square(row.reshape(FRAMES, FRAME)), axis=1))
            first, last = start // FRAME, min(FRAMES, (start + len(sound)) // FRAME + 1)
            is_loud[first:last] = energies[first:last] > QUIET * energies[first:last].max()
            start += len(sound) + int(random.uniform(0.1, 1.5) * RATE)
    return found, loud


def noise(count: int, samples: int, random: np.random.Generator) -> np.ndarray:
    """Return noise of four kinds with a mean square of 1: white, pink, brown, and a hum with its overtones."""
    spectrum = np.fft.rfft(random.normal(size=(count, samples)))
    frequencies = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    kinds = random.integers(0, 4, count)
    slopes = np.array([0.0, 0.5, 1.0, 0.5])[kinds]
    found = np.fft.irfft(spectrum * frequencies ** -slopes[:, None], samples)
    found /= found.std(axis=1, keepdims=True)
    tones = random.uniform(50, 300, (count, 1, 1)) * np.arange(1, 7)[:, None] * np.arange(samples) / RATE
    hum = np.sum(np.sin(2 * np.pi * (tones + random.random((count, 6, 1)))) / np.arange(1, 7)[:, None], axis=1)
    found += np.where(kinds == 3, 2.0, 0.0)[:, None] * hum / hum.std(axis=1, keepdims=True)
    return (found / found.std(axis=1, keepdims=True)).astype("float32")


def mixed(sounds: np.ndarray, ratios: Any, random: np.random.Generator) -> np.ndarray:
    """Return sounds under noise, at ratios in decibels that are those of the frames that are not silent."""
    square = np.square(sounds)
    level = np.sqrt(np.sum(square, axis=1) / np.maximum(np.sum(square > 1e-8, axis=1), 1))
    scale = np.maximum(level, 1e-3) * 10 ** (-np.broadcast_to(ratios, len(sounds)) / 20)
    return sounds + scale[:, None].astype("float32") * noise(*sounds.shape, random)


def bands(sounds: np.ndarray) -> np.ndarray:
    """Return logarithms of the energies in bands on the mel scale, (rows, FRAMES, BANDS)."""
    frames = sounds.reshape(len(sounds), FRAMES, FRAME) * np.hanning(FRAME).astype("float32")
    energies = np.square(np.abs(np.fft.rfft(frames, axis=-1)))
    mels = np.linspace(0, 1127 * np.log1p(RATE / 2 / 700), BANDS + 2)
    edges = 700 * np.expm1(mels / 1127)
    frequencies = np.fft.rfftfreq(FRAME, 1 / RATE)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    weights = np.clip(np.minimum(rising, falling), 0, None)
    return np.log(energies @ weights + 1e-4).astype("float32")


class Silero:
    """The teacher: probabilities of a voice in each frame of sounds, (rows, FRAMES, 1)."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])

    def step(self, frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.session.run(None, {"input": frame, "state": state, "sr": np.array(RATE, "int64")})

    def once(self) -> None:
        self.step(np.zeros((1, CONTEXT + FRAME), "float32"), np.zeros((2, 1, 128), "float32"))

    def __call__(self, sounds: np.ndarray) -> np.ndarray:
        padded = np.pad(sounds, ((0, 0), (CONTEXT, 0)))
        state, found = np.zeros((2, len(sounds), 128), "float32"), []
        for start in range(0, FRAMES * FRAME, FRAME):
            probability, state = self.step(padded[:, start : start + CONTEXT + FRAME], state)
            found.append(probability)
        return np.stack(found, axis=1)


def student(x: np.ndarray) -> tuple[keras.Model, keras.Model]:
    """Return a network over sequences to be trained, and one over a frame and a state, of the same layers."""
    scale = layers.Normalization(mean=x.mean((0, 1)), variance=x.var((0, 1)))
    before, cell, after = layers.Dense(32, activation="relu"), layers.GRUCell(UNITS), layers.Dense(1)
    inputs = keras.Input((None, BANDS))
    sequence = keras.Model(inputs, after(layers.RNN(cell, return_sequences=True)(before(scale(inputs)))))
    frame, state = keras.Input((BANDS,), name="frame"), keras.Input((UNITS,), name="state")
    output, states = cell(before(scale(frame)), [state])
    return sequence, keras.Model({"frame": frame, "state": state}, {"voice": after(output), "state": states[0]})


def data(sounds: list[np.ndarray], count: int, seed: int, ratios: Any, teacher: Silero) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    waves, loud = clean(sounds, count, random)
    ratios = random.uniform(-10, 20, count) if ratios is None else ratios
    noisy = mixed(waves, ratios, random)
    return {"noisy": noisy, "x": bands(noisy), "loud": loud[..., None], "voice": teacher(waves)}


def compiled(steps: int, loss: Any = None) -> dict[str, Any]:
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))
    return {"optimizer": optimizer, "loss": loss}


def train_alone(seed: int, train: dict[str, np.ndarray], epochs: int) -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(seed)
    sequence, frame = student(train["x"])
    steps = epochs * -(-len(train["x"]) // BATCH)
    sequence.compile(**compiled(steps, keras.losses.BinaryCrossentropy(from_logits=True)))
    sequence.fit(train["x"], train["loud"], batch_size=BATCH, epochs=epochs, verbose=0)
    return sequence, frame


def train_distilled(seed: int, train: dict[str, np.ndarray], epochs: int) -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(seed)
    sequence, frame = student(train["x"])
    steps = epochs * -(-len(train["x"]) // BATCH)
    distiller = kd.Distiller(student=sequence, teacher=kd.teachers.Cached(head="sigmoid"))
    distiller.compile(**compiled(steps), temperature=1.0, alpha=1.0)
    distiller.fit(kd.Joined(train["x"], {"logits": train["voice"]}), batch_size=BATCH, epochs=epochs, verbose=0)
    return sequence, frame


def main() -> None:
    parser = recorded.parser(__doc__)
    parser.add_argument("--recordings", type=pathlib.Path, default="recordings", help="default: recordings")
    options = parser.parse_args()
    part = "validation" if options.validation else "test"
    sounds = {name: prompts(options.recordings, PARTS[name]) for name in ("train", part)}
    if not all(sounds.values()):
        recorded.end("voice", f"No recordings in {options.recordings}, see --help. They are no part of a pip install.")
    print(", ".join(f"{len(each):,} prompts for {name}" for name, each in sounds.items()), flush=True)
    teacher = Silero()
    count, epochs, seeds = (8, 1, 1) if options.smoke else (1200, STEPS * BATCH // 1200, options.seeds)
    train = data(sounds["train"], count, 0, None, teacher)
    students: dict[str, list[tuple[keras.Model, keras.Model]]] = {"alone": [], "distilled": []}
    for seed in range(seeds):
        students["alone"].append(train_alone(seed, train, epochs))
        students["distilled"].append(train_distilled(seed, train, epochs))
        recorded.progress(seed)
    measures = []
    for ratio in RATIOS:
        test = data(sounds[part], count // 4, 1, ratio, teacher)
        scores = {
            kind: [area(test, each.predict(test["x"], verbose=0)) for each, _ in runs]
            for kind, runs in students.items()
        }
        measures.append(recorded.Measure(f"ROC-AUC at {ratio} dB, %", area(test, teacher(test["noisy"])), **scores))
    result = recorded.Result(
        task=f"a voice in {1000 * FRAME // RATE} ms of sound",
        teacher=f"silero-vad {importlib.metadata.version('silero-vad')}, ONNX",
        student=f"a GRU, {students['alone'][0][0].count_params():,} weights, in 8 bits",
        measures=measures,
        teacher_bytes=MODEL.stat().st_size,
        **costs("voice", teacher.once, students["distilled"][0][1], one_frame(test["x"]), options, "dynamic"),
    )
    recorded.finish("voice", result, options, ["silero-vad"])


def area(test: dict[str, np.ndarray], found: np.ndarray) -> float:
    """Return the area under the ROC curve, in percent, for frames in which the teacher finds a voice in clean sound."""
    return 100 * float(roc_auc_score(test["voice"].ravel() > 0.5, found.ravel()))


def one_frame(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return frames and states to try the student on that reads one."""
    frames = x.reshape(-1, BANDS)[:256]
    states = np.random.default_rng(0).uniform(-1, 1, (len(frames), UNITS))
    return {"frame": frames, "state": states.astype("float32")}


if __name__ == "__main__":
    main()
