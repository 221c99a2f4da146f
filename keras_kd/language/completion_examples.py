"""Token ids, labels and weights for causal language models: which tokens are learned.

A row of n + 1 tokens becomes n positions: x holds all but the last token, y the token that follows each, and the
weight is that of the token in y. Nothing shifts them again: both models are compared at the same positions. What
is padding is a mask, and never read off an id: 0 is a token of many vocabularies, and the padding of others is
their end token.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

#: x with "token_ids" and "padding_mask", y, sample_weight.
Examples = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

#: A text, or its token ids.
Text = str | Sequence[int]

#: Returns the token ids of each of several texts, as the tokenizers of KerasHub do.
Tokenizer = Callable[[list[str]], Any]


def completions(
    prompts: Sequence[Text] | None,
    answers: Sequence[Text],
    *,
    length: int,
    end: int | None,
    start: int | None = None,
    pad: int = 0,
    side: str = "right",
    truncate: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Examples:
    """Make examples of prompts and answers, of which the answers and their end are learned.

    Where both do not fit, a prompt is cut at its beginning, down to half of `length`; an answer that still does not
    fit is cut at its end, and has no end token then. Prompt and answer become tokens one by one: where a tokenizer
    joins a space with the word behind it, begin the answer with the space.

    Let the mean go over the tokens that are learned: compile with `keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight")`, which terms follow. Tasks of KerasHub take these examples
    once their `preprocessor` is None.

    Args:
        prompts: texts or token ids, not learned. None where the answers are whole texts.
        answers: texts or token ids, one for each prompt.
        length: positions of each example, at least 1.
        end: token that is learned after each answer; None where the answers bring their own.
        start: token that each row begins with, whatever is cut; None for none.
        pad: token that fills rows up, of any id that the models have.
        side: where rows are filled up, "right" or "left". Models whose positions are absolute learn on the right.
        truncate: whether to cut what does not fit; False: an error names what does not.
        tokenizer: returns the token ids of each text of a list, as `task.preprocessor.tokenizer`.

    Returns:
        x, a dict of "token_ids", (examples, length), int32, and "padding_mask", bool; y, the tokens that follow,
        (examples, length), int32; sample_weight, 1 where these are learned, (examples, length), float32.

    Raises:
        ValueError: another number of answers than of prompts; nothing to learn in an example; ids below 0; what does
            not fit with `truncate=False`; `length` or `side` out of range.
        TypeError: texts without a tokenizer.

    Warns:
        UserWarning: how many answers were cut.

    Example:
        >>> x, y, weights = completions([[5, 6, 7]], [[8, 9]], length=6, end=2)
        >>> np.concatenate([y, weights])
        [[6. 7. 8. 9. 2. 0.] [0. 0. 1. 1. 1. 0.]]
    """
    contexts = [[]] * len(answers) if prompts is None else prompts
    if len(contexts) != len(answers):
        raise ValueError(
            f"Expected an answer for each prompt. Received: {len(contexts)} prompts, {len(answers)} answers"
        )
    tokens = _tokens([*contexts, *answers], tokenizer)
    pairs = zip(tokens[: len(answers)], tokens[len(answers) :], strict=True)
    rows = [_Row(prompt, [False] * len(prompt), [*answer, *_one(end)]) for prompt, answer in pairs]
    return _examples(rows, length, start, pad, side, truncate)


def conversations(
    turns: Sequence[Sequence[Mapping[str, Text]]],
    *,
    template: Mapping[str, tuple[Text, Text]],
    length: int,
    start: int | None = None,
    pad: int = 0,
    side: str = "right",
    truncate: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Examples:
    """Make examples of conversations, of which the turns of the assistant are learned, each with what ends it.

    A conversation that does not fit is cut as in `completions`: its last turn of the assistant is the answer, and what
    comes before is the prompt. What comes after that turn is left out.

    Args:
        turns: of each conversation, as {"role": "user", "content": ...}, of texts or token ids.
        template: what the model writes around a turn of each role: (before, after), texts or token ids. Of
            "assistant", `after` is learned and `before` is not. A line break that is not to be learned belongs to the
            `before` of the turns that follow.
        length: see `completions`.
        start: see `completions`.
        pad: see `completions`.
        side: see `completions`.
        truncate: see `completions`.
        tokenizer: see `completions`.

    Returns:
        x, y and sample_weight, see `completions`.

    Raises:
        ValueError: a role that is not in the template; a conversation without a turn of the assistant; see
            `completions`.
        TypeError: texts without a tokenizer.

    Warns:
        UserWarning: how many answers were cut.

    Example:
        >>> template = {"user": ([1], [3]), "assistant": ([2], [3])}
        >>> turns = [{"role": "user", "content": [7]}, {"role": "assistant", "content": [8, 9]}]
        >>> x, y, weights = conversations([turns], template=template, length=6)
        >>> np.concatenate([y, weights])
        [[7. 3. 2. 8. 9. 3.] [0. 0. 0. 1. 1. 1.]]
    """
    _check_roles(turns, template)
    roles = list(template)
    around = _tokens([text for role in roles for text in template[role]], tokenizer)
    written = {role: (around[2 * place], around[2 * place + 1]) for place, role in enumerate(roles)}
    contents = iter(_tokens([turn["content"] for each in turns for turn in each], tokenizer))
    rows = [_row([(str(turn["role"]), next(contents)) for turn in each], written) for each in turns]
    return _examples(rows, length, start, pad, side, truncate)


def generated(
    token_ids: Any, prompt_lengths: int | Sequence[int], *, stop_ids: Sequence[int], padding_mask: Any = None
) -> Examples:
    """Make examples of what a model has generated, of which all after the prompt is learned, to the first stop id.

    The stop id counts, and nothing behind it does, whatever is there. A stop id in the prompt, as between turns, stops
    nothing.

    Args:
        token_ids: prompts with what was generated behind them, (examples, length + 1).
        prompt_lengths: how many tokens of each row are its prompt, (examples,), or one number for all; with the
            padding before it, where there is any.
        stop_ids: tokens that end an answer.
        padding_mask: True where there are tokens, (examples, length + 1), as `generate` returns it. None: everywhere to
            the stop id.

    Returns:
        x, y and sample_weight of `length` positions, see `completions`.

    Raises:
        ValueError: ids of another shape, or too few of them.

    Example:
        >>> x, y, weights = generated([[5, 6, 8, 2, 0, 2]], 2, stop_ids=[2, 3])
        >>> weights
        [[0. 1. 1. 0. 0.]]
    """
    ids = np.asarray(token_ids, "int32")
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise ValueError(f"Expected token ids of (examples, tokens), two or more each. Received the shape: {ids.shape}")
    places = np.arange(ids.shape[1])
    answered: np.ndarray = places >= np.broadcast_to(prompt_lengths, len(ids))[:, None]
    stops = np.isin(ids, stop_ids) & answered
    present: np.ndarray = np.cumsum(stops, axis=1) - stops == 0
    if padding_mask is not None:
        present &= np.asarray(padding_mask, bool)
    return _shifted(ids, present, answered & present)


class _Row(NamedTuple):
    """Tokens of an example.

    Attributes:
        context: what comes before the last answer.
        learned: whether it is learned, by token.
        answer: the last answer, with its end.
    """

    context: list[int]
    learned: list[bool]
    answer: list[int]


def _row(turns: list[tuple[str, list[int]]], written: Mapping[str, tuple[list[int], list[int]]]) -> _Row:
    """Return the tokens of a conversation to its last turn of the assistant."""
    last = max(place for place, (role, _) in enumerate(turns) if role == "assistant")
    context: list[int] = []
    learned: list[bool] = []
    for role, content in turns[:last]:
        before, after = written[role]
        context += [*before, *content, *after]
        learned += [False] * len(before) + [role == "assistant"] * len([*content, *after])
    before, after = written["assistant"]
    return _Row([*context, *before], [*learned, *[False] * len(before)], [*turns[last][1], *after])


def _check_roles(turns: Sequence[Sequence[Mapping[str, Text]]], template: Mapping[str, Any]) -> None:
    for number, each in enumerate(turns):
        roles = [str(turn["role"]) for turn in each]
        if "assistant" not in roles:
            raise ValueError(
                f"Expected a turn of the role 'assistant', which is learned, in each conversation. Received the roles "
                f"{roles} in conversation {number}. Leave it out."
            )
        unknown = sorted(set(roles) - set(template))
        if unknown:
            raise ValueError(
                f"Expected `template` to have each role of the conversations. Received: {sorted(template)}, and "
                f"{unknown} in conversation {number}. Add what is written around the turns of that role."
            )


def _examples(rows: list[_Row], length: int, start: int | None, pad: int, side: str, truncate: bool) -> Examples:
    """Return x, y and sample_weight of rows that are cut and filled up."""
    if length < 1 or side not in ("right", "left"):
        raise ValueError(
            f'Expected a `length` of at least 1, and a `side` of "right" or "left". Received: {length}, {side!r}'
        )
    begin, room = _one(start), length + 1 - len(_one(start))
    long = [number for number, row in enumerate(rows) if len(row.context) + len(row.answer) > room]
    if long and not truncate:
        longest = max(len(row.context) + len(row.answer) for row in rows) + len(begin) - 1
        raise ValueError(
            f"Expected examples of at most length={length} positions. Received {len(long)} longer ones, first number "
            f"{long[0]}, the longest of {longest}. Raise `length`, or cut them by `truncate=True`."
        )
    ids = np.full((len(rows), length + 1), pad, "int32")
    present, learned = (np.zeros(ids.shape, bool) for _ in range(2))
    cut = []
    for number, (context, counts, answer) in enumerate(rows):
        kept = min(len(context), max(room - len(answer), room // 2))
        first, stop = len(context) - kept, room - kept
        cut += [number] if len(answer) > stop else []
        tokens = [*begin, *context[first:], *answer[:stop]]
        place = slice(len(tokens)) if side == "right" else slice(length + 1 - len(tokens), None)
        ids[number, place], present[number, place] = tokens, True
        torn = min(first, kept, 1)  # a token without what stood before it: nothing to learn
        counts = [*[False] * torn, *counts[first + torn :]]
        learned[number, place] = [*[False] * len(begin), *counts, *[True] * len(answer[:stop])]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(rows)} answers do not fit into length={length} positions, first number {cut[0]}: they "
            "were cut at their end, and their end token is not learned.",
            stacklevel=3,
        )
    return _shifted(ids, present, learned)


def _shifted(ids: np.ndarray, present: np.ndarray, learned: np.ndarray) -> Examples:
    """Return what is read at each position, the tokens that follow, and whether these are learned."""
    if np.any(ids < 0):
        raise ValueError(
            f"Expected token ids of at least 0. Received: {ids.min()}. To leave out tokens, give no weight."
        )
    weights = (learned[:, 1:] & present[:, :-1]).astype("float32")
    empty = np.flatnonzero(~weights.any(axis=1))
    if len(empty):
        raise ValueError(
            f"Expected something to learn in each example: a token that is learned, behind another one. Received "
            f"{len(empty)} without, first number {empty[0]}. Leave them out, or give `end` or a longer `length`."
        )
    return {"token_ids": ids[:, :-1], "padding_mask": present[:, :-1]}, ids[:, 1:], weights


def _tokens(texts: list[Any], tokenizer: Tokenizer | None) -> list[list[int]]:
    """Return the token ids of texts, which may be ids already."""
    words = [text for text in texts if isinstance(text, str)]
    if words and tokenizer is None:
        raise TypeError(f"Expected token ids, or a `tokenizer` for texts. Received the text {words[0]!r} and none.")
    made = iter(tokenizer(words) if words and tokenizer is not None else [])
    return [[int(each) for each in (next(made) if isinstance(text, str) else text)] for text in texts]


def _one(token: int | None) -> list[int]:
    return [] if token is None else [token]
