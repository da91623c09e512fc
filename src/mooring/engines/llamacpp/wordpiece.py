"""Text for a WordPiece model, written so that llama.cpp finds the token ids that the model was trained with.

The rules are those of Hugging Face tokenizers' BertNormalizer, BertPreTokenizer and WordPiece
(https://github.com/huggingface/tokenizers: normalizers/bert.rs, pre_tokenizers/bert.rs, models/wordpiece):
control characters go, white space and punctuation part words, each Chinese character is a word, canonical
decomposition takes accents off and makes jamo of Hangul, letters become small, and a word of more than 100
characters is unknown. llama.cpp decomposes no Hangul, drops the wrong marks, takes some control characters for
spaces and knows no longest word.

Two things stay unequal. Marks, punctuation and format characters that came after Unicode 8.0, where Hugging Face's
tables end, make a word unknown there and are here what Python's tables say; likewise U+166D, U+1734 and U+111C9,
whose category has changed. And in a GGUF that another program converted, llama.cpp drops spacing marks (Mc: vowels of
Hindi and its neighbours); modelstore/convert/wordpiece.py says how ours keep them.
"""

from __future__ import annotations

import re
import unicodedata
from operator import is_
from typing import Any

from mooring.modelstore.convert.wordpiece import MARK_OFFSET, spell_mark

_SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")  # found in the text as it came
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST = 100  # characters
_LONG = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{_LONGEST + 1}}}")
_MARK = re.compile(f"[{chr(MARK_OFFSET)}-{chr(MARK_OFFSET + 0x1FFFF)}]")
_WORD_START = "\u2581"  # how llama.cpp spells the start of a word in the vocabulary
_UNKNOWN = "\uffff"  # no character, so its word is [UNK]; unlike that token's name, in every kind of text
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


class WordPiece:
    """The texts of one request. ``tokenizer`` is ``ModelInfo.tokenizer``; all but WordPiece leave them alone."""

    def __init__(self, tokenizer: str) -> None:
        kind, *special = tokenizer.split("+")
        self._applies = kind == "bert"
        self._accents, self._marks = "accents" in special, "marks" in special
        self._table = _Table(case="case" in special, accents=self._accents, marks=self._marks)

    def input(self, value: Any) -> Any:
        """A text, or a list of texts; token ids and whatever llama.cpp reads rightly come back as they are."""
        if isinstance(value, str):
            return self.text(value)
        if not self._applies or not isinstance(value, list):
            return value
        texts = [self.text(item) if isinstance(item, str) else item for item in value]
        return value if all(map(is_, texts, value)) else texts

    def text(self, text: str) -> str:
        """The same object if llama.cpp reads it rightly, as it does most ASCII."""
        if not self._applies or (
            text.isascii() and not _CONTROL.search(text) and not (len(text) > _LONGEST and _LONG.search(text))
        ):
            return text
        parts = _SPECIAL.split(text)
        parts[::2] = map(self._words, parts[::2])
        return " ".join(parts)

    def shown(self, text: str) -> str:
        """A text of the vocabulary's, as a reader knows it."""
        return _MARK.sub(lambda mark: chr(ord(mark[0]) - MARK_OFFSET), text) if self._marks else text

    def _words(self, text: str) -> str:
        decomposed = text if self._accents else unicodedata.normalize("NFD", text)
        words = decomposed.translate(self._table).split()
        return " ".join(word if len(word) <= _LONGEST else _UNKNOWN for word in words)


class _Table(dict[int, str]):
    """What becomes of a character, for ``str.translate``; filled as characters are met."""

    def __init__(self, *, case: bool, accents: bool, marks: bool) -> None:
        super().__init__()
        self._case, self._accents, self._marks = case, accents, marks

    def __missing__(self, code: int) -> str:
        self[code] = becomes = self._becomes(chr(code))
        return becomes

    def _becomes(self, char: str) -> str:
        category = unicodedata.category(char)
        if char in "\t\n\r" or (char.isspace() and category != "Cc"):
            return " "
        if (
            category in ("Cc", "Cf", "Co", "Cs")
            or char == "\ufffd"
            or (category == "Mn" and not self._accents)
        ):
            return ""
        if any(first <= ord(char) <= last for first, last in _CHINESE):
            return f" {char} "
        lost = category == "Me" and not (self._marks or self._accents)
        if category == "Cn" or char == _WORD_START or lost:
            return _UNKNOWN
        small = char if self._case else char.lower()
        if category[0] == "P" or (char.isascii() and not char.isalnum()):
            return f" {small} "
        return spell_mark(small) if self._marks else small
