"""Settings of a process: sections with prefixes of their own, and everything that is wrong said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper.errors import BadInput
from esper.process import ProcessSettings, load_settings

SECRET = "eyJhbGciOiJIUzI1NiJ9.secret"


class WorkSettings(ProcessSettings):
    model_config = SettingsConfigDict(env_prefix="ESPER_SOMEONE_")

    names: list[str] = Field(default=["one"], description="Some names.")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("ESPER_PULSAR_", "ESPER_LIBRARY_", "ESPER_SOMEONE_", "PULSAR_")):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "work.yaml"
    path.write_text(text)
    return path


GOOD = """
pulsar: {service_url: "pulsar://127.0.0.1:6650", namespace: from-file}
library: {url: "http://127.0.0.1:8460/", token_file: token}
bus_key_file: key.pem
bus_trust_dir: trusted
log_level: debug
"""


def test_one_file_holds_every_section_and_each_has_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_PULSAR_NAMESPACE", "from-environment")
    monkeypatch.setenv("ESPER_LIBRARY_PATIENCE_SECONDS", "3")
    monkeypatch.setenv("ESPER_SOMEONE_NAMES", '["a", "b"]')
    settings = load_settings(WorkSettings, written(tmp_path, GOOD), http_port=7)
    assert (settings.pulsar.service_url, settings.pulsar.namespace) == ("pulsar://127.0.0.1:6650", "from-environment")
    assert (settings.library.url, settings.library.patience_seconds) == ("http://127.0.0.1:8460", 3.0)
    assert (settings.names, settings.log_level, settings.http_port) == (["a", "b"], "debug", 7)


def test_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ESPER_PULSAR_SERVICE_URL": "pulsar://127.0.0.1:6650", "ESPER_LIBRARY_URL": "https://library:1",
        "ESPER_LIBRARY_TOKEN_FILE": "token", "ESPER_SOMEONE_BUS_KEY_FILE": "key", "ESPER_SOMEONE_BUS_TRUST_DIR": "dir",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert load_settings(WorkSettings).bus_key_file == Path("key")


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_SOMEONE_LOG_LEVEL", SECRET)
    text = f"pulsar: {{namespace: {SECRET}}}\nlibrary: {{url: 'http://me:{SECRET}@x'}}\ncolour: {SECRET}\n"
    with pytest.raises(BadInput) as refused:
        load_settings(WorkSettings, written(tmp_path, text), what="settings of someone")
    told = {line.split(":")[0].strip(): line for line in str(refused.value).splitlines()[1:]}
    assert set(told) == {
        "pulsar.service_url", "pulsar.namespace", "library.url", "library.token_file", "bus_key_file", "bus_trust_dir",
        "log_level", "colour",
    }  # fmt: skip
    assert "ESPER_PULSAR_SERVICE_URL" in told["pulsar.service_url"]
    assert "ESPER_LIBRARY_TOKEN_FILE, or library.token_file in the settings file" in told["library.token_file"]
    assert "settings of someone" in str(refused.value)
    assert "work.yaml" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("section", [f"pulsar: {SECRET}", f"pulsar: [{SECRET}]"])
def test_a_section_that_is_none_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(BadInput, match="pulsar: must be a mapping") as refused:
        load_settings(WorkSettings, written(tmp_path, GOOD.replace("pulsar:", "unused:") + section))
    assert SECRET not in str(refused.value)


def test_a_list_in_the_environment_must_be_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_SOMEONE_NAMES", f"[{SECRET}")
    with pytest.raises(BadInput, match=r"names.*JSON") as refused:
        load_settings(WorkSettings, written(tmp_path, GOOD))
    assert SECRET not in str(refused.value)


def test_two_loads_share_nothing(tmp_path: Path) -> None:
    first = load_settings(WorkSettings, written(tmp_path, GOOD))
    second = load_settings(WorkSettings, written(tmp_path, GOOD.replace("debug", "error")))
    assert (first.log_level, second.log_level) == ("debug", "error")
    assert WorkSettings.file_values == {}
