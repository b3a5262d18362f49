"""The broker's REST interface: what provisioning, backlog metrics and new subscriptions ask of it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx

from esper.errors import BadInput, BusError
from esper.oona.bus import BusNotReady, BusUnavailable
from esper.oona.pulsar.settings import PulsarSettings

TIMEOUT_SECONDS = 30.0


class InUse(BusError):
    """What was to be removed has consumers."""


class Admin:
    """Calls the REST interface. Thread-safe; a context manager."""

    def __init__(self, settings: PulsarSettings) -> None:
        if settings.admin_url is None:
            raise BadInput("admin_url: not set; provisioning and backlog metrics need the broker's REST address")
        self._settings = settings
        self._url = settings.admin_url
        verify: ssl.SSLContext | bool = True
        if self._url.startswith("https"):
            verify = ssl.create_default_context(cafile=None if settings.tls_ca_file is None else settings.tls_ca_file)
            verify.check_hostname = settings.tls_validate_hostname
        self._client = httpx.Client(base_url=f"{self._url}/admin/v2", timeout=TIMEOUT_SECONDS, verify=verify)

    def get(self, path: str, *, default: Any = None, **query: Any) -> Any:
        """The answer as JSON; ``default`` where there is nothing."""
        answer = self._call("GET", path, None, query, none_for=(404, 204))
        return default if answer is None or not answer.content else answer.json()

    def put(self, path: str, body: Any = None, **query: Any) -> bool:
        """Create; ``False`` when it is there already."""
        return self._call("PUT", path, body, query, none_for=(409,)) is not None

    def post(self, path: str, body: Any = None, **query: Any) -> None:
        """Set."""
        self._call("POST", path, body, query)

    def delete(self, path: str, **query: Any) -> bool:
        """Remove; ``False`` when there is none. Raises ``InUse`` for a subscription with consumers."""
        return self._call("DELETE", path, None, query, none_for=(404,)) is not None

    def topic(self, name: str, *parts: str) -> str:
        """The path of a topic, or of something of it."""
        return self._path("persistent", name, parts)

    def schema(self, name: str) -> str:
        """The path of a topic's schema."""
        return self._path("schemas", name, ("schema",))

    @property
    def namespace(self) -> str:
        """The path of the namespace."""
        return f"/namespaces/{self._settings.tenant}/{self._settings.namespace}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, kind: str, name: str, parts: tuple[str, ...]) -> str:
        rest = "".join(f"/{quote(part, safe='')}" for part in parts)
        return f"/{kind}/{self._settings.tenant}/{self._settings.namespace}/{quote(name, safe='')}{rest}"

    def _call(
        self, method: str, path: str, body: Any, query: Mapping[str, Any], none_for: tuple[int, ...] = ()
    ) -> httpx.Response | None:
        token = self._settings.current_token()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            answer = self._client.request(
                method, path, params={key: _text(value) for key, value in query.items()}, headers=headers,
                **({} if body is None else {"json": body}),
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise BusNotReady(f"broker {self._url}: {type(error).__name__}: {error}") from error
        if answer.status_code in none_for:
            return None
        if answer.status_code in (401, 403):
            raise BusUnavailable(
                f"broker {self._url}: refused {method} {path} ({answer.status_code}): {_reason(answer)}; "
                "check the token"
            )
        if answer.is_server_error:
            raise BusNotReady(f"broker {self._url}: {method} {path}: {answer.status_code}: {_reason(answer)}")
        if answer.status_code == httpx.codes.PRECONDITION_FAILED and method == "DELETE":
            raise InUse(f"broker {self._url}: {method} {path}: {_reason(answer)}")
        if answer.is_error:
            raise BusError(f"broker {self._url}: {method} {path}: {answer.status_code}: {_reason(answer)}")
        return answer


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reason(answer: httpx.Response) -> str:
    try:
        found = answer.json()
        reason = str(found.get("reason", "")) if isinstance(found, dict) else ""
    except ValueError:
        reason = ""
    return " ".join((reason or answer.reason_phrase).split())[:300]
