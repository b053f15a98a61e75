"""A mirror in a bucket. boto3 signs and sends; attempts and parts are ours, so that each goes on where one broke off.

The mirror's layout: the model's files under the address, and beside them `hash`, a file with the hub's commit.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import WeightsError
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.digests import Digest
from runtime.weights.remote import BrokenOffError, ChangedError, Pace, RemoteFile

T = TypeVar("T")

HASH_FILE = "hash"
_CHUNK = 1 << 20
_CONNECT_S, _SILENT_S = 10, 60
_MD5_DIGITS = 32
_GONE = {"404", "NoSuchBucket", "NoSuchKey", "NotFound"}
_DENIED = {"401", "403", "AccessDenied", "AllAccessDisabled", "Forbidden"}
_BAD_KEYS = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"}
_CHANGED = {"412", "PreconditionFailed"}
_LATER = {
    "408", "429", "500", "502", "503", "504", "InternalError", "RequestTimeTooSkewed", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException",
}  # fmt: skip
_KEYS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a role) on the node"


class S3Mirror:
    """One prefix of a bucket."""

    def __init__(self, mirror: S3MirrorConfig, pace: Pace) -> None:
        """Raises WeightsError where boto3 is missing or the address is none."""
        assert mirror.bucket_uri is not None
        self.uri = mirror.bucket_uri.rstrip("/")
        self._options, self._pace = mirror.options, pace
        self._bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        if not self._bucket or not self.uri.startswith("s3://"):
            raise WeightsError(f"{mirror.bucket_uri}: is no address such as s3://bucket/prefix/")
        self._client = self._connect()

    def _connect(self) -> Any:
        try:
            import boto3
            from botocore import UNSIGNED
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise WeightsError(f"{self.uri}: needs boto3: pip install 'llm-serve[s3]'") from error
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_SILENT_S,
            max_pool_connections=self._pace.connections,
            retries={"total_max_attempts": 1},
            response_checksum_validation="when_required",
            **({} if self._options.signed else {"signature_version": UNSIGNED}),
        )
        try:
            session = boto3.Session(profile_name=self._options.profile, region_name=self._options.region)
            return session.client("s3", endpoint_url=self._options.endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise WeightsError(f"{self.uri}: {error}") from error

    @property
    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self._options.request_payer else {}

    def name_of(self, file: RemoteFile) -> str:
        """Bucket and key."""
        return f"s3://{self._bucket}/{file.key}"

    def commit(self) -> str | None:
        """What `hash` says; None where there is none. Raises WeightsError."""
        key = f"{self._prefix}{HASH_FILE}"

        def ask() -> str | None:
            with self._explained(key, missing_is_fine=True):
                answer = self._ask(self._client.get_object, Key=key)
                said: bytes = answer["Body"].read(_CHUNK)
                missing = min(answer.get("ContentLength", 0), _CHUNK) - len(said)
                if missing > 0:
                    raise BrokenOffError(f"{missing} bytes of `{HASH_FILE}` did not come")
                return said.decode("ascii", "replace").strip()
            return None

        return self._pace.asked(ask, f"s3://{self._bucket}/{key}")

    def files(self) -> list[RemoteFile]:
        """All files of the mirror that `s3_sync_args` let through. Raises WeightsError."""
        found: list[RemoteFile] = []
        token: str | None = None
        while True:
            page, files = self._pace.asked(lambda token=token: self._page(token), f"{self.uri}/")  # type: ignore[misc]
            found += files
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                break
            if not token:
                raise WeightsError(f"{self.uri}/: the list of its files breaks off")
        return [each for each in found if each.path and each.path != HASH_FILE and self._options.wants(each.path)]

    def _page(self, token: str | None) -> tuple[dict[str, Any], list[RemoteFile]]:
        more = {"ContinuationToken": token} if token else {}
        with self._explained(self._prefix, "s3:ListBucket"):
            page = self._ask(self._client.list_objects_v2, Prefix=self._prefix, **more)
        return page, [self._listed(each) for each in page.get("Contents", [])]

    def _listed(self, entry: dict[str, Any]) -> RemoteFile:
        key = _told(entry, "Key")
        path = key.removeprefix(self._prefix)
        return RemoteFile("" if path.endswith("/") else path, key, _told(entry, "Size"), _told(entry, "ETag"))

    def described(self, paths: Sequence[str]) -> list[RemoteFile]:
        """Files by their paths, without a look at the others. Raises WeightsError, also for one that is not there."""

        def ask(path: str) -> RemoteFile:
            key = f"{self._prefix}{path}"
            return self._pace.asked(lambda: self._describe(path, key), f"s3://{self._bucket}/{key}")

        with ThreadPoolExecutor(self._pace.connections) as pool:
            return list(pool.map(ask, paths))

    def _describe(self, path: str, key: str) -> RemoteFile:
        with self._explained(key):
            answer = self._ask(self._client.head_object, Key=key)
        etag, encryption = _told(answer, "ETag"), answer.get("ServerSideEncryption", "AES256")
        digest = _md5(etag) if encryption == "AES256" and "SSECustomerAlgorithm" not in answer else None
        return RemoteFile(path, key, _told(answer, "ContentLength"), etag, digest)

    @contextmanager
    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes | memoryview]]:
        """As a Remote."""
        if start == end == 0:  # an empty file has no range
            yield iter(())
            return
        pinned = {"IfMatch": file.etag} if file.etag else {}
        with self._explained(file.key):
            answer = self._ask(self._client.get_object, Key=file.key, Range=f"bytes={start}-{end - 1}", **pinned)
            if file.etag and answer.get("ETag") != file.etag:
                raise BrokenOffError(f"its ETag is {answer.get('ETag')}, and {file.etag} was asked for")
            expected = f"bytes {start}-{end - 1}/{file.size}"
            if answer.get("ContentRange") != expected:
                raise BrokenOffError(f"sent {answer.get('ContentRange')}, and {expected} was asked for")
            body = answer["Body"]
            try:
                yield _pieces(body)
            finally:
                body.close()

    def _ask(self, operation: Callable[..., dict[str, Any]], **arguments: str) -> dict[str, Any]:
        """What the bucket answers. Raises BrokenOffError where botocore finds a date or a number that is none."""
        try:
            return operation(Bucket=self._bucket, **arguments, **self._payer)
        except ValueError as error:
            raise BrokenOffError(str(error)) from error

    def put(self, path: str, source: Path, tell: Callable[[int], None]) -> None:
        """Send a file. Raises WeightsError."""
        key = f"{self._prefix}{path}"
        self._pace.asked(lambda: self._put(key, source, tell), f"s3://{self._bucket}/{key}")

    def _put(self, key: str, source: Path, tell: Callable[[int], None]) -> None:
        with self._explained(key, "s3:PutObject"):
            self._client.upload_file(str(source), self._bucket, key, ExtraArgs=self._payer or None, Callback=tell)

    def put_commit(self, commit: str) -> None:
        """Write `hash`. Raises WeightsError."""
        key = f"{self._prefix}{HASH_FILE}"

        def put() -> None:
            with self._explained(key, "s3:PutObject"):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=commit.encode(), **self._payer)

        self._pace.asked(put, f"s3://{self._bucket}/{key}")

    @contextmanager
    def _explained(
        self, key: str, permission: str = "s3:GetObject", *, missing_is_fine: bool = False
    ) -> Iterator[None]:
        """Turn boto3's errors into ours: those that may pass, and those that somebody has to mend."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
        from urllib3.exceptions import HTTPError

        name = f"s3://{self._bucket}/{key}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            if code in _GONE and missing_is_fine:
                return
            raise self._refusal(name, code, status, permission, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            hint = f"{_KEYS_HINT}, or `s3_sync_args: [--no-sign-request]` for a public bucket"
            raise WeightsError(f"{name}: there are no credentials; {hint}") from error
        except (BotoCoreError, HTTPError, S3UploadFailedError, OSError) as error:
            raise BrokenOffError(str(error) or type(error).__name__) from error

    def _refusal(self, name: str, code: str, status: str, permission: str, error: Exception) -> Exception:
        if code in _CHANGED or status in _CHANGED:
            return ChangedError(name)
        if code in _LATER or status in _LATER:
            return BrokenOffError(str(error))
        if code in _BAD_KEYS:
            return WeightsError(f"{name}: the credentials are not accepted ({code}); {_KEYS_HINT}")
        if code in _DENIED or status in _DENIED:
            who = "the node's credentials lack" if self._options.signed else "a request without signature has not"
            return WeightsError(f"{name}: access denied; {who} {permission}")
        if code in _GONE or status in _GONE:
            at = self._options.endpoint_url or f"AWS{os.environ.get('AWS_REGION', '') and ' in this region'}"
            return WeightsError(f"{name}: is not there, says {at}")
        return WeightsError(f"{name}: {error}")


def _told(answer: dict[str, Any], field: str) -> Any:
    """What an answer says of a file. Raises BrokenOffError where it does not."""
    if field not in answer:
        raise BrokenOffError(f"the answer has no `{field}`")
    return answer[field]


def _pieces(body: Any) -> Iterator[memoryview]:
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := body.readinto(buffer):
        yield view[:count]


def _md5(etag: str) -> Digest | None:
    """The digest that an ETag is, for an object that was sent in one piece and lies there as it is."""
    plain = etag.strip('"')
    is_md5 = len(plain) == _MD5_DIGITS and not set(plain) - set("0123456789abcdef")
    return Digest("md5", plain) if is_md5 else None
