"""``esper oona`` on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brokers import need_broker, settings_for
from esper.cli.app import app
from esper.oona import MAX_DELIVERIES, Subscription
from esper.oona.pulsar import PulsarBus, PulsarSettings
from leyline.topics import BENCHMARK, COMPILE, FIELD_REPORTS, TOPICS, pool_subscription
from mail import Sender, request

PATIENCE = 20.0
POOL = pool_subscription(TOPICS[COMPILE], "x86_64-avx512")


class Esper:
    """The command with a settings file."""

    def __init__(self, settings: PulsarSettings, folder: Path) -> None:
        self.token = settings.current_token() or ""
        (folder / "token").write_text(self.token)
        self.config = folder / "pulsar.yaml"
        self.config.write_text(
            f"service_url: {settings.service_url}\nadmin_url: {settings.admin_url}\nnamespace: {settings.namespace}\n"
            f"token_file: {folder / 'token'}\n"
        )

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        # The file alone decides, also where the environment names a broker for the tests.
        silent = dict.fromkeys(("PULSAR_SERVICE_URL", "ESPER_PULSAR_ADMIN_URL", "ESPER_PULSAR_TOKEN"))
        result = CliRunner().invoke(app, ["oona", *arguments, "--config", str(self.config)], env=silent)
        assert result.exit_code == code, result.output
        assert not self.token or self.token not in result.output
        return result


@pytest.fixture(scope="module")
def settings() -> PulsarSettings:
    return settings_for(need_broker())


@pytest.fixture(scope="module")
def esper(settings: PulsarSettings, tmp_path_factory: pytest.TempPathFactory) -> Esper:
    made = Esper(settings, tmp_path_factory.mktemp("oona"))
    made("provision", "--hardware", "x86_64-avx512")
    return made


@pytest.fixture
def bus(esper: Esper, settings: PulsarSettings) -> Iterator[PulsarBus]:
    opened = PulsarBus(settings)
    yield opened
    opened.close()


def bury(bus: PulsarBus, subscription: Subscription, cause: str) -> str:
    for _ in range(MAX_DELIVERIES):
        message = subscription.receive(PATIENCE)
        assert message is not None
        subscription.nack(message, cause)
    return f"{message.message_id}@{subscription.name}"


def test_provision_says_what_it_would_do_does_it_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    esper = Esper(settings_for(need_broker()), tmp_path)
    planned = json.loads(esper("provision", "--dry-run", "--json").stdout)
    assert f"subscription {FIELD_REPORTS}/urza" in {each["what"] for each in planned}
    assert not any(COMPILE in each["what"] for each in planned if each["what"].startswith("subscription"))
    done = esper("provision").stdout
    assert "changes made" in done
    assert all(f"topic {name}" in done for name in TOPICS)
    assert json.loads(esper("provision", "--json").stdout) == []
    assert "nothing to change" in esper("provision").stdout


def test_queues_of_pools_are_made_ahead_for_the_hardware_that_is_named(tmp_path: Path) -> None:
    esper = Esper(settings_for(need_broker()), tmp_path)
    esper("provision")
    named = ("--hardware", "x86_64-avx512", "--hardware", "cuda-sm90", "--hardware", "cuda-sm90")
    planned = json.loads(esper("provision", "--dry-run", "--json", *named).stdout)
    assert {each["what"] for each in planned} == {
        f"subscription {topic}/{role}-{hardware}"
        for topic, role in ((COMPILE, "tezzeret"), (BENCHMARK, "urabrask"))
        for hardware in ("x86_64-avx512", "cuda-sm90")
    }
    assert json.loads(esper("provision", "--json", *named).stdout) == planned
    assert json.loads(esper("provision", "--json", *named).stdout) == []
    assert json.loads(esper("provision", "--json").stdout) == [], "those that are there are left"
    assert "X86 is not a target" in esper("provision", "--hardware", "X86", code=2).output.replace("'", "")


def test_a_dead_letter_is_listed_shown_replayed_and_dropped(esper: Esper, bus: PulsarBus) -> None:
    sender = Sender(bus, "weatherlight")
    sender.send(request(1))
    with bus.subscribe(COMPILE, POOL) as subscription:
        letter = bury(bus, subscription, "compiler\nmissing")
        (listed,) = json.loads(esper("dlq", "list", "--json", "--topic", COMPILE).stdout)
        assert (listed["id"], listed["cause"], listed["deliveries"]) == (letter, "compiler\nmissing", MAX_DELIVERIES)
        assert "compiler missing" in esper("dlq", "list", "-s", POOL).stdout
        assert json.loads(esper("dlq", "list", "--json", "-s", "somebody-else").stdout) == []
        shown = json.loads(esper("dlq", "show", letter, "--json").stdout)
        assert shown["envelope"]["producer"] == "weatherlight"
        assert shown["envelope"]["payload"] == {"kernel_artifact_id": "artifact-1"}
        assert "compiler missing" in esper("dlq", "show", letter).stdout
        assert letter in esper("dlq", "replay", letter).stdout
        assert json.loads(esper("dlq", "list", "--json").stdout) == []
        assert bury(bus, subscription, "still missing") == letter
        assert "still missing" in esper("dlq", "drop", letter).stdout
        assert json.loads(esper("dlq", "list", "--json").stdout) == []
        assert subscription.receive(0.5) is None


def test_all_of_a_topic_at_once(esper: Esper, bus: PulsarBus) -> None:
    with bus.subscribe(FIELD_REPORTS, "urza") as reports, bus.subscribe(COMPILE, POOL) as work:
        for topic, subscription in ((FIELD_REPORTS, reports), (COMPILE, work)):
            for _ in range(2):
                bus.publish(topic, b"no envelope")
                bury(bus, subscription, "no")
        assert len(esper("dlq", "drop", "--all", "--topic", FIELD_REPORTS).stdout.splitlines()) == 2
        left = json.loads(esper("dlq", "list", "--json").stdout)
        assert {each["topic"] for each in left} == {COMPILE}
        assert "does not begin as an envelope" in esper("dlq", "show", left[0]["id"]).stdout
        assert len(esper("dlq", "replay", "--all").stdout.splitlines()) == 2
        for _ in range(2):
            message = work.receive(PATIENCE)
            assert message is not None
            work.ack(message)


def test_the_backlog_is_shown(esper: Esper, bus: PulsarBus) -> None:
    bus.publish(FIELD_REPORTS, b"x")
    assert bus.flush(PATIENCE) == 0
    rows = {(row["topic"], row["subscription"]): row for row in json.loads(esper("backlog", "--json").stdout)}
    assert rows[FIELD_REPORTS, "urza"]["waiting"] == 1
    assert FIELD_REPORTS in esper("backlog").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "show", "nothing"], "'nothing': there is none"),
        (["dlq", "drop", "nothing"], "'nothing': there is none"),
        (["dlq", "replay"], "--all"),
        (["dlq", "drop", "x", "--all"], "--all"),
        (["dlq", "list", "--topic", "wrok"], "wrok: there is no such topic"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(esper: Esper, arguments: list[str], said: str) -> None:
    assert said in esper(*arguments, code=2).output
