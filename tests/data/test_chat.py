"""Chat templates are rendered as transformers does, and a hostile one can neither reach nor take anything."""

import datetime
import time

import pytest

from arch.data import chat

MESSAGES = [{"role": "user", "content": "Hi & <b>"}, {"role": "assistant", "content": "Hello"}]
CHATML = """
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>' + message.content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def test_messages_become_text():
    assert chat.render(CHATML, MESSAGES) == "<|user|>Hi & <b><|assistant|>Hello<|assistant|>"


def test_the_answer_is_opened_only_if_it_is_wanted():
    assert chat.render(CHATML, MESSAGES, add_generation_prompt=False) == "<|user|>Hi & <b><|assistant|>Hello"


# A template's text, and what it becomes.
USES = {
    "{{ bos_token }}|{{ eos_token }}": "<s>|</s>",
    "{% if true %}\nx\n{% endif %}\n": "x\n",
    "{{ messages[0] | tojson }}": '{"role": "user", "content": "Hi & <b>"}',
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}": "user",
    "{{ strftime_now('%Y') }}": str(datetime.date.today().year),
    "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}": "2",
    "{{ missing is defined }}": "False",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}!": "Hello!",
    "{{ messages[0].content.split(' ')[0] }}": "Hi",
}


@pytest.mark.parametrize("template", USES)
def test_a_template_has_what_transformers_gives(template):
    assert chat.render(template, MESSAGES, bos_token="<s>", eos_token="</s>") == USES[template]


REFUSED = {
    "it says no": ("{{ raise_exception('no system role') }}", "TemplateError: no system role"),
    "wrong syntax": ("{% for %}", "TemplateSyntaxError"),
    "attributes of Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError: access to attribute"),
    "through a filter": ("{{ messages | attr('__class__') }}{{ (messages | attr('__class__')).mro() }}", "Error"),
    "functions' globals": ("{{ raise_exception.__globals__ }}{{ raise_exception.__globals__['x'] }}", "SecurityError"),
    "format strings": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "SecurityError"),
    "changing its data": ("{{ messages.append(1) }}", "SecurityError"),
    "other files": ("{% include '/etc/passwd' %}", "TypeError: no loader"),
    "long ranges": ("{% for i in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself without end"),
    "long output": ("{% for i in range(50000) %}{{ 'x' * 50 }}{% endfor %}", "more than 1048576 characters"),
    "much memory": ("{{ ('x' * 10**9) | length }}", "bytes of memory"),
    "doubling": ("{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "mem"),
    "padding": ("{{ '%1000000000d' % 1 }}", "memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_template_must_not_do_is_refused(case):
    template, reason = REFUSED[case]
    with pytest.raises(ValueError, match="chat template") as error:
        chat.render(template, MESSAGES)
    assert reason in str(error.value)


def test_a_template_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.5)  # the parent's patience is twice that
    long = "{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}"
    start = time.perf_counter()
    with pytest.raises(ValueError, match="chat template runs for more than 1.0 seconds"):
        chat.render("{% set r = range(90000) %}" + long, MESSAGES)
    assert time.perf_counter() - start < 10


def test_the_conversation_is_data_and_not_template():
    assert chat.render("{{ messages[0].content }}", [{"role": "user", "content": "{{ 7 * 6 }}"}]) == "{{ 7 * 6 }}"
