"""Writes goldens/sentencepiece.json: a tiny SentencePiece vocabulary, and what the library makes of some texts.

    .venv-peers/bin/python tests/data/make_sentencepiece_golden.py
"""

import io
import json
import pathlib

import sentencepiece

HERE = pathlib.Path(__file__).parent
TEXTS = (
    "the road goes on", "The roads\ngo ever  on, and on", " leading space", "trailing ", "", "naïve café 道 🙂", "a\tb",
    "onward the on-going gorge", "  ", "Redistributions of source code must retain the above copyright notice.",
)  # fmt: skip

if __name__ == "__main__":
    corpus = (HERE.parents[1] / "LICENSE").read_text().splitlines()
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, vocab_size=600, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    ids = range(made.get_piece_size())
    kinds = [2 if made.is_unknown(i) else 3 if made.is_control(i) else 6 if made.is_byte(i) else 1 for i in ids]
    golden = {
        "command": "python tests/data/make_sentencepiece_golden.py",
        "versions": {"sentencepiece": sentencepiece.__version__},
        "tokens": [made.id_to_piece(i) for i in ids],
        "scores": [made.get_score(i) for i in ids],
        "token_type": kinds,
        "texts": TEXTS,
        "ids": [made.encode(text) for text in TEXTS],
        "decoded": [made.decode(made.encode(text)) for text in TEXTS],
    }
    text = json.dumps(golden, separators=(",", ":"))
    (HERE / "goldens" / "sentencepiece.json").write_text(text + "\n", encoding="ascii")
