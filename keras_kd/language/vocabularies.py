"""Which tokens two language models share: their vocabularies are padded, each to a size of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd._internal import raw_views


def shared_vocabulary(student: Any, teacher: Any) -> int:
    """Return how many token ids two language models share, once their tokenizers were shown to agree on all of them.

    A vocabulary of 151,665 tokens may have 151,936 logits in one model, and 152,064 in another one. What is behind the
    tokens means nothing, and is left out of the softmax of both by `Term(..., transform=transforms.FirstClasses(
    shared_vocabulary(student, teacher)))`.

    Args:
        student: its tokenizer, or a task of KerasHub that has one; or its tokens, in the order of their ids, or as a
            dict from tokens to ids.
        teacher: the same of the teacher.

    Returns:
        The number of tokens of the smaller vocabulary.

    Raises:
        ValueError: an id is another token for the other one.

    Example:
        >>> shared_vocabulary(["the", "film", "<pad>"], {"film": 1, "the": 0})
        2
    """
    ours, theirs = _tokens(student), _tokens(teacher)
    count = min(max(ours), max(theirs)) + 1
    others = [number for number in range(count) if ours.get(number) != theirs.get(number)]
    if others:
        first = others[0]
        raise ValueError(
            f"Expected a teacher whose tokenizer agrees with the student's, as the two are compared token by token. Of "
            f"{count:,} ids, {len(others):,} are other tokens, first {first}: {ours.get(first)!r} for the student, "
            f"{theirs.get(first)!r} for the teacher. Take a teacher with the student's tokenizer."
        )
    return count


def _tokens(owner: Any) -> dict[int, str]:
    """Return tokens by their ids."""
    if isinstance(owner, Mapping):
        return {int(number): token for token, number in owner.items()}
    if isinstance(owner, Sequence):
        return dict(enumerate(owner))
    tokenizer = raw_views.tokenizer(owner) or owner
    return {number: tokenizer.id_to_token(number) for number in range(tokenizer.vocabulary_size())}
