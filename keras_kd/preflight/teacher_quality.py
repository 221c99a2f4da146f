"""Is the teacher any good on these examples, and are its targets informative at this temperature?"""

import math

import numpy as np

from keras_kd._internal.number_formats import percent
from keras_kd.preflight.batch_outputs import Rows
from keras_kd.preflight.check_report import Report

#: A teacher whose confidence exceeds its accuracy by more than this is not shown what it was trained on; and one whose
#: accuracy rises by more than this once its classes are renamed has them in another order.
_TOO_MUCH = 0.25

#: A teacher of one yes-or-no whose ROC-AUC is below this ranks hardly better than chance.
_RANDOM = 0.6

#: Where one label is more frequent than this, a good teacher is hardly more often right than guessing.
_COMMON = 0.8

#: Targets with a smaller, or a larger, share of the largest possible entropy are not informative: the label alone, or
#: nothing.
_SHARP, _FLAT = 0.02, 0.98

#: The share of the largest possible entropy that another temperature is recommended by.
_WANTED = 0.3

#: A temperature outside of this would hide that something else is wrong.
_USUAL = (0.25, 50.0)

#: A teacher whose logits are so many times the trained student's makes it learn their size as well.
_LARGE = 4.0


def judge(report: Report, rows: Rows, temperature: float, per_label: bool) -> None:
    """Fill in what the logits show, and the advice that follows.

    Args:
        report: to be filled in.
        rows: of student, teacher, labels and weights.
        temperature: T.
        per_label: whether each logit is a yes-or-no of its own.
    """
    report.rows = len(rows.weights)
    report.classes = rows.teacher.shape[-1]
    if report.classes > 1:
        report.teacher_scale, report.student_scale = (
            _mean(np.std(side, axis=-1), rows) for side in (rows.teacher, rows.student)
        )
    report.temperature = temperature
    report.entropy = _entropy(rows.softened, rows.weights, per_label)
    _judge_labels(report, rows, per_label)
    _judge_targets(report, rows, per_label)


def guesses(report: Report) -> bool:
    """Return whether the teacher is right no more often than guessing would be, beyond chance."""
    accuracy, guessing = report.teacher_accuracy, report.guessing
    if accuracy is None or guessing is None:
        return False
    noise = _noise(guessing, report.rows)
    return accuracy <= guessing + noise if guessing <= _COMMON else accuracy < guessing - noise


def labels_fit(rows: Rows) -> bool:
    """Return whether there is a class for every label; where there is not, a loss fails."""
    if rows.ids is None or rows.teacher.shape[-1] < 2 or not _share_classes(rows):
        return True
    lowest, highest = rows.ids
    return 0 <= lowest <= highest < rows.teacher.shape[-1]


def _share_classes(rows: Rows) -> bool:
    """Return whether the labels, which are the student's, may be the teacher's too: not of another vocabulary."""
    return rows.teacher.shape[-1] == rows.student.shape[-1]


def _judge_labels(report: Report, rows: Rows, per_label: bool) -> None:
    labels = rows.labels
    if labels is None or not _share_classes(rows):
        return
    if per_label:
        _compare_yes_and_no(report, rows)
    elif rows.teacher.shape[-1] > 1:
        ids = _ids(labels)
        if rows.ids is not None and not labels_fit(rows):
            report.advice.append(
                f"The labels go from {rows.ids[0]} to {rows.ids[1]}, and the teacher has the classes 0 to "
                f"{rows.teacher.shape[-1] - 1}: one of the two is of another data set, or counted from 1."
            )
        _compare_classes(report, rows, ids)
    if report.teacher_accuracy is not None:
        _advise_on_accuracy(report)


def _ids(labels: np.ndarray) -> np.ndarray:
    return labels if labels.ndim == 1 else np.argmax(labels, axis=-1)


def _compare_classes(report: Report, rows: Rows, ids: np.ndarray) -> None:
    predicted = np.argmax(rows.teacher, axis=-1)
    report.teacher_accuracy = _mean(predicted == ids, rows)
    report.student_accuracy = _mean(np.argmax(rows.student, axis=-1) == ids, rows)
    report.guessing = max(_mean(ids == label, rows) for label in np.unique(ids))
    report.confidence = _mean(np.max(_softmax(rows.teacher), axis=-1), rows)
    report.renamed_accuracy = _renamed(predicted, ids, rows.weights)


def _compare_yes_and_no(report: Report, rows: Rows) -> None:
    if rows.labels is None:
        return
    true = rows.labels.reshape(rows.teacher.shape) > 0.5
    yes = 1.0 / (1.0 + np.exp(-np.clip(rows.teacher, -50, 50)))
    report.teacher_accuracy = _mean((rows.teacher > 0) == true, rows)
    report.student_accuracy = _mean((rows.student > 0) == true, rows)
    report.guessing = max(_mean(true, rows), 1 - _mean(true, rows))
    report.confidence = _mean(np.maximum(yes, 1 - yes), rows)
    if report.classes == 1:
        report.yes = int(np.sum(true))
        report.teacher_roc_auc = _roc_auc(rows.teacher.ravel(), true.ravel())


def _roc_auc(scores: np.ndarray, true: np.ndarray) -> float | None:
    """Return how often a yes has a larger score than a no, equal ones counted half; None without one of the two."""
    yes, no = scores[true], np.sort(scores[~true])
    if not len(yes) or not len(no):
        return None
    return float(np.mean((np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")) / (2 * len(no))))


def _mean(values: np.ndarray, rows: Rows) -> float:
    """Return the mean of values, (rows,) or (rows, labels), by the weights of the rows."""
    return float(np.average(values.reshape(len(values), -1).mean(axis=-1), weights=rows.weights))


def _advise_on_accuracy(report: Report) -> None:
    accuracy, guessing, confidence = report.teacher_accuracy, report.guessing, report.confidence
    if accuracy is None or guessing is None or confidence is None or report.student_accuracy is None:
        return
    noise = _noise(guessing, report.rows)
    renamed = report.renamed_accuracy
    least = max(accuracy + _TOO_MUCH, guessing + noise, confidence - _TOO_MUCH)
    if renamed is not None and renamed > least:
        report.advice.append(
            f"The teacher is right on {percent(accuracy)}, and would be on {percent(renamed)} if its classes were "
            "renamed: they stand in another order than the labels. Compare its list of classes with that of the data."
        )
    elif guesses(report) or confidence - accuracy > _TOO_MUCH:
        report.advice.append(
            f"The teacher is right on {percent(accuracy)} where guessing would be on {percent(guessing)}, and is sure "
            f"by {percent(confidence)}: it is not shown what it was trained on. Compare range, normalisation and size "
            "of x with its training, and give teachers.Frozen(model, preprocess=...) what differs from the student's."
        )
    elif report.teacher_roc_auc is not None and report.teacher_roc_auc < _RANDOM:
        report.advice.append(
            f"The teacher ranks a yes above a no in {percent(report.teacher_roc_auc)} of the cases, where chance is "
            "50 %: its accuracy is that of the more frequent label. Compare what it was trained on with x, and the "
            "order of its classes with the labels."
        )
    elif report.student_accuracy > accuracy + noise:
        report.advice.append("The student is better than its teacher on these examples: what is there to learn?")


def _noise(share: float, count: int) -> float:
    """Return three standard deviations of a share of so many examples."""
    return 3 * math.sqrt(max(share * (1 - share), 1 / count) / count)


def _judge_targets(report: Report, rows: Rows, per_label: bool) -> None:
    entropy, temperature = report.entropy, report.temperature
    if entropy is None or temperature is None:
        return
    if entropy < _SHARP or entropy > _FLAT:
        better = _temperature_for(_WANTED, rows.softened * temperature, rows.weights, per_label)
        what = "hardly more than a label" if entropy < _SHARP else "hardly anything: all classes are as probable"
        report.advice.append(
            f"At T = {temperature:.3g} the teacher's targets contain {what}. {_remedy(better, entropy < _SHARP)}"
        )
    trained = report.student_accuracy is not None and report.student_accuracy > (report.guessing or 0) + _TOO_MUCH
    if trained and (report.teacher_scale or 0) > _LARGE * (report.student_scale or 0):
        report.advice.append(
            "The teacher's logits are much larger than the student's, which has to grow its own to match them: "
            "methods.standardized() compares their shape alone."
        )


def _remedy(better: float | None, sharp: bool) -> str:
    """Return what to do about targets that are not informative, for the temperature at which they would be."""
    if better is not None and _USUAL[0] <= better <= _USUAL[1]:
        doubt = " Or x has another range than the teacher was trained on." if sharp else ""
        return f"Around temperature={better:.2g} they would be more informative.{doubt}"
    if sharp:
        return (
            "No usual temperature would soften them: x has another range than the teacher was trained on, or its "
            "logits are far too large. Compare range and normalisation of x with the teacher's training."
        )
    return "No usual temperature would sharpen them: is the teacher trained, and its weights loaded?"


def _renamed(predicted: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> float:
    """Return the accuracy after each predicted class gets the label that it mostly has, learned on the other half."""
    order = np.random.default_rng(0).permutation(len(ids))  # labels may alternate
    halves = [order[part::2] for part in (0, 1)]
    right = 0.0
    for learned, other in (halves, halves[::-1]):
        for each in np.unique(predicted[learned]):
            rows = learned[predicted[learned] == each]
            labels, places = np.unique(ids[rows], return_inverse=True)
            meant = labels[np.argmax(np.bincount(places, weights[rows]))]
            right += float(np.sum(weights[other][(predicted[other] == each) & (ids[other] == meant)]))
    return right / float(np.sum(weights))


def _entropy(logits: np.ndarray, weights: np.ndarray, per_label: bool) -> float | None:
    """Return the mean entropy as a share of the largest possible."""
    if per_label:
        logits = np.stack([logits, np.zeros_like(logits)], axis=-1)
    if logits.shape[-1] < 2:
        return None
    p = _softmax(logits)
    entropies = -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)
    each = entropies.reshape(len(entropies), -1).mean(axis=-1)
    return float(np.average(each, weights=weights) / math.log(logits.shape[-1]))


def _temperature_for(wanted: float, logits: np.ndarray, weights: np.ndarray, per_label: bool) -> float | None:
    """Return the temperature at which the targets have so much entropy; it grows with the temperature."""
    low, high = 1e-2, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        found = _entropy(logits / middle, weights, per_label)
        low, high = (middle, high) if found is not None and found < wanted else (low, middle)
    return None if low >= 0.99e3 or high <= 1.01e-2 else middle


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)
