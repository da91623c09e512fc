"""BERT folders become GGUF files that llama.cpp opens and that answer like the original."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mooring.errors import InvalidModelFile
from mooring.modelstore.convert.bert import convert_bert
from mooring.modelstore.formats import inspect, read_gguf
from mooring.types import Capability
from support.tiny_models import write_bert_folder
from support.worker import Worker, make_spec, start_worker

QUERY = "how many people live in berlin?"
DOCUMENTS = ["many people live in berlin.", "the cat eats food", "rain", "a dog, a cat", "sun in berlin 中文"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bert_folder(tmp_path / "bert")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def serve(folder: Path, capability: Capability, pooling: str) -> Iterator[Worker]:
    path = folder / "model.gguf"
    convert_bert(folder, path, dtype="f32")
    spec = make_spec(
        "llamacpp", path, capabilities=frozenset({capability}), pooling=pooling, context=128, slots=2
    )
    with start_worker(spec, folder / "log", architecture="bert", embedding_length=32) as worker:
        yield worker


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = write_bert_folder(tmp_path_factory.mktemp("convert") / "embedder")
    yield from serve(folder, Capability.EMBEDDING, "mean")


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = write_bert_folder(tmp_path_factory.mktemp("convert") / "ranker", ranks=True, segments=1)
    yield from serve(folder, Capability.RERANK, "rank")


def embed(worker: Worker, *texts: str) -> list[list[float]]:
    answer = worker.ask("embeddings", {"model": "tiny:latest", "input": list(texts)})
    return [item["embedding"] for item in answer["data"]]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_a_converted_folder_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    convert_bert(folder, tmp_path / "out.gguf")
    info = inspect(tmp_path / "out.gguf")
    assert info.architecture == "bert"
    assert info.pooling == "mean"
    assert info.capabilities == {Capability.EMBEDDING}
    assert (info.context_length, info.embedding_length, info.block_count) == (128, 32, 2)
    assert info.quantization == "F16"
    assert not info.causal


def test_the_same_folder_always_becomes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert_bert(folder, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_words_and_their_pieces_are_spelled_as_llama_cpp_wants_them(folder: Path, tmp_path: Path) -> None:
    convert_bert(folder, tmp_path / "out.gguf")
    metadata = read_gguf(tmp_path / "out.gguf").metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokens[:6] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁the"]
    assert "a" in tokens, "a continuation (##a) is bare"
    assert metadata["tokenizer.ggml.token_type"][:6] == [3, 3, 3, 3, 3, 1]
    assert metadata["tokenizer.ggml.bos_token_id"] == 2
    assert metadata["tokenizer.ggml.seperator_token_id"] == 3
    assert metadata["tokenizer.ggml.normalizer.lowercase"] is True


def test_a_cased_tokenizer_stays_cased(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    convert_bert(folder, tmp_path / "out.gguf")
    metadata = read_gguf(tmp_path / "out.gguf").metadata
    assert metadata["tokenizer.ggml.normalizer.lowercase"] is False
    assert metadata["tokenizer.ggml.normalizer.strip_accents"] is False


def test_marks_that_llama_cpp_would_strip_are_spelled_where_it_does_not(folder: Path, tmp_path: Path) -> None:
    vocab = (folder / "vocab.txt").read_text("utf-8").splitlines()
    vocab[-2:] = ["\u093f", "##\u093e"]  # spacing marks of Hindi
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    convert_bert(folder, tmp_path / "uncased.gguf")
    tokens = read_gguf(tmp_path / "uncased.gguf").metadata["tokenizer.ggml.tokens"]
    assert tokens[-2:] == ["▁\U0005093f", "\U0005093e"]
    assert inspect(tmp_path / "uncased.gguf").tokenizer == "bert+marks"
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    convert_bert(folder, tmp_path / "cased.gguf")
    assert read_gguf(tmp_path / "cased.gguf").metadata["tokenizer.ggml.tokens"][-2:] == ["▁\u093f", "\u093e"]
    assert inspect(tmp_path / "cased.gguf").tokenizer == "bert+case+accents"


def test_cls_pooling_of_the_original_is_kept(tmp_path: Path) -> None:
    convert_bert(write_bert_folder(tmp_path / "bert", pooling="cls"), tmp_path / "out.gguf")
    assert inspect(tmp_path / "out.gguf").pooling == "cls"


def test_bfloat16_weights_convert_to_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    weights = load_file(folder / "model.safetensors")
    rounded = {name: (array.view("<u4") >> 16 << 16).view("<f4") for name, array in weights.items()}
    save_file(rounded, folder / "model.safetensors")
    convert_bert(folder, tmp_path / "f32.gguf", dtype="f32")
    halves = {name: (array.view("<u4") >> 16).astype(np.uint16) for name, array in rounded.items()}
    (folder / "model.safetensors").write_bytes(save(halves).replace(b'"U16"', b'"BF16"'))
    _mend_header(folder / "model.safetensors")
    convert_bert(folder, tmp_path / "bf16.gguf", dtype="f32")
    assert (tmp_path / "f32.gguf").read_bytes() == (tmp_path / "bf16.gguf").read_bytes()


def _mend_header(path: Path) -> None:
    """The header's length after its text grew."""
    data = path.read_bytes()
    end = data.index(b"}}") + 2
    path.write_bytes((end - 8).to_bytes(8, "little") + data[8:end] + data[end:].lstrip(b" "))


def test_embeddings_tell_texts_apart_and_ignore_case_and_batching(embedder: Worker) -> None:
    cat, shouted, rain = embed(embedder, "the cat eats food", "The CAT eats food", "rain in berlin")
    assert cosine(cat, shouted) > 0.9999
    assert cosine(cat, rain) < 0.99
    assert cosine(cat, embed(embedder, "the cat eats food")[0]) > 0.9999


def test_embeddings_equal_the_original_models(embedder: Worker) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = embedder.spec.weights.parent
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    for text, got in zip([*DOCUMENTS, ""], embed(embedder, *DOCUMENTS, "").copy(), strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert cosine(got, wanted.tolist()) > 0.999, text


def test_a_cross_encoder_scores_like_the_original(cross_encoder: Worker) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = cross_encoder.spec.weights.parent
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    wanted = []
    for document in DOCUMENTS:
        encoded = tokenizer(QUERY, document, return_tensors="pt")
        encoded["token_type_ids"].zero_()  # the model has one segment
        with torch.no_grad():
            wanted.append(model(**encoded).logits.item())
    assert _scores(cross_encoder) == pytest.approx(wanted, abs=0.02)


def test_a_cross_encoder_ranks_without_the_original_at_hand(cross_encoder: Worker) -> None:
    scores = _scores(cross_encoder)
    assert len(set(scores)) == len(DOCUMENTS)


def _scores(worker: Worker) -> list[float]:
    with worker.call("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}) as answer:
        results = json.load(answer)["results"]
    return [item["relevance_score"] for item in sorted(results, key=lambda item: int(item["index"]))]


def test_a_cross_encoder_with_segments_is_refused_because_it_would_rank_wrongly(tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path / "bert", ranks=True, segments=2)
    with pytest.raises(InvalidModelFile, match=r"segment embeddings.*bge-reranker"):
        convert_bert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_classifier_is_not_taken_for_a_reranker(tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path / "bert", ranks=True, segments=1)
    edit(folder, id2label={"0": "NEGATIVE", "1": "POSITIVE"})
    with pytest.raises(InvalidModelFile, match="2 labels"):
        convert_bert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["RobertaModel"], "model_type": "roberta"}, "RobertaModel cannot be converted"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"hidden_size": None}, "does not give hidden_size"),
        ({"vocab_size": 10}, "more|mixes files"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(InvalidModelFile, match=says):
        convert_bert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_dense_layer_after_pooling_is_not_silently_dropped(folder: Path, tmp_path: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidModelFile, match="Dense layer"):
        convert_bert(folder, tmp_path / "out.gguf")


def test_a_tensor_without_a_place_is_not_silently_dropped(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.adapter.weight"] = weights["pooler.dense.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InvalidModelFile, match=r"adapter\.weight"):
        convert_bert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidModelFile, match=name):
        convert_bert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer_config.json", "modules.json"]
)
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x00broken")
    with pytest.raises(InvalidModelFile, match=name):
        convert_bert(folder, tmp_path / "out.gguf")
