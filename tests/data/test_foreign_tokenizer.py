"""A published model's tokenizer serves training and generation, survives saving, and is refused when it is damaged."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from arch.data import foreign_tokenizer, tokenized, tokenizer
from arch.data.foreign_tokenizer import CONFIG, TEMPLATE, Foreign, Roles

TEXTS = ("the road goes on", " a  b\n", "naïve 道 🛣", "<s>", "")
ROLES = Roles(bos_token="<s>", eos_token="</s>", chat_template="{{ bos_token }}{{ messages[0].content }}")


def special(made):
    made.add_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    return made


def byte_level():
    """Byte-level BPE as GPT-2's and LLaMA-3's."""
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(sorted(alphabet()))}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return special(made)


def alphabet():
    return pre_tokenizers.ByteLevel.alphabet()


def metaspace():
    """BPE with bytes to fall back on, as LLaMA's and Mistral's."""
    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *"\u2581theroadgsn"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "ro", "th", "the"]))}
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("r", "o"), ("t", "h"), ("th", "e")], unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return special(made)


def wordpiece():
    """As BERT's, with what stands around a sentence."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "road", "##s", "go"]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    made.enable_truncation(5)
    made.enable_padding(length=5)
    return made


@pytest.fixture(params=[byte_level, metaspace], ids=lambda make: make.__name__)
def made(request):
    return Foreign(request.param(), ROLES)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(made, text):
    assert made.decode(made.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(made, text):
    ids = np.array(made.encode(text), int)
    assert made.token_bytes[ids].sum() == len(text.encode())
    assert made.token_bytes[made.separator] == 0


def test_the_separator_is_the_end_of_text_unless_it_is_said(made):
    end, begin = (made._tokenizer.token_to_id(token) for token in ("</s>", "<s>"))
    assert (made.separator, made.stop) == (end, (end,))
    said = Foreign(made._tokenizer, ROLES, "<s>")
    assert (said.separator, said.stop) == (begin, (end,))


def test_only_a_template_makes_special_tokens_of_text(made):
    begin = made._tokenizer.token_to_id("<s>")
    assert begin not in made.encode("<s>")
    assert made.chat([{"role": "user", "content": "the"}]) == [begin, *made.encode("the")]
    assert begin not in made.encode("<s>")


def test_a_prompt_has_what_the_model_wants_around_it():
    plain = Foreign(byte_level(), ROLES)
    assert plain.prompt("the") == plain.encode("the") and plain.prompt("") == [plain.separator]
    bert = Foreign(wordpiece(), Roles(cls_token="[CLS]", sep_token="[SEP]"))
    assert bert.prompt("the roads") == [1, 3, 4, 5, 2]
    assert len(bert.prompt("the road goes " * 7)) > 5 and bert.prompt("") == [1, 2]


def test_wordpiece_has_no_bytes():
    with pytest.raises(ValueError, match="tokenizer of kind WordPiece must keep spaces"):
        Foreign(wordpiece(), Roles(sep_token="[SEP]")).token_bytes


def test_a_saved_tokenizer_is_read_back_equal(made, tmp_path):
    made.save(tmp_path)
    again = tokenizer.read_pretrained(tmp_path)
    assert (again.roles, again.size, again.separator, again.stop) == (made.roles, made.size, made.separator, made.stop)
    assert [again.encode(text) for text in TEXTS] == [made.encode(text) for text in TEXTS]


def test_a_corpus_is_tokenised_with_it(made, tmp_path):
    made.save(tmp_path)
    (tmp_path / "text.txt").write_text("the road goes on\n" * 40)
    own = tokenizer.Config(kind="pretrained", path=str(tmp_path), separator="")
    cfg = tokenized.Config(path=str(tmp_path / "text.txt"), piece_chars=85, valid_fraction=0.2, tokenizer=own)
    data = tokenized.prepare(cfg, tmp_path / "data")
    assert isinstance(data.tokenizer, Foreign) and data.tokenizer.roles == ROLES
    assert sum(split.num_bytes for split in data.splits.values()) == 17 * 40
    assert data.splits["train"].tokens[0] == data.tokenizer.separator


def said(folder, **values):
    """A folder whose tokenizer_config.json says this."""
    (folder / "tokenizer.json").write_text(byte_level().to_str())
    (folder / CONFIG).write_text(json.dumps(values))
    return folder


def test_tokens_are_read_in_each_of_their_spellings(tmp_path):
    found = foreign_tokenizer.read(said(tmp_path, bos_token={"content": "<s>"}, eos_token="</s>", unk_token=None))
    assert (found.roles.bos_token, found.roles.eos_token, found.roles.unk_token) == ("<s>", "</s>", "")


def test_a_template_is_found_in_each_of_its_places(tmp_path):
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    folder = said(tmp_path, eos_token="</s>", chat_template=several)
    assert foreign_tokenizer.read(folder).roles.chat_template == "y"
    (folder / TEMPLATE).write_text("z")
    assert foreign_tokenizer.read(folder).roles.chat_template == "z"


@pytest.mark.parametrize(("found", "ends"), [(256, (257, 256)), ([256, 257, 5], (257, 256, 5)), (None, (257,))])
def test_a_generated_text_ends_at_each_id_that_the_folder_names(tmp_path, found, ends):
    (said(tmp_path, eos_token="</s>") / tokenizer.GENERATION).write_text(json.dumps({"eos_token_id": found}))
    words = foreign_tokenizer.read(tmp_path)
    assert words.stop == ends
    words.save(tmp_path)
    assert foreign_tokenizer.read(tmp_path).stop == ends


BAD = {
    "absent": ({}, "tokenizer.json is missing"),
    "no tokenizer": ({"tokenizer.json": "{}"}, "tokenizer.json is damaged"),
    "broken config": ({"tokenizer.json": byte_level().to_str(), CONFIG: "{"}, "tokenizer_config.json is damaged"),
    "a list": ({"tokenizer.json": byte_level().to_str(), CONFIG: "[]"}, "tokenizer_config.json: must hold an object"),
    "an unknown token": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"eos_token": "<end>"}'}, "eos_token='<end>' must be one of"
    ),
    "a number": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"eos_token": 5}'}, f"{CONFIG}: eos_token=5 must be a text"
    ),
    "a list of tokens": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"eos_token": ["<s>"]}'},
        rf"{CONFIG}: eos_token=\['<s>'\] must be a text",
    ),
    "a list of contents": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"eos_token": {"content": ["a"]}}'},
        rf"{CONFIG}: eos_token={{'content': \['a'\]}} must be a text",
    ),
    "a list of texts": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"chat_template": ["a"]}'},
        rf"{CONFIG}: chat_template=\['a'\] must be a text",
    ),
    "a template that is no text": (
        {"tokenizer.json": byte_level().to_str(), CONFIG: '{"chat_template": [{"name": "default", "template": 5}]}'},
        f"{CONFIG}: chat_template=5 must be a text",
    ),
    "an end that is no id": (
        {"tokenizer.json": byte_level().to_str(), tokenizer.GENERATION: '{"eos_token_id": ["a"]}'},
        rf"{tokenizer.GENERATION}: eos_token_id=\['a'\] must be an id, or a list of ids",
    ),
    "an end past the end": (
        {
            "tokenizer.json": byte_level().to_str(),
            CONFIG: '{"eos_token": "</s>"}',
            tokenizer.GENERATION: '{"eos_token_id": 258}',
        },
        "258 ends a generated text, but must be an id from 0 to 257",
    ),
    "no end": ({"tokenizer.json": byte_level().to_str(), CONFIG: "{}"}, "tokenizer.separator='' must name a token"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_tokenizer_is_refused_by_file_and_reason(tmp_path, case):
    files, reason = BAD[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        foreign_tokenizer.read(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(foreign_tokenizer.LIMIT + 1)
    with pytest.raises(ValueError, match="at most 67108864 are read"):
        foreign_tokenizer.read(tmp_path)


def test_a_tokenizer_without_template_has_no_chat():
    with pytest.raises(ValueError, match="has no chat template"):
        Foreign(byte_level(), Roles(eos_token="</s>")).chat([{"role": "user", "content": "x"}])
