"""A WordPiece vocabulary, from the files of a Hugging Face folder to GGUF metadata.

llama.cpp's "bert" tokenizer (WPM) wants a word's first piece marked with ``▁`` and continuations bare, where
WordPiece leaves the first piece bare and marks continuations with ``##``. Keys and token types are those of
the GGUF specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

With the accents llama.cpp strips every mark, but WordPiece keeps spacing and enclosing ones (categories Mc and Me:
vowels of Hindi, Tamil and their neighbours). So that these reach the vocabulary all the same, it spells them as the
code points ``MARK_OFFSET`` above, in planes that Unicode leaves empty, and the engine's dialect spells texts so.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring.errors import InvalidModelFile
from mooring.modelstore.convert.folder import read_object

MARK_OFFSET = 0x50000
MARK_OFFSET_KEY = "mooring.tokenizer.mark_offset"
_WORD_START = "\u2581"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WordPiece:
    """``tokens[i]`` is token ``i`` as WordPiece spells it; ``special`` maps cls, sep, unk, pad, mask to ids."""

    tokens: tuple[str, ...]
    control: frozenset[int]
    special: dict[str, int]
    lowercase: bool
    strip_accents: bool

    def write(self, writer: Any, vocab_size: int) -> None:
        """Adds the vocabulary to a ``gguf.GGUFWriter``, filled up to ``vocab_size`` (the embedding's rows)."""
        if len(self.tokens) > vocab_size:
            raise InvalidModelFile(
                f"The tokenizer has {len(self.tokens)} tokens but the model only {vocab_size} embeddings. "
                f"The folder mixes files of two models: download it again."
            )
        filler = range(len(self.tokens), vocab_size)
        types = [_CONTROL if i in self.control else _NORMAL for i in range(len(self.tokens))]
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(
            [self._spell(i) for i in range(len(self.tokens))] + [f"[PAD{i}]" for i in filler]
        )
        writer.add_token_types(types + [_UNUSED for _ in filler])
        # llama.cpp has no [CLS] of its own: the beginning-of-sequence token is it, and [SEP] ends a sequence.
        writer.add_bos_token_id(self.special["cls"])
        writer.add_eos_token_id(self.special["sep"])
        writer.add_sep_token_id(self.special["sep"])
        writer.add_unk_token_id(self.special["unk"])
        writer.add_pad_token_id(self.special["pad"])
        if "mask" in self.special:
            writer.add_mask_token_id(self.special["mask"])
        writer.add_uint32("tokenizer.ggml.cls_token_id", self.special["cls"])
        writer.add_bool("tokenizer.ggml.normalizer.lowercase", self.lowercase)
        writer.add_bool("tokenizer.ggml.normalizer.strip_accents", self.strip_accents)
        if self.strip_accents:
            writer.add_uint32(MARK_OFFSET_KEY, MARK_OFFSET)

    def _spell(self, index: int) -> str:
        token = self.tokens[index]
        if index in self.control:
            return token
        if self.strip_accents:
            token = "".join(map(spell_mark, token))
        return token[2:] if token.startswith("##") else _WORD_START + token


def spell_mark(char: str) -> str:
    return chr(ord(char) + MARK_OFFSET) if unicodedata.category(char) in ("Mc", "Me") else char


def read_wordpiece(folder: Path) -> WordPiece:
    """Reads ``tokenizer.json``, or else ``vocab.txt`` with ``tokenizer_config.json``.

    Raises InvalidModelFile when there is neither, or when the tokenizer is not plain BERT WordPiece.
    """
    config = read_object(folder / "tokenizer_config.json") or {}
    fast = read_object(folder / "tokenizer.json")
    ids = _fast_vocabulary(fast) if fast else _plain_vocabulary(folder / "vocab.txt")
    tokens = _in_order(ids)
    special = _special_ids(ids, {**(read_object(folder / "special_tokens_map.json") or {}), **config})
    control = frozenset(special.values())
    if fast:
        control |= {item["id"] for item in fast.get("added_tokens", ()) if item.get("special")}
    lowercase, strip_accents = _normalisation((fast or {}).get("normalizer"), config)
    return WordPiece(
        tokens=tokens, control=control, special=special, lowercase=lowercase, strip_accents=strip_accents
    )


def _fast_vocabulary(fast: dict[str, Any]) -> dict[str, int]:
    model = fast.get("model", {})
    kind = model.get("type", "WordPiece" if "continuing_subword_prefix" in model else "unknown")
    if kind != "WordPiece" or model.get("continuing_subword_prefix", "##") != "##":
        raise InvalidModelFile(
            f"The tokenizer is {kind}, and only BERT's WordPiece can be converted. "
            f"Pull a GGUF of this model instead."
        )
    added = {item["content"]: item["id"] for item in fast.get("added_tokens", ())}
    return {**model["vocab"], **added}


def _plain_vocabulary(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise InvalidModelFile(
            f"{path.parent} has neither tokenizer.json nor vocab.txt. Download the whole folder of the model."
        )
    lines = path.read_text("utf-8").splitlines()
    return {line: index for index, line in enumerate(lines)}


def _in_order(ids: dict[str, int]) -> tuple[str, ...]:
    by_id = {index: token for token, index in ids.items()}
    return tuple(by_id.get(index, f"[PAD{index}]") for index in range(max(by_id, default=-1) + 1))


def _special_ids(ids: dict[str, int], config: dict[str, Any]) -> dict[str, int]:
    found = {}
    for word, default in _SPECIAL.items():
        token = config.get(f"{word}_token") or default
        content = token["content"] if isinstance(token, dict) else token
        if content in ids:
            found[word] = ids[content]
        elif word != "mask":
            raise InvalidModelFile(
                f"The tokenizer lacks its {word} token {content!r}. Download the whole folder of the model."
            )
    return found


def _normalisation(normalizer: dict[str, Any] | None, config: dict[str, Any]) -> tuple[bool, bool]:
    """(lower-case, strip accents). Accents follow the case unless said, as BertNormalizer has it."""
    rules = normalizer or {
        "type": "BertNormalizer",
        "lowercase": config.get("do_lower_case", True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    fixed = rules.get("clean_text", True) and rules.get("handle_chinese_chars", True)
    if rules.get("type") != "BertNormalizer" or not fixed:
        raise InvalidModelFile(
            "The tokenizer normalises text in a way that llama.cpp does not know. Pull a GGUF of this model instead."
        )
    lowercase = bool(rules.get("lowercase", True))
    accents = rules.get("strip_accents")
    return lowercase, lowercase if accents is None else bool(accents)
