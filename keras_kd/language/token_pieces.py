"""What the tokens of a vocabulary stand for, as bytes of text, however a tokenizer writes them down."""

import re
from typing import Any, NamedTuple

#: SentencePiece's names of single bytes.
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Pieces(NamedTuple):
    """The text of each token of a vocabulary.

    Attributes:
        texts: bytes by token id; None for a special token, which stands for no text.
        spaces: whether the tokens hold the spaces of a text: those of WordPiece do not.
    """

    texts: tuple[bytes | None, ...]
    spaces: bool = True


def pieces(tokenizer: Any) -> Pieces:
    """Return what each token of a tokenizer of KerasHub stands for.

    Byte pairs write each byte as a letter ("Ġ" is a space), SentencePiece writes a space as "▁", and WordPiece the rest
    of a word as "##rest".

    Args:
        tokenizer: of byte pairs, SentencePiece or WordPiece. For any other, make a `Pieces`.

    Returns:
        The bytes of each token.

    Raises:
        TypeError: a tokenizer of another kind.

    Example:
        >>> ours, theirs = (pieces(task.preprocessor.tokenizer) for task in (student, teacher))
    """
    # KerasHub need not be installed to read tokens: its tokenizers are known by what they are made of.
    if hasattr(tokenizer, "merges"):
        read, spaces = _from_byte_pairs, True
    elif hasattr(tokenizer, "suffix_indicator"):
        read, spaces = _from_word_pieces(tokenizer.suffix_indicator), False
    elif hasattr(tokenizer, "proto"):
        read, spaces = _from_sentence_pieces, True
    else:
        raise TypeError(
            "Expected a tokenizer of KerasHub of byte pairs, SentencePiece or WordPiece. Received: "
            f"{type(tokenizer).__name__}. Give what its tokens stand for: Pieces(texts=(b'...', ...))."
        )
    unknown = {getattr(tokenizer, name, None) for name in ("oov_token", "unk_token")}  # which not all kinds have
    special = {*tokenizer.special_tokens, *unknown}
    tokens = [tokenizer.id_to_token(number) for number in range(tokenizer.vocabulary_size())]
    return Pieces(tuple(None if token in special else read(token) for token in tokens), spaces)


def shared_tokens(student: Pieces, teacher: Pieces) -> tuple[list[int], list[int]]:
    """Return the ids, the student's and the teacher's, of tokens that stand for the same text in both vocabularies.

    Args:
        student: of the student's vocabulary.
        teacher: of the teacher's.

    Example:
        >>> shared_tokens(Pieces((None, b"a", b"b")), Pieces((b"b", None)))
        ([2], [0])
    """
    places = {text: number for number, text in reversed(list(enumerate(teacher.texts))) if text}
    found = {text: number for number, text in reversed(list(enumerate(student.texts))) if text in places}
    numbers = sorted(found.values())
    return numbers, [places[student.texts[number]] for number in numbers]  # type: ignore[index]  # None is in no places


def _letters() -> dict[str, int]:
    """Return the byte that each letter of byte pairs stands for: printable ones themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _letters()


def _from_byte_pairs(token: str) -> bytes | None:
    return bytes(_LETTERS[letter] for letter in token) if all(letter in _LETTERS for letter in token) else None


def _from_sentence_pieces(token: str) -> bytes | None:
    if re.fullmatch(r"<[^>]+>", token):
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else None
    return token.replace("▁", " ").encode()


def _from_word_pieces(suffix: str) -> Any:
    return lambda token: token.removeprefix(suffix).encode()
