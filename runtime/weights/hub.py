"""The Hugging Face hub, through huggingface_hub: what a revision holds, and parts of its files.

`HF_ENDPOINT` names another hub, `HF_TOKEN` who asks. A commit's content does not change, and every file has a digest:
SHA-256 where git keeps it aside (LFS), git's own SHA-1 where not.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from runtime.errors import WeightsError
from runtime.weights.digests import Digest
from runtime.weights.remote import BrokenOffError, Pace, RemoteFile

_SILENT_S = 60.0
_LATER = {408, 429, 500, 502, 503, 504}
_DEFAULT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Revision:
    """What a branch, tag or commit of a repository holds now."""

    commit: str
    files: list[RemoteFile]
    licence: str | None
    gated: bool


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


class Hub:
    """One repository."""

    def __init__(self, repository: str, pace: Pace) -> None:
        """Raises WeightsError where huggingface_hub is missing, or HF_ENDPOINT is no address."""
        try:
            import huggingface_hub
        except ImportError as error:
            raise WeightsError("the hub needs huggingface_hub: pip install 'llm-serve[serve]'") from error
        self.repository, self._pace = repository, pace
        self.endpoint = (os.environ.get("HF_ENDPOINT") or _DEFAULT).rstrip("/")
        if not _is_address(self.endpoint):
            raise WeightsError(f"HF_ENDPOINT is {self.endpoint!r}, and should be an address such as {_DEFAULT}")
        self._library = huggingface_hub
        self._locations: dict[str, str] = {}
        self._lock = threading.Lock()

    def name_of(self, file: RemoteFile) -> str:
        """The file's address."""
        return file.key

    def revision(self, revision: str) -> Revision:
        """Raises WeightsError that says what is missing: the repository, the revision, a permission."""
        what = f"{self.endpoint}/{self.repository}"
        return self._pace.asked(lambda: self._revision(revision), what)

    def _revision(self, revision: str) -> Revision:
        with self._explained(revision):
            api = self._library.HfApi(endpoint=self.endpoint)
            info = api.model_info(self.repository, revision=revision, files_metadata=True, timeout=_SILENT_S)
        card = info.card_data.to_dict() if info.card_data else {}
        licence = card.get("license")
        files = [self._file(str(info.sha), each) for each in info.siblings or []]
        return Revision(str(info.sha), files, licence if isinstance(licence, str) else None, bool(info.gated))

    def _file(self, commit: str, sibling: Any) -> RemoteFile:
        digest = Digest("sha256", sibling.lfs.sha256) if sibling.lfs else Digest("git-sha1", sibling.blob_id)
        size = sibling.lfs.size if sibling.lfs else sibling.size
        address = self._library.hf_hub_url(self.repository, sibling.rfilename, revision=commit, endpoint=self.endpoint)
        return RemoteFile(sibling.rfilename, address, size, digest=digest)

    @contextmanager
    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """As a Remote."""
        if start == end == 0:
            yield iter(())
            return
        with self._explained(file.path):
            location = self._location(file)
            headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
            if urlsplit(location)[:2] == urlsplit(self.endpoint)[:2]:
                headers |= self._library.utils.build_hf_headers()
            session = self._library.utils.get_session()
            with session.stream("GET", location, headers=headers, timeout=_SILENT_S) as answer:
                self._check(answer, file, f"bytes {start}-{end - 1}/{file.size}", (start, end) == (0, file.size))
                yield answer.iter_raw()

    def _location(self, file: RemoteFile) -> str:
        """Where the file's bytes are: the hub sends whoever asks for a large one to its storage, for an hour or so."""
        with self._lock:
            known = self._locations.get(file.key)
        if known:
            return known
        session, headers = self._library.utils.get_session(), self._library.utils.build_hf_headers()
        answer = session.head(file.key, headers=headers, follow_redirects=False, timeout=_SILENT_S)
        self._library.utils.hf_raise_for_status(answer)
        found: str = urljoin(file.key, answer.headers.get("Location", file.key))
        with self._lock:
            self._locations[file.key] = found
        return found

    def _check(self, answer: Any, file: RemoteFile, expected: str, whole: bool) -> None:
        if answer.status_code in (401, 403) and self._locations.pop(file.key, file.key) != file.key:
            raise BrokenOffError("the address of the file's storage is not good any more")
        self._library.utils.hf_raise_for_status(answer)
        sent = answer.headers.get("Content-Range")
        if sent != expected and not (whole and answer.status_code == 200):
            raise BrokenOffError(f"sent {sent}, and {expected} was asked for")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn huggingface_hub's errors into ours: those that may pass, and those that somebody has to mend."""
        from huggingface_hub import errors

        name = f"{self.endpoint}/{self.repository}"
        token = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "HF_TOKEN, which is not set,"
        try:
            yield
        except errors.GatedRepoError as error:
            hint = f"accept its terms at {name}, and set HF_TOKEN to a token of that account"
            raise WeightsError(f"{name}: is gated, and {token} does not open it; {hint}") from error
        except errors.RepositoryNotFoundError as error:
            hint = f"if it is private, {token} has to be of an account that may read it"
            raise WeightsError(f"{name}: there is no such repository, or not for this account; {hint}") from error
        except errors.RevisionNotFoundError as error:
            raise WeightsError(f"{name}: has no revision `{what}`") from error
        except errors.EntryNotFoundError as error:
            raise WeightsError(f"{name}: has no file {what}") from error
        except errors.OfflineModeIsEnabled as error:
            raise WeightsError(f"{name}: not asked, because HF_HUB_OFFLINE is set") from error
        except errors.HFValidationError as error:
            raise WeightsError(f"{name}: is no name that the hub has: {error}") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 503
            if status in _LATER:
                raise BrokenOffError(f"answered {status}") from error
            raise WeightsError(f"{name}: {what}: answered {status}: {error}") from error
        except (errors.HTTPError, OSError) as error:
            raise BrokenOffError(str(error) or type(error).__name__) from error
