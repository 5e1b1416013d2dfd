"""The vocabulary of a GGUF file becomes the tokenizer that the model was trained with."""

import json
import pathlib

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from arch.data import gguf_vocabulary

GOLDEN = json.loads((pathlib.Path(__file__).parent / "goldens" / "sentencepiece.json").read_text())
MERGES = ["\u0120 1", "1 2", "12 3", "\u0120 \u0120"]  # U+0120 is how the byte alphabet spells a space


def read(**changes):
    """The tokenizer of a file with this metadata."""
    metadata = {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items() if value is not None}
    return gguf_vocabulary.read(metadata, "some.gguf")


def byte_level(**changes):
    """A tiny vocabulary of bytes, four merges and a special token."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged, "<tool>"]
    given = dict(
        ggml__model="gpt2", ggml__tokens=tokens, ggml__merges=MERGES, ggml__eos_token_id=0,
        ggml__token_type=np.array([3, *[1] * (len(tokens) - 2), 4]),
    )  # fmt: skip
    return read(**(given | changes))


def sentencepiece(**changes):
    given = dict(
        ggml__model="llama", ggml__tokens=GOLDEN["tokens"], ggml__scores=np.float32(GOLDEN["scores"]),
        ggml__token_type=np.array(GOLDEN["token_type"]), ggml__unknown_token_id=0, ggml__bos_token_id=1,
        ggml__eos_token_id=2,
    )  # fmt: skip
    return read(**(given | changes))


def pieces(made, text):
    return [made._tokenizer.id_to_token(i).replace("\u0120", " ") for i in made.encode(text)]


@pytest.mark.parametrize("row", range(len(GOLDEN["texts"])))
def test_sentencepiece_is_as_its_library_has_it(row):
    made = sentencepiece()
    assert made.encode(GOLDEN["texts"][row]) == GOLDEN["ids"][row]
    assert made.decode(GOLDEN["ids"][row]) == GOLDEN["decoded"][row]


def test_sentencepiece_begins_with_bos_unless_the_file_says_no():
    the = sentencepiece().encode("the")
    assert sentencepiece().prompt("the") == [1, *the]
    assert sentencepiece(ggml__add_bos_token=False, ggml__add_eos_token=True).prompt("the") == [*the, 2]


def test_byte_level_begins_with_bos_only_if_the_file_says_so():
    assert byte_level().prompt("x") == byte_level().encode("x")
    assert byte_level(ggml__add_bos_token=True, ggml__bos_token_id=0).prompt("x") == [0, *byte_level().encode("x")]


# By the name of the cut: what becomes of a text with the merges above.
CUTS = {
    "gpt-2": ["x", " ", " 1", "2", "3", "1"],
    "smollm": ["x", "  ", "1", "2", "3", "1"],
    "llama-bpe": ["x", " ", " ", "123", "1"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_text_is_cut_before_it_is_merged_as_the_name_says(pre):
    assert pieces(byte_level(ggml__pre=pre), "x  1231") == CUTS[pre]


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EXPRESSIONS = {"mpt": GPT2, "olmo": GPT2, "bloom": r" ?[^(\s|.,!?…。，、।۔،)]+"}
"""As they were published."""


@pytest.mark.parametrize("pre", EXPRESSIONS)
def test_text_has_the_ids_of_the_published_expression(pre):
    tokens = byte_level()._tokenizer.get_vocab(with_added_tokens=False)
    merges = [*MERGES, "a 1", "! !", "1 !"]
    tokens |= {merge.replace(" ", ""): len(tokens) + i for i, merge in enumerate(merges[len(MERGES) :])}
    theirs = Tokenizer(models.BPE(tokens, [tuple(merge.split(" ")) for merge in merges]))
    split = pre_tokenizers.Split(Regex(EXPRESSIONS[pre]), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    made = byte_level(
        ggml__pre=pre, ggml__tokens=sorted(tokens, key=tokens.get), ggml__merges=merges, ggml__token_type=None
    )
    text = "a1231!! it's  123,1!\n\n a1 (12|12)"
    assert made.encode(text) == theirs.encode(text).ids
    assert ("a1" in pieces(made, text)) == (pre == "bloom")  # only GPT-2's cuts between letter and digit


@pytest.mark.parametrize(("pre", "ids"), [("llama-bpe", [3]), ("gpt-2", [0, 1, 2])])
def test_llama3_takes_a_whole_token_that_no_merges_reach(pre, ids):
    tokens = ["a", "b", "c", "abc", "<s>"]
    made = byte_level(ggml__pre=pre, ggml__tokens=tokens, ggml__merges=[], ggml__eos_token_id=4, ggml__token_type=None)
    assert made.encode("abc") == ids


def test_a_generated_text_ends_with_the_text_or_the_answer():
    assert byte_level().stop == (0,)
    assert byte_level(ggml__eot_token_id=5).stop == (0, 5)


def test_special_tokens_are_text_and_tools_are_not():
    made = byte_level()
    assert 0 not in made.encode("<end>") and made.encode("<tool>") == [made.size - 1]
    assert made.decode([0, *made.encode("a<tool>")]) == "a<tool>"


REFUSED = {
    "another kind": (dict(ggml__model="rwkv"), "tokenizer.ggml.model='rwkv' must be one of gpt2, llama"),
    "another cut": (dict(ggml__pre="qwen9"), "tokenizer.ggml.pre='qwen9' must be one of gpt-2"),
    "no tokens": (dict(ggml__tokens=None), "tokenizer.ggml.tokens is missing"),
    "no merges": (dict(ggml__merges=None), "tokenizer.ggml.merges is missing"),
    "a token twice": (dict(ggml__tokens=["a", "a"]), "tokenizer.ggml.tokens must differ"),
    "a long token": (dict(ggml__tokens=["a" * 2000]), "one of 2000 characters"),
    "a merge of unknown tokens": (dict(ggml__merges=["q zz"]), "some.gguf: "),
    "a merge of three": (dict(ggml__merges=["1 2 3"]), "some.gguf: "),
    "too few types": (dict(ggml__token_type=np.array([3])), "tokenizer.ggml.token_type has 1 entries"),
    "an answer's end past the end": (dict(ggml__eot_token_id=9999), "tokenizer.ggml.eot_token_id=9999 must be below"),
    "an id past the end": (dict(ggml__eos_token_id=9999), "tokenizer.ggml.eos_token_id=9999 must be below"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_vocabulary_is_refused_by_file_and_reason(case):
    changes, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason) as error:
        byte_level(**changes)
    assert "some.gguf" in str(error.value)


def test_scores_must_be_as_many_as_tokens():
    with pytest.raises(ValueError, match="tokenizer.ggml.scores has 1 entries"):
        sentencepiece(ggml__scores=np.zeros(1))
