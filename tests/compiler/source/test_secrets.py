"""No secret is printed, whatever is printed about its line."""

import json
from pathlib import Path

import pytest

from compiler.source.secrets import masked, secrets_in
from tests.compiler.support import tree, write
from tests.compiler.test_cli import run

SECRETS = {
    "hf_" + "aB3" * 11: "HF",
    "AKIA" + "Q7" * 8: "AWS",
    "sk-" + "a1" * 20: "KEY",
    "ghp_" + "Zz9" * 12: "GIT",
    "hunter2-with-words": "DB_PASSWORD",
    "c2VjcmV0": "client_secret",
    "0123456789": "api_key",
}


LINES = ["{key}: {value}", "{key}: '{value}'", "x: {{a: 1, {key}: {value}}}", "{key}: [{value}]"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", ["human", "json", "github", "sarif"])
@pytest.mark.parametrize("line", LINES)
def test_nothing_printed_has_a_secret_in_it(secret: str, form: str, line: str, tmp_path: Path, capsys) -> None:
    text = line.format(key=SECRETS[secret], value=secret if not secret.isdigit() else f'"{secret}"')
    write(tmp_path, {"registry/acme--a.yaml": f"{text}\nmodel_config: {{model_id: acme/a}}\n"})
    assert run("compile", "--format", form, "--root", str(tmp_path)) == 1
    printed = "".join(capsys.readouterr())
    assert "E309" in printed and secret not in printed


HARMLESS = (
    "model_id: acme/a",
    "max_new_tokens: 5",
    "tokenizer: auto",
    "pad_token: '<pad>'",
    "HF_TOKEN: {from_env: HF_TOKEN}",
    "skip: hf_transfer",
    "use_auth_token: true",
    "bucket_uri: s3://bucket/models--a--b/",
    "endpoint_url: https://s3.example:9000",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert list(secrets_in(tree(text))) == []
    assert masked(text) == text


def test_a_masked_line_is_as_long_as_it_was() -> None:
    line = "  token: abc  # hf_abcdefghijklmnopqrstuvwxyz"
    assert len(masked(line)) == len(line) and "abc" not in masked(line)


def test_the_fix_of_a_finding_does_not_tell_it_either(tmp_path: Path, capsys) -> None:
    secret = "hf_" + "x1" * 12
    write(tmp_path, {"registry/acme--a.yaml": f"deployment_config: {{max_concurrent_queries: {secret}}}\n"})
    run("compile", "--format", "json", "--root", str(tmp_path))
    printed = capsys.readouterr().out
    assert secret not in printed
    assert json.loads(printed)["diagnostics"]
