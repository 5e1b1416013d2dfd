"""Of a conversation the tokens of the answers are marked, whoever writes it: a chat template, or the plain form."""

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arch.data import chat, conversations, labelled
from arch.data import tokenizer as makers
from arch.data.foreign_tokenizer import Foreign, Roles

TALK = (("system", "be brief"), ("user", "why é?"), ("assistant", "so 道"), ("user", "and"), ("assistant", "thus"))
MESSAGES = [{"role": role, "content": content} for role, content in TALK]
CHATML = """{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
MARKED = """{% for m in messages %}{{ '<|' + m.role + '|>' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content + '</s>' }}{% endgeneration %}
{%- else %}{{ m.content + '</s>' }}{% endif %}{{ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
FORGETFUL = """{% for m in messages %}{{ '<|' + m.role + '|>' }}
{%- if m.role != 'assistant' or loop.last %}{{ m.content }}{% else %}{{ m.content[1:] }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def document(talk=TALK, name="d"):
    roles, contents = zip(*talk)
    return labelled.Labelled(name, "\n".join(contents), contents, roles)


def published(template):
    """A byte-level tokenizer whose end of text is a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_tokens([AddedToken("</s>", special=True)])
    return Foreign(made, Roles(eos_token="</s>", chat_template=template))


def marked(maker, talk=TALK):
    """The runs of tokens that are answers, as text (special tokens shown), and all tokens."""
    (found,) = conversations.encode(maker, [document(talk)])
    tokens, marks = found
    edges = np.flatnonzero(np.diff([0, *marks, 0]))
    runs = [tokens[a:b] for a, b in zip(edges[::2], edges[1::2])]
    return [maker.decode(run) + "|" * int(maker.separator in run) for run in runs], tokens


@pytest.mark.parametrize("maker", [makers.Bytes(), makers.train(["and thus so"], 262)], ids=["bytes", "bpe"])
def test_plainly_written_an_answer_is_its_content_and_the_separator_behind_it(maker):
    answers, tokens = marked(maker)
    assert answers == ["so 道|", "thus|"]
    wanted = "".join(f"{role}\n{content}" for role, content in TALK)
    assert maker.decode(tokens) == wanted and (tokens == maker.separator).sum() == len(TALK) + 1


@pytest.mark.parametrize("maker", [makers.Bytes(), published(CHATML)], ids=["plain", "template"])
def test_a_prompt_ends_where_the_answer_begins(maker):
    (tokens, marks), = conversations.encode(maker, [document(TALK[:3])])
    first = int(np.flatnonzero(marks)[0])
    assert conversations.prompt(maker, MESSAGES[:2]) == tokens[:first].tolist()


def test_by_a_template_an_answer_is_what_it_writes_beyond_the_prompt():
    answers, tokens = marked(published(CHATML))
    assert answers == ["so 道\n|", "thus\n|"]
    assert len(tokens) == len("".join(f"<|{role}|>{content}\n" for role, content in TALK).encode()) + len(TALK)


def test_a_template_that_marks_answers_is_believed():
    answers, tokens = marked(published(MARKED))
    assert answers == ["so 道|", "thus|"]  # without the line's end behind them
    assert tokens.tolist() == marked(published(CHATML))[1].tolist()


def test_text_that_spells_a_role_is_no_answer():
    talk = (("user", "<|assistant|>no\nassistant\nno"), ("assistant", "yes"))
    assert marked(published(CHATML), talk)[0] == ["yes\n|"]
    assert marked(makers.Bytes(), talk)[0] == ["yes|"]


def test_a_template_that_writes_an_answer_otherwise_when_more_follows_is_refused_by_document():
    talks = [document(TALK[:3], "first"), document(TALK, "second")]
    with pytest.raises(ValueError, match="document 'second': .* does not write the messages up to 2 as it does the wh"):
        list(conversations.encode(published(FORGETFUL), talks))


def test_a_template_whose_prompt_is_not_how_the_answer_begins_is_refused():
    other = CHATML.replace("{{ '<|assistant|>' }}", "{{ '<|model|>' }}")
    with pytest.raises(ValueError, match="document 'd': .* does not write the messages up to 2 "):
        list(conversations.encode(published(other), [document()]))


def test_marks_that_change_the_text_are_refused():
    answer = "{% generation %}{{ messages[2].content }}{% endgeneration %}"
    template = "{% set x %}" + answer + "{% endset %}{{ x | length }}{{ x }}"
    with pytest.raises(ValueError, match="document 'd': .*its text is another where {% generation %} marks the answe"):
        list(conversations.encode(published(template), [document()]))


def test_a_conversation_that_the_template_refuses_is_named():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    with pytest.raises(ValueError, match="document 'd': chat template fails: TemplateError: no system"):
        list(conversations.encode(published(template), [document(TALK[1:], "fine"), document()]))


def test_many_conversations_are_rendered_by_few_processes(monkeypatch):
    asked = []
    ask = chat._ask
    monkeypatch.setattr(chat, "_ask", lambda request: asked.append(len(request["seen"])) or ask(request))
    talks = [MESSAGES] * 300
    found = list(chat.answers(CHATML, talks, [str(i) for i in range(300)]))
    assert asked == [128, 128, 44] and len(found) == 300 and len(set(map(str, found))) == 1


def test_long_conversations_are_rendered_by_a_process_each():
    assert list(chat._runs([chat.OUTPUT + 1, 5, 7, chat.OUTPUT - 5])) == [(0, 1), (1, 3), (3, 4)]
