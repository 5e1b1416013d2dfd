"""Both tokenizers: the round trip, the separator, bytes per id, files."""

import random

import numpy as np
import pytest

from arch.data import tokenizer

WORDS = ["the road\n", "  goes on, ", "ever on; ", "naïve 道 🛣 ", "def road(self):\n"] * 20
SEPARATOR = tokenizer.Config().separator


def bpe():
    return tokenizer.Config(kind="bpe", vocab_size=281).make(WORDS)


@pytest.fixture(params=["byte", "bpe"], scope="module")
def made(request):
    return tokenizer.Bytes() if request.param == "byte" else bpe()


def any_text(seed):
    """Characters from every plane, surrogates left out."""
    rng = random.Random(seed)
    tops = [0x80, 0x800, 0xD800, 0x110000]
    points = [rng.randrange(rng.choice(tops)) for _ in range(97)]
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def test_any_text_survives_the_round_trip(made):
    for text in [*map(any_text, range(50)), "", " ", "  \r\n\t ", "\0", f"a{SEPARATOR}b", "".join(WORDS)]:
        assert made.decode(made.encode(text)) == text


def test_no_text_has_the_separator_among_its_ids(made):
    assert made.separator not in made.encode(f"a{SEPARATOR}b" + any_text(0))


def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(made):
    for text in [*map(any_text, range(20)), "".join(WORDS)]:
        assert made.token_bytes[np.array(made.encode(text))].sum() == len(text.encode())
    assert made.token_bytes.shape == (made.size,) and made.token_bytes[made.separator] == 0


def test_a_batch_is_encoded_as_each_text_alone(made):
    texts = [any_text(1), "", "the road"]
    assert [ids.tolist() for ids in made.encode_batch(texts)] == [made.encode(text) for text in texts]


def test_any_ids_decode(made):
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert isinstance(made.decode(rng.integers(0, made.size, 13)), str)
    assert made.decode(made.encode("道")[:1]) == "\N{REPLACEMENT CHARACTER}"


def test_separators_decode_to_nothing(made):
    assert made.decode([made.separator, *made.encode("a"), made.separator]) == "a"


def test_a_saved_tokenizer_is_read_back_equal(made, tmp_path):
    made.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = tokenizer.read(path)
        assert (again.size, again.separator) == (made.size, made.separator)
        assert again.encode(any_text(2) + SEPARATOR) == made.encode(any_text(2) + SEPARATOR)


def test_training_is_deterministic_and_keeps_to_the_vocabulary(tmp_path):
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = bpe()
        made.save(tmp_path / name)
        files.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert files[0] == files[1] and made.size == 281


def test_bpe_needs_fewer_ids_than_bytes():
    assert len(bpe().encode("the road goes on")) < 16 / 1.5


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(vocab_size=300), "vocab_size=300 must be left out with kind='byte'"),
        (dict(path="x"), "path='x' must be left out with kind='byte'"),
        (dict(kind="bpe"), "vocab_size=0 and path='' with kind='bpe': one of them must be given"),
        (dict(kind="bpe", vocab_size=300, path="x"), "vocab_size=300 and path='x' .*: vocab_size must be 0"),
        (dict(kind="bpe", vocab_size=256), "vocab_size=256 must be at least 257"),
        (dict(kind="bpe", vocab_size=2**31), "vocab_size=2147483648 must be at least 0 and at most 4194304"),
    ],
)
def test_a_bad_config_names_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.Config(**fields)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.path='.*none' must be a tokenizer\.json"):
        tokenizer.read(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json' must be a tokenizer\.json of the tokenizers library"):
        tokenizer.read(tmp_path)


def test_a_missing_separator_names_the_special_tokens(tmp_path):
    bpe().save(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer\.separator='<s>' must be one of .*endoftext"):
        tokenizer.read(tmp_path, "<s>")


SPECIALS = ("[MASK]", "<extra_id_0>")


@pytest.fixture(params=["byte", "bpe"], scope="module")
def marked(request):
    """Both, with special tokens."""
    sizes = {} if request.param == "byte" else {"vocab_size": 283}
    return tokenizer.Config(kind=request.param, specials=SPECIALS, **sizes).make(WORDS)


def test_special_tokens_have_the_last_ids_and_stand_for_no_text(marked):
    assert [marked.special(text) for text in SPECIALS] == [marked.size - 2, marked.size - 1]
    assert set(marked.special_ids) == {marked.separator, marked.size - 2, marked.size - 1}
    assert not marked.token_bytes[list(marked.special_ids)].any() and len(marked.token_bytes) == marked.size
    assert marked.decode([marked.special("[MASK]"), *marked.encode("a")]) == "a"


def test_a_text_that_spells_a_special_token_is_text(marked):
    text = "a[MASK]<extra_id_0>" + any_text(0)
    assert not set(marked.encode(text)) & set(marked.special_ids) and marked.decode(marked.encode(text)) == text


def test_special_tokens_change_no_other_id(marked, made):
    if type(marked) is type(made):
        text = "".join(WORDS)
        assert marked.encode(text) == made.encode(text) and marked.separator == made.separator


def test_a_saved_tokenizer_has_its_special_tokens(marked, tmp_path):
    marked.save(tmp_path)
    again = tokenizer.read(tmp_path)
    assert (again.size, again.special_ids) == (marked.size, marked.special_ids)
    assert [again.special(text) for text in SPECIALS] == [marked.special(text) for text in SPECIALS]


def test_special_tokens_are_added_to_a_file_that_lacks_them(made, tmp_path):
    made.save(tmp_path)
    added = tokenizer.Config(kind="bpe", path=str(tmp_path), specials=SPECIALS).make(())
    assert (added.size, added.special("<extra_id_0>")) == (made.size + 2, made.size + 1)


def test_a_special_token_that_there_is_not_is_named(marked):
    with pytest.raises(ValueError, match=r"'\[SEP\]' must be a special token of the tokenizer; there are .*MASK"):
        marked.special("[SEP]")
    with pytest.raises(ValueError, match="'a' must be a special token"):
        marked.special("a")


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(kind="pretrained", path="x", specials=("<a>",)), "must be left out with kind='pretrained'"),
        (dict(specials=("<a>", "<a>")), "must be different texts"),
        (dict(specials=(SEPARATOR,)), "must be different texts, none of them '' or the separator"),
        (dict(kind="bpe", vocab_size=258, specials=("<a>", "<b>")), "vocab_size=258 must be at least 259"),
    ],
)
def test_special_tokens_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.Config(**fields)
