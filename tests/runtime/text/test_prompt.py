"""Chat templates run in a sandbox; prompt_format takes conversations."""

import pytest

from runtime.errors import RequestError
from runtime.text.prompt import ChatTemplate, Message, format_instructions

HELLO = [Message("user", "Hello")]


def test_a_template_sees_messages_special_tokens_and_its_dialect() -> None:
    source = """{{ bos_token }}
    {%- for message in messages %}
      {%- if loop.index0 > 5 %}{% break %}{% endif %}
[{{ message.role }}] {{ message['content'] | trim }}{{ eos_token }}
    {%- endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}{{ {"a": "<é>"} | tojson }}"""
    rendered = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(HELLO)
    assert rendered == '<s>[user] Hello</s>[assistant]{"a": "<é>"}'


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ self.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ ('%s' | format('x')).__class__.__base__.__subclasses__() }}",
        "{{ range(100000000) | list }}",
    ],
)
def test_hostile_templates_are_refused(source: str) -> None:
    with pytest.raises(RequestError):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("source", ["{% if %}", "{{ raise_exception('roles must alternate') }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_says_so_to_the_client(source: str) -> None:
    with pytest.raises(RequestError, match="chat template"):
        ChatTemplate(source, {}).render(HELLO)


def test_one_instruction() -> None:
    assert format_instructions("### {instruction}\n", HELLO) == "### Hello\n"


def test_the_last_word_is_the_users() -> None:
    with pytest.raises(RequestError):
        format_instructions("{instruction}", [*HELLO, Message("assistant", "Hi")])
