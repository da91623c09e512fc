"""The rules of WordPiece, without weights; test_convert_weights.py holds the token ids against transformers'."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.engines.llamacpp.wordpiece import WordPiece

UNKNOWN = "\uffff"
UNCASED = WordPiece("bert+marks")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Crème BRÛLÉE e\u0301", "creme brulee e"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("है", "ह"),  # a vowel sign that does not take space goes as an accent does
        ("का a\u20dd", "क\U0005093e a\U000520dd"),
        ("我吃é。", "我 吃 e 。"),
        ("İI ẞ Σς Ǆ", "ii ß σς ǆ"),
        ("a\u200bé\u00ad\ue000\ufffd\x85b", "aeb"),
        ("a\u2028é\u3000b", "a e b"),
        ("a\x0bb\x7f", "ab"),
        ("[MASK] É[UNK] [mask]", "[MASK] e [UNK] [ mask ]"),
        ("é▁ \u0378 \U0005093e \uffff", f"e{UNKNOWN} {UNKNOWN} {UNKNOWN} {UNKNOWN}"),
        ("é\u0301" * 100, "e" * 100),
        ("é" * 101, UNKNOWN),
        ("a " + "x" * 101 + "-b", f"a {UNKNOWN} - b"),
    ],
)
def test_text_is_split_and_simplified_as_the_model_was_trained(text: str, words: str) -> None:
    assert UNCASED.text(text).split() == words.split()


def test_a_vocabulary_of_another_program_has_no_marks_of_ours() -> None:
    assert WordPiece("bert").text("का 1\u20e3") == f"का 1{UNKNOWN}"


def test_what_a_model_keeps_is_kept() -> None:
    assert WordPiece("bert+case+accents").text("É का" + " x" * 50) == "É का" + " x" * 50
    assert WordPiece("bert+accents").text("É") == "é"
    assert WordPiece("bert+case+marks").text("É") == "E"


@pytest.mark.parametrize("text", ["", "Plain (ASCII) text,\n\tas most is. " * 100, "x" * 100, "a-b/" * 100])
def test_plain_text_is_not_touched(text: str) -> None:
    assert UNCASED.text(text) is text
    assert UNCASED.input(text) is text


@given(st.text() | st.text("aé한\u093e\u0301[] ", max_size=300))
def test_normalised_text_has_only_what_llama_cpp_passes_on(text: str) -> None:
    normalised = UNCASED.text(text)
    if normalised is not text:
        assert unicodedata.is_normalized("NFD", normalised)
        assert not {"Mn", "Mc", "Me", "Cc", "Cf", "Co", "Cs"} & set(map(unicodedata.category, normalised))
        assert max(map(len, normalised.split()), default=0) <= 100
