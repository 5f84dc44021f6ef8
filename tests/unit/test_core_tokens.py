"""Tokens: words and signs, or what a tokenizer's file says."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput
from recipe_core.tokens import TokenizerFile, Words, open_tokenizer, words

TEXT = ["sort the rows of data.csv by the second column", "and print the sum of the first ten rows"] * 4


def byte_level(path):
    """Train a small tokenizer of the kind that Qwen2 has."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|im_end|>"], show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    made.save(str(path))
    return path


def word_pieces(path):
    """Train a small tokenizer of the kind that bert-base-uncased has, with a limit of four tokens and padding."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]"]
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    )
    made.enable_truncation(4)
    made.enable_padding(length=50)
    made.save(str(path))
    return path


@pytest.fixture(scope="module", params=[byte_level, word_pieces])
def made(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizers") / "tokenizer.json")


def test_words_are_words_and_runs_of_one_sign():
    assert words("a ==== b--c- Größe") == ["a", "====", "b", "--", "c", "-", "grösse"]
    tokenizer = open_tokenizer("words")
    assert isinstance(tokenizer, Words)
    assert tokenizer.name == "words"
    assert tokenizer.surface("Sort THE file", tokenizer("Sort THE file")) == "sort the file"


def test_a_file_gives_ids_and_is_named_by_its_digest(made):
    tokenizer = open_tokenizer(str(made))
    assert tokenizer.name == f"sha256:{file_digest(made)}"
    ids = tokenizer(TEXT[0])
    assert all(isinstance(token, int) for token in ids)
    assert tokenizer("") == []


def test_a_limit_of_length_and_padding_in_the_file_are_not_applied(tmp_path):
    tokenizer = TokenizerFile(word_pieces(tmp_path / "tokenizer.json"))
    assert len(tokenizer(TEXT[0])) > 4
    assert len(tokenizer(TEXT[0] * 20)) > 50
    assert tokenizer("Sort The ROWS") == tokenizer("sort the rows")


@given(st.data())
def test_a_run_of_ids_is_shown_as_the_text_it_stands_for(made, data):
    tokenizer = TokenizerFile(made)
    text = " ".join(
        data.draw(st.lists(st.sampled_from(["Sort", "rows", "data.csv", "文件", "groß", "\n"]), min_size=1))
    )
    ids = tokenizer(text)
    first = data.draw(st.integers(0, len(ids)))
    run = ids[first : first + data.draw(st.integers(0, 6))]
    shown = tokenizer.surface(text, run)
    assert shown in " ".join(text.split())
    assert tokenizer.surface(text, [*run, -1]) == ""
    assert tokenizer.surface(text, ids) == " ".join(text.split())


def test_it_can_be_sent_to_another_process(made):
    tokenizer = TokenizerFile(made)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again(TEXT[0]) == tokenizer(TEXT[0])
    assert again.name == tokenizer.name


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"nonsense", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_one_line(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"not a Hugging Face tokenizer\.json") as raised:
        open_tokenizer(str(path))
    assert str(path) in str(raised.value)


def test_a_truncated_tokenizer_a_folder_and_nothing_are_one_line(made, tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_bytes(made.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"not a Hugging Face tokenizer\.json"):
        open_tokenizer(str(cut))
    with pytest.raises(BadInput, match=r"a folder; give the tokenizer\.json in it"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(BadInput, match="no such tokenizer; give 'words' or the path"):
        open_tokenizer("qwen")
