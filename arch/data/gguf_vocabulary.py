"""The tokenizer that a GGUF file holds: tokens, merges or scores, and the name of the way text is cut before merging.

`tokenizer.ggml.model` is `gpt2` (byte-level BPE: Radford et al., Language Models are Unsupervised Multitask Learners,
2019, sec. 2.2) or `llama` (SentencePiece: Kudo and Richardson, 2018, arXiv 1808.06226, in its BPE mode, where a
piece's score is the order in which it was merged). How text is cut before byte-level merging is told by a name alone.
"""

from collections.abc import Mapping
from typing import Any

from arch.data.foreign_tokenizer import SPACE, Foreign, Roles

CONTROL, USER_DEFINED = 3, 4
MAX_CHARS = 1024
"""Longest token; the work of finding merges grows with the square."""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""LLaMA 3's. With it a piece of text that is a token whole is not merged: its tokenizer.json says `ignore_merges`."""
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
"""BLOOM's, as llama.cpp has it (pull request 8850)."""
CUTS = {
    "gpt-2": "",
    "default": "",
    "mpt": "",
    "olmo": "",
    "smollm": "digits",
    "starcoder": "digits",
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "bloom": BLOOM,
}
"""`tokenizer.ggml.pre`: nothing before GPT-2's own expression, single digits before it, or another in its place.

MPT and OLMo have GPT-NeoX's tokenizer, whose expression is GPT-2's."""


def read(metadata: Mapping[str, Any], path: str, separator: str = "") -> Foreign:
    """The file's tokenizer.

    Args:
      metadata: as `gguf_header.read` gives it.
      path: the file, for messages.
      separator: as in `Foreign`.

    Raises:
      ValueError: there is none, it is of another kind, or contradicts itself.
    """
    kind = metadata.get("tokenizer.ggml.model")
    makers = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in makers:
        raise ValueError(f"{path}: tokenizer.ggml.model={kind!r} must be one of {', '.join(makers)}")
    try:
        tokens = metadata["tokenizer.ggml.tokens"]
        if len(set(tokens)) != len(tokens):
            raise ValueError("tokenizer.ggml.tokens must differ from each other")
        if (longest := max(map(len, tokens))) > MAX_CHARS:
            raise ValueError(f"tokenizer.ggml.tokens has one of {longest} characters; at most {MAX_CHARS} are read")
        made = makers[kind](metadata, {token: i for i, token in enumerate(tokens)})
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        named = {role: _token(metadata, f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
        _add_special(made, metadata)
        _surround(made, metadata, named, add_bos=kind == "llama")
        roles = Roles(**named, chat_template=metadata.get("tokenizer.chat_template", ""))
        answer_end = "tokenizer.ggml.eot_token_id"
        return Foreign(made, roles, separator, [metadata[answer_end]] if _token(metadata, answer_end) else ())
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing") from None
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path}: {error}") from None


def _token(metadata: Mapping[str, Any], key: str) -> str:
    """The token with the id that `key` holds, '' without one."""
    tokens, i = metadata["tokenizer.ggml.tokens"], metadata.get(key, -1)
    if i >= len(tokens):
        raise ValueError(f"{key}={i} must be below {len(tokens)}")
    return tokens[i] if i >= 0 else ""


def _byte_level(metadata: Mapping[str, Any], vocabulary: dict[str, int]):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in CUTS:
        raise ValueError(f"tokenizer.ggml.pre={pre!r} must be one of {', '.join(CUTS)}")
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=CUTS[pre] == LLAMA3))
    cuts = {
        "": [],
        "digits": [pre_tokenizers.Digits(individual_digits=True)],
        LLAMA3: [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
        BLOOM: [pre_tokenizers.Split(Regex(BLOOM), "isolated")],
    }[CUTS[pre]]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=CUTS[pre] not in (LLAMA3, BLOOM))
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, last])
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: dict[str, int]):
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = metadata["tokenizer.ggml.scores"]
    if len(scores) != len(vocabulary):
        raise ValueError(f"tokenizer.ggml.scores has {len(scores)} entries, tokenizer.ggml.tokens {len(vocabulary)}")
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(vocabulary, key=lambda piece: -scores[vocabulary[piece]])
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    unknown = _token(metadata, "tokenizer.ggml.unknown_token_id") or None
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaced = [normalizers.Replace(" ", SPACE)]
    stripped = []
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        spaced, stripped = [normalizers.Prepend(SPACE), *spaced], [decoders.Strip(" ", 1, 0)]
    made.normalizer = normalizers.Sequence(spaced)
    plain = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*plain, *stripped])
    return made


def _add_special(made, metadata: Mapping[str, Any]) -> None:
    """Tells the tokenizer which tokens are not to be found by merging."""
    from tokenizers import AddedToken

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", ())
    if len(types) not in (0, len(tokens)):
        raise ValueError(f"tokenizer.ggml.token_type has {len(types)} entries, tokenizer.ggml.tokens {len(tokens)}")
    for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
        some = [token for token, kind in zip(tokens, types) if kind == wanted]
        made.add_tokens([AddedToken(token, normalized=False, special=special) for token in some])


def _surround(made, metadata: Mapping[str, Any], named: dict[str, str], *, add_bos: bool) -> None:
    """Puts bos and eos around a text, if the file says so; `add_bos` when it does not say."""
    from tokenizers import processors

    begin = named["bos_token"] if metadata.get("tokenizer.ggml.add_bos_token", add_bos) else ""
    end = named["eos_token"] if metadata.get("tokenizer.ggml.add_eos_token", False) else ""
    if begin or end:
        around = [token for token in (begin, "$A", end) if token]
        special = [(token, made.token_to_id(token)) for token in {begin, end} if token]
        made.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
