"""Text for a WordPiece model, written so that llama.cpp finds the token ids that the model was trained with.

The rules are those of Hugging Face tokenizers' BertNormalizer, BertPreTokenizer and WordPiece
(https://github.com/huggingface/tokenizers, ``normalizers/bert.rs``, ``pre_tokenizers/bert.rs``,
``models/wordpiece``): control characters go, white space and punctuation part words, each Chinese character
is a word, accents go by canonical decomposition (which makes jamo of Hangul), letters become small, and a word
of more than 100 characters is unknown. llama.cpp's tables of these lack Hangul, marks that stand alone and
the limit of 100; its white space has more control characters.

Characters that came after Unicode 8.0, which Hugging Face's tables end with, keep the class that Python's
tables give them: a word with such a mark or punctuation in it is unknown there and may be known here.
"""

from __future__ import annotations

import re
import unicodedata

# The special tokens are found in the text as it came, before it is normalised.
_SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST = 100  # characters
_LONG = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{_LONGEST + 1}}}")
_UNKNOWN = "\uffff"  # no character, so no vocabulary holds it; llama.cpp makes [UNK] of it, also in rerank's texts
_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPieceText:
    """``tokenizer`` is ``ModelInfo.tokenizer``; any but a WordPiece leaves every text as it is."""

    def __init__(self, tokenizer: str) -> None:
        kind, *kept = tokenizer.split("+")
        self._applies = kind == "bert"
        self._case, self._accents = "case" in kept, "accents" in kept
        self._table = _Table(case=self._case, accents=self._accents)

    def __call__(self, text: str) -> str:
        """The same object where llama.cpp reads the text rightly by itself, as it does most ASCII."""
        if not self._applies or (
            text.isascii() and not _CONTROL.search(text) and not (len(text) > _LONGEST and _LONG.search(text))
        ):
            return text
        parts = _SPECIAL.split(text)
        parts[::2] = (self._words(part) for part in parts[::2])
        return " ".join(parts)

    def _words(self, text: str) -> str:
        if not self._accents:
            text = unicodedata.normalize("NFD", text)
        words = text.translate(self._table).split()
        return " ".join(word if len(word) <= _LONGEST else _UNKNOWN for word in words)


class _Table(dict[int, str]):
    """What becomes of a character, for ``str.translate``; filled as characters are met."""

    def __init__(self, *, case: bool, accents: bool) -> None:
        super().__init__()
        self._case, self._accents = case, accents

    def __missing__(self, code: int) -> str:
        self[code] = becomes = self._becomes(chr(code))
        return becomes

    def _becomes(self, char: str) -> str:
        category = unicodedata.category(char)
        if char in "\t\n\r" or char.isspace() and category != "Cc":
            return " "
        if category in ("Cc", "Cf", "Co", "Cs") or char == "\ufffd":
            return ""
        if category == "Mn" and not self._accents:
            return ""
        small = char if self._case else char.lower()
        apart = category[0] == "P" or (char.isascii() and not char.isalnum())
        return f" {small} " if apart or any(a <= ord(char) <= z for a, z in _CHINESE) else small
