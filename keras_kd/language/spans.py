"""Where two tokenizations of one text meet: the smallest spans that end with a token on both sides."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd.language.token_pieces import Pieces

#: x with "token_ids" and "padding_mask", y, sample_weight.
Examples = tuple[Any, Any, Any]


def align(
    student: Examples, teacher: Examples, student_pieces: Pieces, teacher_pieces: Pieces
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Align the same texts under two tokenizers, for `AlignedTeacher` and `span_terms`.

    A span begins and ends where both tokenizations have a boundary, and none in it. Special tokens belong to none, nor
    does what only one side has: text that was cut, or that the other tokenizer has no token for, with what follows.
    Where one of the tokenizers drops spaces, as WordPiece does, spaces and upper case do not count.

    Args:
        student: x, y and sample_weight of the student's tokens, as its preprocessor returns them: y is the token that
            follows each one in x["token_ids"], and x["padding_mask"] marks what is no padding.
        teacher: the same texts for the teacher, in the same order.
        student_pieces: what the student's tokens stand for, see `pieces`.
        teacher_pieces: what the teacher's tokens stand for.

    Returns:
        x, a dict of "token_ids" and "padding_mask" for the student, "teacher_token_ids" and "teacher_padding_mask" for
        the teacher, and of int32: "targets" and "teacher_targets", the tokens that follow; "spans" and "teacher_spans",
        the number of the span of each of these from 0 in each row, -1 for none; "teacher_places", where the teacher
        predicts the first token of the span that begins at a student's position, -1 where none does. Then the student's
        y and sample_weight.

    Raises:
        ValueError: other numbers of texts; token ids that a vocabulary does not have.

    Example:
        >>> x, y, weights = align(student.preprocessor(texts), teacher.preprocessor(texts), ours, theirs)
    """
    ours, theirs = _Tokens(student, student_pieces), _Tokens(teacher, teacher_pieces)
    if len(ours.ids) != len(theirs.ids):
        raise ValueError(f"Expected the same texts on both sides. Received: {len(ours.ids)} and {len(theirs.ids)}")
    keep_spaces = student_pieces.spaces and teacher_pieces.spaces
    rows = [spans(*each) for each in zip(ours.texts(keep_spaces), theirs.texts(keep_spaces), strict=True)]
    student_spans, teacher_spans = (np.stack(side)[:, 1:] for side in zip(*rows, strict=True))
    x = {
        "token_ids": ours.ids[:, :-1],
        "padding_mask": ours.present[:, :-1],
        "teacher_token_ids": theirs.ids[:, :-1],
        "teacher_padding_mask": theirs.present[:, :-1],
        "targets": ours.ids[:, 1:],
        "teacher_targets": theirs.ids[:, 1:],
        "spans": student_spans,
        "teacher_spans": teacher_spans,
        "teacher_places": _places(student_spans, teacher_spans),
    }
    return x, ours.ids[:, 1:], ours.weights


def spans(student: Sequence[bytes | None], teacher: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the span of each token on both sides, from 0, and -1 for tokens in none.

    The first token of a row is read and not predicted: a span that holds one is left out.

    Args:
        student: the text of each token, None for special tokens and padding.
        teacher: the same for the teacher.
    """
    sides = [[piece or b"" for piece in side] for side in (student, teacher)]
    texts = [b"".join(side) for side in sides]
    leading = [len(text) - len(text.lstrip()) for text in texts]
    if texts[0][: leading[0]] != texts[1][: leading[1]]:  # SentencePiece begins with a space of its own
        texts = [text.lstrip() for text in texts]
    else:
        leading = [0, 0]
    known = _common(*texts)
    ends = [
        np.maximum(np.cumsum([len(piece) for piece in side]) - cut, 0) for side, cut in zip(sides, leading, strict=True)
    ]
    starts = [np.concatenate([[0], each[:-1]]) for each in ends]
    is_text = [np.array([piece is not None for piece in side], bool) for side in (student, teacher)]
    ours, theirs = (np.append(each[text], 0) for each, text in zip(ends, is_text, strict=True))
    bounds = np.intersect1d(ours, theirs)
    bounds = bounds[bounds <= known]
    found = []
    for begin, text in zip(starts, is_text, strict=True):
        number = np.searchsorted(bounds, begin, side="right") - 1
        found.append(np.where(text & (begin < bounds[-1]), number, -1))
    return _whole(*found)


def _common(first: bytes, second: bytes) -> int:
    """Return how many bytes two texts begin with in common."""
    shorter = min(len(first), len(second))
    differ = np.flatnonzero(np.frombuffer(first[:shorter], "uint8") != np.frombuffer(second[:shorter], "uint8"))
    return int(differ[0]) if len(differ) else shorter


def _whole(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out spans that hold the first token of a row, or a special one among their tokens; number the others."""
    sound = []
    for side in (student, teacher):
        kept = np.flatnonzero((side >= 0) & (np.arange(len(side)) > 0))
        number, first, count = np.unique(side[kept], return_index=True, return_counts=True)
        last = kept[first + count - 1] if len(kept) else kept
        together = last - kept[first] + 1 == count if len(kept) else np.zeros(0, bool)
        sound.append(set(number[together]) - set(side[:1]))
    numbers = {old: new for new, old in enumerate(sorted(sound[0] & sound[1]))}
    ours, theirs = (np.array([numbers.get(each, -1) for each in side], "int32") for side in (student, teacher))
    return ours, theirs


def _places(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return where the span that begins at each student's position begins for the teacher, -1 where none begins."""
    places = np.full(student.shape, -1, "int32")
    for row, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        numbers, first = np.unique(ours, return_index=True)
        known, there = np.unique(theirs, return_index=True)
        kept = numbers >= 0
        places[row, first[kept]] = there[np.searchsorted(known, numbers[kept])]
    return places


class _Tokens:
    """One side of the examples: whole rows of tokens, of which x has all but the last and y all but the first."""

    def __init__(self, examples: Examples, pieces: Pieces) -> None:
        x, y, weights = examples
        ids, mask = (np.asarray(x[name]) for name in ("token_ids", "padding_mask"))
        self.ids = np.concatenate([ids, np.asarray(y)[:, -1:]], axis=1).astype("int32")
        self.weights = np.asarray(weights).astype("float32")
        self.present = np.concatenate([mask.astype(bool), self.weights[:, -1:] > 0], axis=1)
        self._pieces = pieces
        if np.any(self.ids >= len(pieces.texts)) or np.any(self.ids < 0):
            raise ValueError(
                f"Expected token ids below {len(pieces.texts)}, the size of the vocabulary. Received: {self.ids.max()}."
            )

    def texts(self, keep_spaces: bool) -> list[list[bytes | None]]:
        """Return the text of each token of each row, None for special tokens and padding."""
        known: Any = self._pieces.texts
        if not keep_spaces:
            known = [text if text is None else b"".join(text.split()).lower() for text in known]
        rows = [zip(*pair, strict=True) for pair in zip(self.ids, self.present, strict=True)]
        return [[known[each] if there else None for each, there in row] for row in rows]
