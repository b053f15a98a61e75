"""A cache of the test's own, and no network but loopback."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.runtime.weights.servers import FaultProxy, closing

logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_SERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "AWS_PROFILE", "LLM_SERVE_CACHE_MAX_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(moto_port: int) -> Iterator[FaultProxy]:
    """An S3 server with an empty bucket `models`, behind a proxy that makes no faults yet."""
    proxy = FaultProxy(moto_port)
    client = bucket(proxy)
    with closing(proxy):
        client.create_bucket(Bucket="models")
        yield proxy
        keys = [{"Key": each["Key"]} for each in client.list_objects_v2(Bucket="models").get("Contents", [])]
        if keys:
            client.delete_objects(Bucket="models", Delete={"Objects": keys})
        client.delete_bucket(Bucket="models")


def bucket(proxy: FaultProxy):
    """A client past the proxy."""
    url = f"http://127.0.0.1:{proxy.target}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **keys)
