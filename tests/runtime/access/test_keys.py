"""Keys of the node's environment and of a file that changes while it is used."""

import hmac
import logging
from hashlib import sha256
from pathlib import Path

import pytest

from runtime.access.keys import FILE, PLAIN, Key, Keys, keys_from
from runtime.errors import ConfigError
from runtime.schema.deployment import RuntimeEnv


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def entry(name: str, key: str, more: str = "") -> str:
    return f'[keys.{name}]\nsha256 = "{digest(key)}"\n{more}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(entry("team-a", "key-a", 'models = ["acme/*"]\nrequests_per_minute = 60\ntokens_per_minute = 9000'))
    path.chmod(0o600)
    return path


def test_without_configuration_nobody_needs_one() -> None:
    assert not keys_from({}).required


def test_a_file_says_who_may_do_what(file: Path) -> None:
    keys = keys_from({FILE: str(file)})
    assert keys.required
    key = keys.find(b"key-a")
    assert key == Key("team-a", bytes.fromhex(digest("key-a")), ("acme/*",), 60, 9000)
    assert [key.may_use(model) for model in ("acme/x", "Acme/x", "other/x")] == [True, False, False]
    assert keys.find(b"key-b") is None and keys.find(b"") is None


def test_plain_keys_may_do_all(file: Path) -> None:
    keys = keys_from({PLAIN: "one, two", FILE: str(file)})
    found = keys.find(b"two")
    assert found is not None and found.may_use("any/model") and found.requests_per_minute is None
    assert keys.find(b" two") is None and keys.find(b"key-a") is not None


@pytest.mark.parametrize("given", ["", " ", "a,,b", "a,", "two words", "schl\u00fcssel", "a\nb"])
def test_plain_keys_that_nobody_could_send_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=PLAIN):
        keys_from({PLAIN: given})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "keys: Field required"),
        ("[keys]", "keys: "),
        ("[keys", "TOML"),
        ("\xff", "decode"),
        ('[keys.a]\nsha256 = "top-secret"', "keys.a.sha256: String should match"),
        ('[keys.a]\nkey = "top-secret"', "keys.a.sha256: Field required"),
        ('[keys."a b"]\nsha256 = "top-secret"', "keys.a b"),
        (entry("a", "x", "requests_per_minute = 0"), "keys.a.requests_per_minute"),
        (entry("a", "x", "tokens_per_minute = true"), "keys.a.tokens_per_minute"),
        (entry("a", "x", "models = []"), "keys.a.models"),
        (entry("a", "x", "requests_per_minut = 5"), "requests_per_minut"),
        (entry("a", "x") + entry("b", "x"), "two names have the same key"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start(file: Path, content: str, says: str) -> None:
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=FILE) as caught:
        keys_from({FILE: str(file)})
    assert says in str(caught.value) and str(file) in str(caught.value)
    assert "top-secret" not in str(caught.value)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=FILE):
            keys_from({FILE: str(path)})
    with pytest.raises(ConfigError, match="empty"):
        keys_from({FILE: ""})


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod go-w"):
        keys_from({FILE: str(file)})


def test_a_changed_file_is_read_without_a_restart(file: Path) -> None:
    clock = Clock()
    keys = Keys(file=file, clock=clock)
    file.write_text(entry("team-b", "key-b"))
    assert keys.find(b"key-a") is not None and keys.find(b"key-b") is None, "a second has not passed"
    clock.now += 1
    assert keys.find(b"key-a") is None and keys.find(b"key-b") is not None


def test_a_file_that_breaks_leaves_the_keys_and_is_told_of_once(file: Path, caplog) -> None:
    clock = Clock()
    keys = Keys(file=file, clock=clock)
    for break_it in (lambda: file.write_text("[keys"), file.unlink):
        break_it()
        caplog.clear()
        for _ in range(3):
            clock.now += 1
            assert keys.find(b"key-a") is not None
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1 and str(file) in vars(errors[0])["problem"]
    file.write_text(entry("team-b", "key-b"))
    file.chmod(0o600)
    clock.now += 1
    assert keys.find(b"key-a") is None and keys.find(b"key-b") is not None


def test_every_key_is_compared_whichever_it_is(file: Path, monkeypatch) -> None:
    file.write_text("".join(entry(f"k{number}", f"key-{number}") for number in range(5)))
    keys, compared = Keys(file=file), []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for presented in (b"key-0", b"key-4", b"", b"x" * (1 << 20)):
        compared.clear()
        keys.find(presented)
        assert compared == [(32, 32)] * 5


@pytest.mark.parametrize("name", [FILE, PLAIN])
def test_no_model_brings_keys_of_its_own(name: str) -> None:
    for value in ("", "/tmp/keys.toml", {"from_env": "OTHER"}):
        with pytest.raises(ValueError, match="is the node's own"):
            RuntimeEnv.model_validate({"env_vars": {name: value}})
