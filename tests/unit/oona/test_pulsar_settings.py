"""Settings of the broker: from where, and what a wrong one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from esper.errors import BadInput
from esper.oona.pulsar import PREFIX, PulsarSettings, load_settings

URL = "pulsar://127.0.0.1:6650"
SECRET = "eyJhbGciOiJIUzI1NiJ9.secret"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PulsarSettings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    monkeypatch.delenv("PULSAR_SERVICE_URL", raising=False)


def test_the_environment_goes_before_the_file_and_arguments_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pulsar.yaml"
    file.write_text("service_url: pulsar://127.0.0.1:1\nnamespace: from-file\ntenant: from-file\noutbox_messages: 7\n")
    monkeypatch.setenv("PULSAR_SERVICE_URL", "pulsar://127.0.0.1:2")
    monkeypatch.setenv("ESPER_PULSAR_TENANT", "from-environment")
    monkeypatch.setenv("ESPER_PULSAR_NAMESPACE", "from-environment")
    settings = load_settings(file, namespace="given")
    assert (settings.service_url, settings.tenant, settings.namespace, settings.outbox_messages) == (
        "pulsar://127.0.0.1:2", "from-environment", "given", 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("service_url", "http://127.0.0.1:6650", "must look like pulsar://HOST:PORT"),
        ("service_url", "pulsar://127.0.0.1", "must look like pulsar://HOST:PORT"),
        ("service_url", "pulsar://127.0.0.1:nowhere", "is not an address"),
        ("service_url", f"pulsar://me:{SECRET}@127.0.0.1:6650", "must hold no credentials"),
        ("admin_url", "ftp://127.0.0.1", "must look like http://HOST:PORT"),
        ("tenant", "../up", "should match pattern"),
        ("namespace", "A b", "should match pattern"),
        ("outbox_messages", "0", "greater than or equal to 1"),
        ("redelivery_delay_seconds", "0", "greater than or equal to 0.1"),
        ("tls_validate_hostname", "perhaps", "valid boolean"),
    ],
)
def test_a_wrong_field_is_named_and_its_value_is_not(
    field: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"service_url": URL} | {field: value}
    for name, each in given.items():
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", each)
    with pytest.raises(BadInput) as refused:
        load_settings()
    text = str(refused.value)
    assert re.search(rf"^  {field}: .*{re.escape(said)}", text, re.MULTILINE)
    assert SECRET not in text


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        load_settings(tenant="NO", outbox_messages=-1, colour="red")
    assert {line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]} == {
        "service_url", "tenant", "outbox_messages", "colour",
    }  # fmt: skip
    assert "ESPER_PULSAR_SERVICE_URL" in str(refused.value)


@pytest.mark.parametrize("url", ["pulsar://broker.example:6650", "pulsar+ssl://broker.example:6651"])
def test_a_token_goes_to_another_host_over_tls_only(url: str) -> None:
    assert load_settings(service_url=url).current_token() is None
    if url.startswith("pulsar+ssl"):
        load_settings(service_url=url, token=SECRET)
        with pytest.raises(BadInput, match="admin_url has no TLS"):
            load_settings(service_url=url, token=SECRET, admin_url="http://broker.example:8080")
        return
    with pytest.raises(BadInput, match=r"service_url has no TLS.*broker\.example") as refused:
        load_settings(service_url=url, token=SECRET)
    assert SECRET not in str(refused.value)
    load_settings(service_url=url, token=SECRET, plaintext_token=True)


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    settings = load_settings(service_url=URL, token=SECRET)
    assert settings.current_token() == SECRET
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = load_settings(service_url=URL, token_file=file)
    with pytest.raises(BadInput, match="token_file"):
        settings.current_token()
    file.write_text("first\n")
    assert settings.current_token() == "first"
    file.write_text("second")
    assert settings.current_token() == "second"
    file.write_text(" ")
    with pytest.raises(BadInput, match="is empty"):
        settings.current_token()
    with pytest.raises(BadInput, match="keep one"):
        load_settings(service_url=URL, token_file=file, token=SECRET)


@pytest.mark.parametrize("text", ["- a list", f"token: [{SECRET}", "just words", f"token: {SECRET}\ntoken"])
def test_a_file_that_is_no_mapping_is_refused_without_quoting_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "pulsar.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"pulsar\.yaml: is not a YAML mapping") as refused:
        load_settings(file)
    assert SECRET not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml: not found"):
        load_settings(tmp_path / "nowhere.yaml")


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in PulsarSettings.model_fields.values())
