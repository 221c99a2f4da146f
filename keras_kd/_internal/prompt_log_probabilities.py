"""The log-probabilities of a prompt as a server of completions returns them, as arrays.

`logprobs` of an answer has `tokens`, those of the prompt, and `top_logprobs`, for each of them a dict from tokens to
the logarithms of their probabilities behind what precedes; of the first token, None. A token is its string, or, as vLLM
returns it where it is asked to, "token_id:7". The dict may have one entry more than were requested: the token itself.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PREFIX = "token_id:"


class Tokens:
    """What the tokens of an answer are called.

    Args:
        vocabulary: ids by strings; None for names as "token_id:7".
    """

    def __init__(self, vocabulary: Mapping[str, int] | None) -> None:
        self.vocabulary = vocabulary

    def id_of(self, name: Any) -> int | None:
        """Return the id of a token, or None of an unknown string.

        Raises:
            ValueError: a string, where ids were requested.
        """
        if self.vocabulary is not None:
            return self.vocabulary.get(name)
        digits = str(name).removeprefix(_PREFIX)
        if not (str(name).startswith(_PREFIX) and digits.isdecimal()):
            raise ValueError(
                f"Expected a server that returns tokens as {_PREFIX}7, which vLLM does on request. Received: {name!r}. "
                "For one that returns strings, give `vocabulary`, their ids."
            )
        return int(digits)

    def described(self, number: int) -> str:
        """Return an id as it is shown, with its string."""
        names = [name for name, each in (self.vocabulary or {}).items() if each == number]
        return f"{number} ({names[0]!r})" if names else str(number)


def read(choice: Mapping[str, Any], sent: Sequence[int], count: int, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return what is predicted behind each token but the last.

    The distribution of the token at a place is what the server has at that place; here it stands at the place before,
    where a model predicts it.

    Args:
        choice: of the answer.
        sent: token ids of the prompt, at least two.
        count: how many classes to keep, the most probable ones.
        tokens: what the tokens of the answer are called.

    Returns:
        Ids, int32, and the logarithms of their probabilities, float64, (len(sent) - 1, count) each; -1 and -inf where
        a position has fewer, as of strings that are no token of the vocabulary.

    Raises:
        ValueError: no log-probabilities of the prompt, other tokens than were sent, or fewer classes than requested.
    """
    given = choice["logprobs"] or {}
    names, tops = given.get("tokens") or [], given.get("top_logprobs") or []
    if len(names) < len(sent) or len(tops) < len(sent) or any(not each for each in tops[1 : len(sent)]):
        raise ValueError(
            "Expected a server that returns log-probabilities of a prompt, as vLLM does for echo=true, max_tokens=0, "
            f"logprobs={count}. Received {len(names)} tokens and {sum(map(bool, tops))} places with log-probabilities, "
            f"for {len(sent)} tokens."
        )
    _check_tokens(names, sent, tokens)
    tops = tops[1 : len(sent)]
    _check_counts(list(map(len, tops)), count, tokens)
    ids, logarithms = np.full((len(tops), count), -1, "int32"), np.full((len(tops), count), -np.inf)
    for place, top in enumerate(tops):
        found = [(float(value), number) for name, value in top.items() if (number := tokens.id_of(name)) is not None]
        for rank, (value, number) in enumerate(heapq.nlargest(count, found)):
            ids[place, rank], logarithms[place, rank] = number, value
    return ids, logarithms


def _check_counts(found: list[int], count: int, tokens: Tokens) -> None:
    """Refuse fewer classes than were requested: at any place, and of strings, of which several may be one, at all."""
    named = min(found) if tokens.vocabulary is None else max(found)
    if named < count:
        raise ValueError(
            f"Expected the log-probabilities of {count} tokens at each place. The server returned {named}: lower "
            "`top_k` to that, or raise the limit of the server."
        )


def _check_tokens(names: Sequence[Any], sent: Sequence[int], tokens: Tokens) -> None:
    for place, (name, number) in enumerate(zip(names, sent, strict=False)):
        if tokens.id_of(name) != number:
            raise ValueError(
                f"Expected the server to return the tokens that it was sent. They differ first at place {place}: sent "
                f"{tokens.described(number)}, returned {name!r}. It has another tokenizer, or puts a token at the "
                "beginning: the student needs the tokens of the server."
            )
