"""The table of every public loss and transform: inputs, reference, and what must hold of it.

A new loss is one more `Golden` here; tests/test_losses_all.py and tests/conformance.py run over the table.
References are those of tests/references.py; what differs from them in shape alone is put together at the end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import losses, transforms
from tests import references

#: A shape is a tuple; several tensors on one side are a list of shapes.
Shape = tuple[int, ...] | list[tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Golden:
    """One public loss, its float64 reference, and its properties.

    Attributes:
        name: in keras_kd.losses.
        formula: what it is per example, as its docstring has it.
        paper: where it comes from.
        needs: L logits, F features, M maps, Y labels, A a bridge or weights of its own.
        reference: (student, teacher[, labels], **arguments) -> values in float64.
        shapes: pairs of a student's and a teacher's shape, at least three.
        methods: functions of keras_kd.methods that use it.
        variants: arguments to try; the first one is the default, unless the loss is a layer.
        labels: "classes" for ids below the last axis, "values" for the student's shape, or None.
        scalar: whether it is one number for the whole batch, to which weights do not apply.
        mixes: whether the value of an example depends on the other examples.
        zero: whether it is 0 where student == teacher.
        nonnegative: whether it is never below 0, up to the rounding of a difference.
        invariances: names of tests.test_losses_all.CHANGES that leave it as it is.
        weights: the arguments of the reference that a loss layer holds.
        extreme_variants: further arguments, near the ends of their range, to try on many classes.
        step: of the differences that find its gradient over many classes; small where that jumps.
    """

    name: str
    formula: str
    paper: str
    needs: str
    reference: Callable[..., np.ndarray]
    shapes: tuple[tuple[Shape, Shape], ...]
    methods: tuple[str, ...] = ()
    variants: tuple[dict, ...] = ({},)
    labels: str | None = None
    scalar: bool = False
    mixes: bool = False
    zero: bool = True
    nonnegative: bool = True
    invariances: tuple[str, ...] = ("examples",)
    weights: Callable[[Any], dict] | None = None
    extreme_variants: tuple[dict, ...] = ()
    step: float = 0.01

    @property
    def loss(self) -> Callable:
        """What keras_kd.losses has under the name."""
        return getattr(losses, self.name)

    def bind(self, shapes: tuple[Shape, Shape], arguments: dict) -> tuple[Callable, Callable]:
        """Return ours and the reference, both of (student, teacher, labels or None)."""
        if self.weights is None:
            ours, known = self.loss, arguments
        else:
            ours, known = with_random_weights(self.loss(**arguments), shapes), None
        loss_arguments = arguments if known is not None else {}

        def call(student, teacher, labels=None):
            return ours(student, teacher, **({} if labels is None else {"labels": labels}), **loss_arguments)

        def expected(student, teacher, labels=None):
            more = known if known is not None else self.weights(ours)
            return self.reference(student, teacher, **({} if labels is None else {"labels": labels}), **more)

        return call, expected

    def inputs(self, shapes: tuple[Shape, Shape], seed: int = 0, scale: float = 1.5) -> tuple:
        """Return a student's and a teacher's side in float32, and labels or None."""
        random = np.random.default_rng(seed)
        student, teacher = (
            of_each(shape, lambda one: (scale * random.normal(size=one)).astype("float32")) for shape in shapes
        )
        return student, teacher, self.labels_like(student, random)

    def labels_like(self, student: Any, random: np.random.Generator) -> np.ndarray | None:
        """Return labels for a student's output."""
        if self.labels == "classes":
            return random.integers(0, student.shape[-1], student.shape[:-1])
        return random.normal(size=student.shape).astype("float32") if self.labels else None

    def cases(self) -> list[tuple[Callable, Callable, tuple]]:
        """Return ours, the reference and the inputs, for every shape and all arguments."""
        found = []
        for number, shapes in enumerate(self.shapes):
            for arguments in self.variants:
                found.append((*self.bind(shapes, arguments), self.inputs(shapes, seed=number)))
        return found

    @property
    def compares_distributions(self) -> bool:
        """Whether it is a loss on logits, of classes or of labels, that may be many or excluded by -inf."""
        return self.needs in ("L", "L, Y") and self.labels != "values"

    def cases_of_many_classes(self) -> list[tuple[Callable, Callable, tuple]]:
        """Return cases as of vocabularies: student and teacher far apart, and nearly equal."""
        found = []
        for classes in (1000, 32000):
            if self.name == "class_correlation" and classes > 1000:
                continue  # it compares (classes, classes)
            for number, arguments in enumerate(self.variants[:1] + self.extreme_variants):
                shape = (4, classes)
                far = self.inputs((shape, shape), seed=number, scale=6.0)
                teacher, change, labels = self.inputs((shape, shape), seed=number, scale=3.0)
                near = teacher + np.float32(0.1) * change, teacher, labels
                found += [(*self.bind((shape, shape), arguments), inputs) for inputs in (far, near)]
        return found


@dataclasses.dataclass(frozen=True)
class Transform:
    """One public transform and its float64 reference."""

    name: str
    formula: str
    paper: str
    call: Callable
    reference: Callable[[np.ndarray], np.ndarray]
    shapes: tuple[tuple[int, ...], ...] = ((4, 5), (1, 2), (2, 3, 7))


def of_each(sides: Any, function: Callable) -> Any:
    """Apply a function to one thing, or to each of a list or tuple of things that are not shapes."""
    if isinstance(sides, list) or (isinstance(sides, tuple) and not isinstance(sides[0], int)):
        return tuple(function(side) for side in sides)
    return function(sides)


def with_random_weights(layer: keras.layers.Layer, shapes: tuple[Shape, Shape]) -> keras.layers.Layer:
    """Build a loss layer, with weights that are neither zero nor equal."""
    layer.build(*shapes)
    layer.built = True
    random = np.random.default_rng(9)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return layer


def ours_and_gradient(call: Callable, inputs: tuple, cotangent: np.ndarray | None = None) -> tuple:
    """Return the loss, the gradient of its sum, weighted by `cotangent`, on the student: arrays, or tuples of them."""
    student, teacher, labels = inputs
    student, teacher = tree.map_structure(tf.convert_to_tensor, (student, teacher))
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = call(student, teacher, labels)
        total = tf.reduce_sum(values if cotangent is None else values * cotangent)
    gradient = tape.gradient(total, student, unconnected_gradients="zero")
    return values.numpy(), tree.map_structure(lambda side: tf.convert_to_tensor(side).numpy(), gradient)


def doubled(sides: Any) -> Any:
    """Return the same numbers in float64; class ids stay."""
    return tree.map_structure(
        lambda side: side if side is None or side.dtype.kind == "i" else np.asarray(side, "float64"), sides
    )


def finite_differences(reference: Callable, inputs: tuple, cotangent: Any = 1.0, step: float = 1e-5) -> Any:
    """Return the gradient of the sum of a reference, by central differences on each of the student's numbers.

    In float64 its error is about step**2 (a sixth of the third derivative) + 1e-16 / step: below 1e-9 here.
    """
    student, teacher, labels = doubled(inputs)

    def slope(side, index):
        ends = []
        for sign in (1.0, -1.0):
            kept = side[index]
            side[index] = kept + sign * step
            ends.append(np.sum(cotangent * reference(student, teacher, labels)))
            side[index] = kept
        return (ends[0] - ends[1]) / (2 * step)

    student = tree.map_structure(np.array, student)  # copies: they are written to
    return tree.map_structure(
        lambda side: np.array([slope(side, index) for index in np.ndindex(side.shape)]).reshape(side.shape), student
    )


def slopes_at(reference: Callable, inputs: tuple, row: int, columns: np.ndarray, step: float = 0.01) -> np.ndarray:
    """Return some numbers of the gradient of the sum of a reference, of one row of the student.

    By five points each, whose error is step**4 / 30 times the fifth derivative: below 1e-9 of the others.
    """
    student, teacher, labels = doubled(inputs)
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}

    def slope(column: int) -> float:
        total = 0.0
        for points, weight in weights.items():
            moved = student.copy()
            moved[row, column] += points * step
            total += weight * np.sum(reference(moved, teacher, labels))
        return total / step

    return np.array([slope(column) for column in columns])


def deviation_of_many_classes(case: tuple, numbers: int = 6, step: float = 0.01) -> tuple[float, float]:
    """Return the deviations of value and gradient, the latter where it is largest and at some other classes."""
    ours, reference, inputs = case
    values, gradient = ours_and_gradient(ours, inputs)
    row, largest = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
    others = np.random.default_rng(0).integers(0, gradient.shape[-1], numbers // 3)
    columns = np.unique([largest, *np.argsort(-np.abs(gradient[row]))[: numbers // 2], *others])
    slopes = slopes_at(reference, inputs, row, columns, step)
    return deviation(values, reference(*doubled(inputs))), deviation(gradient[row, columns], slopes)


def deviation(received: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest expected number: 0.1 is far off for numbers of 1e-3."""
    worst = 0.0
    for ours, theirs in zip(tree.flatten(received), tree.flatten(expected), strict=True):
        assert np.shape(ours) == np.shape(theirs), f"shape {np.shape(ours)}, expected {np.shape(theirs)}"
        largest = np.max(np.abs(theirs))
        worst = np.maximum(worst, np.max(np.abs(ours - theirs)) / (largest if largest > 0 else 1.0))  # keeps a NaN
    return float(worst)


# What the references have for (batch, classes) alone, or not at all.


def _rows(logits: np.ndarray) -> np.ndarray:
    return logits.reshape(-1, logits.shape[-1])


def _over_rows(reference: Callable) -> Callable:
    """Count positions as examples."""
    return lambda student, teacher: reference(_rows(student), _rows(teacher))


def batch_correlation_by_row(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Row i of what `references.batch_correlation` averages: sum_j (P_t P_t' - P_s P_s')_ij**2."""
    p, q = (np.exp(_rows(z)) / np.sum(np.exp(_rows(z)), axis=-1, keepdims=True) for z in _centred(student, teacher))
    return np.sum((p @ p.T - q @ q.T) ** 2, axis=-1).reshape(student.shape[:-1])


def _centred(*logits: np.ndarray) -> list[np.ndarray]:
    return [z - np.max(z, axis=-1, keepdims=True) for z in logits]


def review(student: tuple[np.ndarray, ...], teacher: tuple[np.ndarray, ...]) -> np.ndarray:
    """Sum over the stages of the hierarchical context loss."""
    return sum(references.hierarchical_pooling(s, t) for s, t in zip(student, teacher, strict=True))


def contrastive_memory(student, teacher, student_dense, teacher_dense, bank, temperature) -> np.ndarray:
    """-log of the share of the own embedding among those of the others in batch and bank; x W + b of length 1."""
    ours, theirs = (
        references.l2_normalize(x.reshape(len(x), -1) @ kernel + bias)
        for x, (kernel, bias) in ((student, student_dense), (teacher, teacher_dense))
    )
    same = np.all(_each_with_each(references._flatten(doubled(teacher))), axis=-1)  # of one row twice, neither counts
    own = np.exp(np.sum(ours * theirs, axis=-1) / temperature)
    others = np.where(same, 0.0, np.exp(ours @ theirs.T / temperature))
    return -np.log(own / (own + np.sum(others, axis=1) + np.sum(np.exp(ours @ bank.T / temperature), axis=1)))


def _each_with_each(x: np.ndarray) -> np.ndarray:
    return x[:, None] == x[None]


def _contrastive_weights(layer: Any) -> dict:
    return {
        "student_dense": doubled(layer.student_embedding.get_weights()),
        "teacher_dense": doubled(layer.teacher_embedding.get_weights()),
        "bank": doubled(layer.bank.numpy()) if layer.memory else np.zeros((0, layer.dimension)),
        "temperature": layer.temperature,
    }


def class_map(logits: np.ndarray) -> np.ndarray:
    """Log of the summed powers of classes 3 and 0, and of 1: GROUPS on 5 classes; 2 and 4 are left out."""
    if logits.shape[-1] != 5:
        return logits
    largest = np.max(logits, axis=-1, keepdims=True)
    powers = np.exp(logits - largest)
    return np.log(np.stack([powers[..., 3] + powers[..., 0], powers[..., 1]], axis=-1)) + largest


GROUPS = [[3, 0], 1]

LOGITS = (((4, 5), (4, 5)), ((1, 2), (1, 2)), ((2, 3, 7), (2, 3, 7)))
OTHER_CLASSES = (((4, 5), (4, 5)), ((1, 2), (1, 3)), ((2, 3, 7), (2, 3, 4)))
SEVERAL_LOGITS = (((4, 5), (4, 5)), ((3, 2), (3, 2)), ((2, 3, 7), (2, 3, 7)))
VALUES = (((4, 5), (4, 5)), ((3, 1), (3, 1)), ((2, 3, 7), (2, 3, 7)), ((2, 3, 3, 2), (2, 3, 3, 2)))
SAME_MAPS = (((3, 4, 4, 3), (3, 4, 4, 3)), ((2, 7, 5, 2), (2, 7, 5, 2)), ((1, 2, 2, 4), (1, 2, 2, 4)))
MAPS = (((3, 4, 4, 3), (3, 4, 4, 5)), ((2, 5, 5, 2), (2, 3, 3, 3)), ((2, 2, 3, 4), (2, 4, 6, 2)))
FEATURES = (((5, 4), (5, 6)), ((6, 3), (6, 3)), ((4, 2, 2, 2), (4, 5)), ((4, 3, 2), (4, 3, 3)))
TOKENS = (((3, 4, 4), (3, 4, 6)), ((2, 5, 2), (2, 5, 2)), ((2, 2, 3, 4), (2, 2, 3, 2)))
SAME_FEATURES = (((5, 4), (5, 4)), ((6, 3), (6, 3)), ((4, 2, 2, 2), (4, 2, 2, 2)))
BOXES = tuple(
    ((*anchors, 4), [(*anchors, 4), (*anchors, labels)]) for anchors, labels in (((2, 5), 3), ((1, 3), 1), ((3, 4), 2))
)
DIVERGENCE = ("examples", "classes", "student shift", "teacher shift")
SIMILARITY = ("examples", "student scale", "teacher scale", "student rotation", "teacher rotation")

LOSSES = (
    Golden(
        "kl_divergence", "sum_k p_k (log p_k - log q_k)", "1503.02531", "L", references.kl_divergence, LOGITS,
        methods=("kd", "standardized", "multi_level", "distilbert"), invariances=DIVERGENCE,
    ),
    Golden(
        "reverse_kl", "sum_k q_k (log q_k - log p_k)", "2306.08543", "L", references.reverse_kl, LOGITS,
        invariances=DIVERGENCE,
    ),
    Golden(
        "jensen_shannon", "beta KL(p, m) + (1 - beta) KL(q, m), m = beta p + (1 - beta) q", "2306.13649", "L",
        references.jensen_shannon, LOGITS, methods=("gkd",), variants=({}, {"beta": 0.0}, {"beta": 0.2}, {"beta": 1.0}),
        invariances=DIVERGENCE, extreme_variants=({"beta": 0.01}, {"beta": 0.1}, {"beta": 0.9}, {"beta": 0.99}),
    ),
    Golden(
        "skew_kl", "KL(p, skew p + (1 - skew) q)", "2402.03898", "L", references.skew_kl, LOGITS,
        methods=("distillm",), variants=({}, {"skew": 0.0}, {"skew": 0.6}, {"skew": 1.0}), invariances=DIVERGENCE,
        extreme_variants=({"skew": 0.01}, {"skew": 0.9}),
    ),
    Golden(
        "skew_reverse_kl", "KL(q, skew q + (1 - skew) p)", "2402.03898", "L", references.skew_reverse_kl, LOGITS,
        methods=("distillm",), variants=({}, {"skew": 0.0}, {"skew": 0.6}, {"skew": 1.0}), invariances=DIVERGENCE,
        extreme_variants=({"skew": 0.01}, {"skew": 0.9}),
    ),
    Golden(
        "decoupled_kl", "a KL(target against rest) + b KL(softmax over the rest)", "2203.08679", "L, Y",
        references.decoupled_kl, LOGITS, methods=("dkd",), labels="classes", invariances=DIVERGENCE,
        variants=({}, {"target_weight": 2.5, "non_target_weight": 0.0}, {"target_weight": 0.0, "non_target_weight": 2}),
    ),
    Golden(
        "normalized_kl", "-p_y log q_y - g sum_k p'_k log q'_k over the rest", "2303.13005", "L, Y",
        references.normalized_kl, LOGITS, methods=("nkd",), labels="classes", zero=False, invariances=DIVERGENCE,
        variants=({}, {"non_target_weight": 0.3}),
    ),
    Golden(
        "enhanced_target", "-sum_k ((p_k + [k = y])**g - [k = y]) log q_k", "2310.19444", "L, Y",
        references.enhanced_target, LOGITS, methods=("ofa",), labels="classes", zero=False, invariances=DIVERGENCE,
        variants=({}, {"power": 1.0}, {"power": 2.5}),
    ),
    Golden(
        "inter_class_relation", "1 - Pearson over the classes of (q, p)", "2205.10536", "L",
        references.inter_class_relation, LOGITS, methods=("dist",), invariances=DIVERGENCE,
    ),
    Golden(
        "intra_class_relation", "mean_k (1 - Pearson over the batch of (q_k, p_k))", "2205.10536", "L",
        _over_rows(references.intra_class_relation), SEVERAL_LOGITS, methods=("dist",), scalar=True, mixes=True,
        invariances=DIVERGENCE,
    ),
    Golden(
        "class_correlation", "sum_kl (P_t' P_t - P_s' P_s)**2 / classes", "MLKD, CVPR 2023", "L",
        _over_rows(references.class_correlation), LOGITS, methods=("multi_level",), scalar=True, mixes=True,
        invariances=DIVERGENCE,
    ),
    Golden(
        "batch_correlation", "sum_j (P_t P_t' - P_s P_s')_ij**2", "MLKD, CVPR 2023", "L",
        batch_correlation_by_row, LOGITS, methods=("multi_level",), mixes=True, invariances=DIVERGENCE,
    ),
    Golden(
        "transformed_teacher", "KL(p**g / sum p**g, q), weighted: times sum p**g", "2402.11148", "L",
        references.transformed_teacher, LOGITS, methods=("ttm",), zero=False, invariances=DIVERGENCE,
        variants=({}, {"weighted": True}, {"power": 0.7, "weighted": True}),
    ),
    Golden(
        "hard_label", "-log q_y, y = argmax t", "2012.12877", "L", references.hard_label, LOGITS, methods=("deit",),
        zero=False, invariances=DIVERGENCE,
    ),
    Golden(
        "universal_logits", "sum_r abs(p_(r) - q_(r)), of sorted probabilities", "2402.12030", "L",
        references.universal_logits, OTHER_CLASSES, methods=("universal_logits",), step=1e-6,
        variants=({}, {"top_k": 1}, {"top_k": 4}),
        invariances=("examples", "student channels", "teacher channels", "student shift", "teacher shift"),
    ),
    Golden(
        "binary_kl", "mean_k KL of (sigmoid t_k, 1 - sigmoid t_k)", "1503.02531, per label", "L",
        references.binary_kl, VALUES, methods=("multi_label",), invariances=("examples", "classes"),
    ),
    Golden(
        "squared_error", "mean_k (s_k - t_k)**2", "1312.6184, 1412.6550", "L or F", references.squared_error, VALUES,
        methods=("fitnets", "regression", "sim"), invariances=("examples", "classes", "shared rotation", "both shift"),
    ),
    Golden(
        "absolute_error", "mean_k abs(s_k - t_k)", "", "L or F", references.absolute_error, VALUES,
        invariances=("examples", "classes", "both shift"),
    ),
    Golden(
        "huber_error", "mean_k of e**2 / 2, or delta abs(e) - delta**2 / 2", "Huber, 1964", "L or F",
        references.huber_error, VALUES, variants=({}, {"delta": 0.3}),
        invariances=("examples", "classes", "both shift"),
    ),
    Golden(
        "teacher_bounded", "e_s where e_s + margin > e_t, else 0; e = sum_k (. - y)_k**2", "NeurIPS 2017", "L, Y",
        references.teacher_bounded, VALUES, variants=({}, {"margin": 4.0}), labels="values", zero=False,
        invariances=("examples", "classes"),
    ),
    Golden(
        "attention_transfer", "mean_i (a_s / norm - a_t / norm)_i**2, a = mean_c f**2", "1612.03928", "M",
        references.attention_transfer, MAPS, methods=("attention_transfer",),
        invariances=("examples", "student channels", "teacher channels", "student scale", "teacher scale"),
    ),
    Golden(
        "nst", "mean k(t, t') + mean k(s, s') - 2 mean k(s, t), k = (x . y)**2", "1707.01219", "M", references.nst,
        MAPS, methods=("nst",),
        invariances=("examples", "student channels", "teacher channels", "student scale", "teacher scale"),
    ),
    Golden(
        "fsp", "mean_ij (G_s - G_t)_ij**2, G_ij = mean of first_i last_j", "FSP, CVPR 2017", "M", references.fsp,
        (
            ([(3, 4, 4, 3), (3, 4, 4, 2)], [(3, 4, 4, 3), (3, 4, 4, 2)]),
            ([(2, 4, 6, 2), (2, 2, 3, 4)], [(2, 5, 5, 2), (2, 3, 3, 4)]),
            ([(1, 2, 2, 1), (1, 3, 3, 2)], [(1, 3, 3, 1), (1, 2, 2, 2)]),
        ),
        methods=("fsp",), invariances=("examples", "channels"),
    ),
    Golden(
        "channel_wise", "mean_c KL(softmax_i t_ic, softmax_i s_ic)", "2011.13256", "M", references.channel_wise,
        (*SAME_MAPS, ((2, 6, 3), (2, 6, 3))), methods=("cwd",),
        invariances=("examples", "channels", "student shift of channels", "teacher shift of channels"),
    ),
    Golden(
        "hierarchical_pooling", "sum_l w_l mean (pool_l s - pool_l t)**2 / sum_l w_l", "2104.09044", "M",
        references.hierarchical_pooling, SAME_MAPS, invariances=("examples", "channels", "both shift"),
    ),
    Golden(
        "review", "sum over stages of hierarchical_pooling", "2104.09044", "M, A", review,
        (
            ([(2, 5, 5, 2), (2, 3, 3, 3)], [(2, 5, 5, 2), (2, 3, 3, 3)]),
            ([(3, 4, 4, 2)], [(3, 4, 4, 2)]),
            ([(1, 6, 4, 2), (1, 2, 2, 1), (1, 1, 1, 3)], [(1, 6, 4, 2), (1, 2, 2, 1), (1, 1, 1, 3)]),
        ),
        methods=("review",), invariances=("examples", "channels", "both shift"),
    ),
    Golden(
        "cosine", "1 - cos(s, t)", "1910.01108", "F", references.cosine, VALUES,
        invariances=("examples", "classes", "student scale", "teacher scale", "shared rotation"),
    ),
    Golden(
        "standardized_huber", "mean_c h(s_c - z_c), z = t standardised over channels", "2403.06213", "F, A",
        references.standardized_huber, (((3, 4), (3, 4)), ((2, 5), (2, 7, 5)), ((3, 6), (3, 2, 4, 6))),
        methods=("vkd",), zero=False, invariances=("examples", "channels", "teacher shift"),
    ),
    Golden(
        "VariationalInformation", "mean_c ((mu - f)_c**2 / v_c + log v_c) / 2", "1904.05835", "F, A",
        references.variational_information, VALUES, methods=("vid",), zero=False, nonnegative=False,
        weights=lambda layer: {"variance": np.log1p(np.exp(doubled(layer.raw_variance.numpy()))) + 1e-5},
    ),
    Golden(
        "MaskedGeneration", "sum_hwc (G(m * s) - t)_hwc**2, G two trained convolutions", "2205.01529", "M, A",
        references.masked_generation, SAME_MAPS, methods=("mgd",), zero=False,
        weights=lambda layer: {
            each.name: [doubled(weight) for weight in each.get_weights()] for each in layer.generator.layers
        },
    ),
    Golden(
        "MaskedTokenGeneration", "sum_hwc m_hw (G(x) - t)_hwc**2 / masked, x with a trained token where m is 1",
        "2209.02432", "M, A", references.masked_token_generation, SAME_MAPS, methods=("vitkd",), zero=False,
        weights=lambda layer: {
            **{each.name: [doubled(weight) for weight in each.get_weights()] for each in layer.generator.layers},
            "token": doubled(layer.token.numpy()),
        },
    ),
    Golden(
        "CenteredCrossEntropy", "-sum_c p_c log q_c, p = softmax((t - center) / T_t), q = softmax(s / T_s)",
        "2104.14294", "F, A", references.centered_cross_entropy, VALUES, methods=("dino",), zero=False,
        variants=({}, {"student_temperature": 0.7, "teacher_temperature": 0.9}),
        invariances=DIVERGENCE,
        weights=lambda layer: {
            "center": doubled(layer.center.numpy()),
            "student_temperature": layer.student_temperature,
            "teacher_temperature": layer.teacher_temperature,
        },
    ),
    Golden(
        "StandardizedFeatures", "a (1 - cos(s, z)) + (1 - a) mean_c smooth_l1(s - z)_c, z of mean 0 and variance 1",
        "2312.06709", "F", references.standardized_features, VALUES, methods=("backbone",),
        variants=({}, {"cosine_share": 0.3}, {"cosine_share": 1.0}),
        invariances=("examples", "classes"),
        weights=lambda layer: {"cosine_share": layer.cosine_share},
    ),
    Golden(
        "scale_decoupled_kl", "mean_c w_c KL(p_c, q_c), w_c 1 where argmax p_c is argmax p_0, else beta", "2403.13512",
        "L of parts", references.scale_decoupled_kl,
        (((3, 5, 4), (3, 5, 4)), ((2, 1, 3), (2, 1, 3)), ((2, 21, 2), (2, 21, 2))), methods=("sdd",),
        variants=({}, {"complementary_weight": 0.0}, {"complementary_weight": 5.0}), invariances=DIVERGENCE,
    ),
    Golden(
        "foreground_kl", "sum_a w_a sum_k KL(P_ak, Q_ak) / sum_a w_a, w_a = max_k P_ak", "2111.00674", "L of anchors",
        references.foreground_kl, (((2, 5, 3), (2, 5, 3)), ((1, 4, 1), (1, 4, 1)), ((2, 3, 7), (2, 3, 7))),
        methods=("detector",), scalar=True, mixes=True, invariances=("examples", "classes"),
    ),
    Golden(
        "foreground_huber", "sum_a w_a mean_k smooth_l1(s - t)_ak / sum_a w_a, w_a where the teacher is sure", "", "F",
        references.foreground_huber, BOXES, methods=("detector",), scalar=True, mixes=True, zero=False,
        variants=({}, {"threshold": 0.0}, {"threshold": 0.8}),
    ),
    Golden(
        "map_correlation", "mean_c (1 - Pearson over batch and positions of (s_c, t_c))", "2207.02039", "F",
        references.map_correlation, (*SAME_MAPS, ((2, 6, 3), (2, 6, 3))), methods=("detector",), scalar=True,
        mixes=True, invariances=("examples", "classes", "student scale", "teacher scale", "both shift"),
    ),
    Golden(
        "rkd_distance", "mean_ij huber(d_s / mean d_s - d_t / mean d_t)", "1904.05068", "F", references.rkd_distance,
        FEATURES, methods=("rkd",), scalar=True, mixes=True, invariances=(*SIMILARITY, "student shift of all"),
    ),
    Golden(
        "rkd_angle", "mean_ijk huber(cos_s - cos_t), the angle at j", "1904.05068", "F", references.rkd_angle, FEATURES,
        methods=("rkd",), scalar=True, mixes=True, invariances=(*SIMILARITY, "student shift of all"),
    ),
    Golden(
        "similarity_preserving", "mean_j (G_s - G_t)_ij**2, G of unit rows", "1907.09682", "F",
        references.similarity_preserving, FEATURES, methods=("similarity_preserving",), mixes=True,
        invariances=SIMILARITY,
    ),
    Golden(
        "pkt", "mean_j t_ij log((t_ij + e) / (s_ij + e)), e = 1e-7", "1803.10837", "F", references.pkt, FEATURES,
        methods=("pkt",), mixes=True, invariances=SIMILARITY,
    ),
    Golden(
        "token_relations", "mean_a KL of softmax(x_a x_a' / sqrt(d)), token by token", "2012.15828", "F",
        references.token_relations, TOKENS, methods=("minilm",), variants=({}, {"heads": 2}), invariances=("examples",),
    ),
    Golden(
        "correlation_congruence", "mean_j (K_s - K_t)_ij**2, K a Taylor series of exp(-gamma d**2)", "1904.01802", "F",
        references.correlation_congruence, FEATURES, methods=("correlation",), mixes=True,
        variants=({}, {"gamma": 1.2, "order": 3}), invariances=SIMILARITY,
    ),
    Golden(
        "contrastive", "-log softmax_j(s_i . t_j / similarity_temperature)_i", "1910.10699, 1807.03748", "F",
        references.contrastive, SAME_FEATURES, mixes=True, zero=False, variants=({}, {"similarity_temperature": 0.9}),
        invariances=("examples", "student scale", "teacher scale", "shared rotation"),
    ),
    Golden(
        "ContrastiveMemory", "the same, j over batch and bank, of trained embeddings", "1910.10699, 1911.05722", "F, A",
        contrastive_memory, FEATURES, methods=("crd",), mixes=True, zero=False, weights=_contrastive_weights,
        variants=({"dimension": 3, "memory": 9}, {"dimension": 4, "memory": 0, "temperature": 0.5}),
    ),
)  # fmt: skip

TRANSFORMS = (
    Transform("standardize", "(z - mean) / (std + 1e-7), n - 1", "2403.01427", transforms.standardize,
              references.standardize),
    Transform("l2_normalize", "x / norm of x", "", transforms.l2_normalize, references.l2_normalize),
    Transform("ClassMap", "logsumexp of each group", "", transforms.ClassMap(GROUPS, teacher_classes=5), class_map),
    Transform("FirstClasses", "z of the first classes", "", transforms.FirstClasses(2), lambda x: x[..., :2]),
    Transform("KeptChannels", "x of the kept channels", "", transforms.KeptChannels([0, 3], 5),
              lambda x: x[..., [0, 3]] if x.shape[-1] == 5 else x),
)  # fmt: skip
