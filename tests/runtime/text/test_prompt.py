"""Chat templates run in a sandbox; prompt_format takes conversations."""

import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.errors import RequestError
from runtime.text.prompt import ChatTemplate, Message, format_instructions
from runtime.text.renderer import Renderer

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


def test_marks_for_training_are_not_in_the_prompt() -> None:
    source = """{% set before = 'x' %}
{% for message in messages %}
{% generation %}
{% set before = 'y' %}
{{ message.content }}
{% endgeneration %}
{% endfor %}
{{ before }}"""
    assert ChatTemplate(source, {}).render(HELLO) == "Hello\nx"


@pytest.mark.parametrize("source", ["{% generation %}", "{% endgeneration %}", "{% generation %}{% endfor %}"])
def test_a_mark_without_its_end_is_a_broken_template(source: str) -> None:
    with pytest.raises(RequestError, match="chat template is broken"):
        ChatTemplate(source, {}).render(HELLO)


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


GREEDY = {
    "output without end": "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
    "loops without output": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power that takes a day": "{{ 10 ** (10 ** 9) }}",
    "a long string": "{{ 'a' * 10 ** 10 }}",
    "a long list": "{{ ([0] * 10 ** 9) | length }}",
    "a wide field": "{{ '{:2000000000}'.format(1) }}",
    "a wide centre": "{{ 'a' | center(2000000000) }}",
    "a wide percent": "{{ '%2000000000d' % 1 }}",
    "a string that grows": "{% set n = namespace(s='aa') %}{% for i in range(99) %}{% set n.s = n.s * 2 %}{% endfor %}",
    "a join": "{{ range(99999) | join('a' * 10 ** 6) }}",
    "a replacement": "{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}",
    "macros in macros": "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
}


@pytest.mark.parametrize("source", GREEDY.values(), ids=GREEDY)
def test_a_template_has_its_share_of_the_machine_and_no_more(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(RequestError, match="chat template"):
        ChatTemplate(source, {}).render(HELLO)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 1, "nothing of it was computed here"
    assert ChatTemplate("{{ messages[0].content }}", {}).render(HELLO) == "Hello"


def test_a_template_sees_no_environment(monkeypatch) -> None:
    monkeypatch.setenv("LLM_SERVE_API_KEYS", "canary")
    renderer = Renderer()
    assert renderer.render("{{ x }}", {"x": "1"}) == {"text": "1"}
    assert renderer._process is not None
    environment = Path(f"/proc/{renderer._process.pid}/environ").read_bytes()
    assert b"canary" not in environment and b"LLM_SERVE" not in environment
    renderer.close()


def test_the_process_ends_with_its_last_reader() -> None:
    code = "from runtime.text.renderer import RENDERER as r; r.render('', {}); print(r._process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status = Path(f"/proc/{done.stdout.strip()}")
    with suppress(FileNotFoundError, ProcessLookupError):  # it may go at any moment
        while "Z" not in (status / "stat").read_text().rpartition(")")[2]:
            time.sleep(0.01)


def test_one_that_was_killed_is_started_again() -> None:
    renderer = Renderer()
    for _ in range(2):
        assert renderer.render("{{ x }}", {"x": "\u00e9\n\u2028"}) == {"text": "\u00e9\n\u2028"}
        assert renderer._process is not None
        renderer._process.kill()
        renderer._process.wait()
    renderer.close()


def test_many_threads_get_their_own_answers() -> None:
    def asked(number: int) -> str:
        return ChatTemplate("{{ messages[0].content }}", {}).render([Message("user", str(number))])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(asked, range(500))) == [str(number) for number in range(500)]


@pytest.mark.parametrize("source", ["{% if %}", "{{ raise_exception('roles must alternate') }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_says_so_to_the_client(source: str) -> None:
    with pytest.raises(RequestError, match="chat template"):
        ChatTemplate(source, {}).render(HELLO)


def test_one_instruction() -> None:
    assert format_instructions("### {instruction}\n", HELLO) == "### Hello\n"


def test_the_last_word_is_the_users() -> None:
    with pytest.raises(RequestError):
        format_instructions("{instruction}", [*HELLO, Message("assistant", "Hi")])
