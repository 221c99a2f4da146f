"""Losses of whole sequences in an objective that is computed some rows at a time.

What a token leads to is known after all rows behind it: the rewards of all are computed first, without a gradient.
"""

from typing import Any

import tensorflow as tf
from keras import ops

from keras_kd import schedules
from keras_kd._internal import sparse_targets
from keras_kd._internal.loss_functions import Tokens
from keras_kd._types import Tensor
from keras_kd.language.fused import by_blocks
from keras_kd.language.fused_parts import Part
from keras_kd.language.teacher_rows import TeacherRows, as_rows
from keras_kd.language.vocabulary_heads import Product
from keras_kd.losses._sequences import future, sequence_reverse_kl, token_rewards
from keras_kd.term import Term


def are_taken(term: Term) -> bool:
    """Return whether a term on whole sequences compares what the models output as it is."""
    if term.loss is not sequence_reverse_kl or term.transform is not None or term.temperature is None:
        return False
    return schedules.plain(term.temperature) == 1.0


def with_advantages(
    part: Part, term: Term, hidden: Tensor, product: Product, theirs: TeacherRows, counted: Tensor | None
) -> Part:
    """Return a part with the advantages of its rows.

    Args:
        part: of a term with labels.
        term: on whole sequences.
        hidden: of the student, (batch, tokens, width).
        product: turns these into logits.
        theirs: rows of the teacher.
        counted: False for the tokens that are left out, (batch, tokens), or None.
    """

    def rewards(logits: Tensor, ids: Tensor, *rows: Tensor) -> Tensor:
        return token_rewards(logits, sparse_targets.expanded(theirs.targets(*rows)), ids)

    def prepare(ids: Tensor, *rows: Tensor) -> list[Tensor]:
        return [ids, *theirs.prepared(*rows)]

    def values(logits: Tensor, targets: Tensor, ids: Tensor, advantages: Tensor) -> Tensor:
        return term.row_values(logits, targets, Tokens(ids, advantages=advantages))

    ids: Any = part.inside()
    of_rows = by_blocks(as_rows(hidden), product, rewards, [ids, *theirs.tensors], prepare)
    found = future(ops.reshape(of_rows, ops.shape(hidden)[:-1]), counted, **term.loss_arguments)
    return part._replace(advantages=tf.reshape(found, (-1,)), values=values)
