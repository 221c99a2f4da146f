"""How many bytes of text the tokens stand for that a language model is measured on."""

from typing import Any

import numpy as np


def strings(texts: Any) -> list[str]:
    """Return texts of an array, a tensor or a list as strings."""
    return [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in np.ravel(texts)]


def of_tokens(tokenizer: Any, texts: Any, ids: Any, counted: Any) -> int:
    """Return the bytes, in UTF-8, of the text that is predicted token by token.

    Of a text that fits, these are all; of one that was cut, those of its tokens. What starts and ends a text has none.

    Args:
        tokenizer: of KerasHub.
        texts: strings, (batch,), or a dict of "prompts" and "responses", of which these are predicted.
        ids: what is predicted, (batch, positions).
        counted: which of these count: weights or a mask, (batch, positions).
    """
    special, total = set(getattr(tokenizer, "special_token_ids", ())), 0
    given = strings(texts["responses"] if isinstance(texts, dict) else texts)
    wholes = [len(each) for each in tokenizer(given)]
    for text, whole, row, weights in zip(given, wholes, np.asarray(ids), np.asarray(counted), strict=True):
        kept = [token for token in row[weights > 0].tolist() if token not in special]
        total += len((text if len(kept) == whole else tokenizer.detokenize(kept)).encode())
    return total
