import re

import pytest

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import SETTINGS, Setting, Settings


def test_every_setting_stands_in_the_table_once_under_our_prefix_with_a_sentence():
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert len(names) == len([name for name in vars(Settings) if name.isupper()])
    for setting in SETTINGS:
        assert re.fullmatch("TELEMETRY_[A-Z_]+", setting.name)
        assert setting.meaning.endswith(".")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_an_empty_environment_and_an_empty_text_give_the_default(setting):
    assert setting.of({}) == setting.default
    assert setting.of({setting.name: ""}) == setting.default
    assert setting.of({setting.name: "  "}) == setting.default


@pytest.mark.parametrize(
    ("setting", "default"),
    [
        (Settings.TOPIC_PREFIX, "hypervisor."),
        (Settings.REPLICATION_FACTOR, None),
        (Settings.MIN_INSYNC_REPLICAS, None),
        (Settings.MAX_EVENT_BYTES, 921_600),
        (Settings.TRACEPARENT, "off"),
        (Settings.API_TOKEN, None),
        (Settings.COMMIT_INTERVAL, 0.2),
        (Settings.DUPLICATE_WINDOW, 100_000),
        (Settings.LEASE, None),
        (Settings.DEAD_LETTER_RATIO, 0.2),
        (Settings.DEAD_LETTER_RUN, 50),
        (Settings.SERIES_TTL, 86_400),
        (Settings.ELEVATION_MAX, 86_400),
        (Settings.MAX_SERIES, 100_000),
        (Settings.RING_LABELS, ("event_type", "agent_did", "session_id")),
        (Settings.AGENT_TTL, 900.0),
        (Settings.GOVERNANCE_LABELS, ()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_defaults_are_the_designs(setting, default):
    assert setting.default == default


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (Settings.TOPIC_PREFIX, "staging.", "staging."),
        (Settings.REPLICATION_FACTOR, "3", 3),
        (Settings.MIN_INSYNC_REPLICAS, " 2 ", 2),
        (Settings.MAX_EVENT_BYTES, "1024", 1024),
        (Settings.FLUSH_TIMEOUT, "0", 0.0),
        (Settings.FLUSH_TIMEOUT, "2.5", 2.5),
        (Settings.TRACEPARENT, "ON", "on"),
        (Settings.API_TOKEN, "secret", "secret"),
        (Settings.DATABASE_URL, "sqlite:///x", "sqlite:///x"),
        (Settings.INDEX_RETENTION, "30d", 2_592_000.0),
        (Settings.INDEX_RETENTION, "1.5H", 5_400.0),
        (Settings.INDEX_RETENTION, "90m", 5_400.0),
        (Settings.INDEX_RETENTION, "2w", 1_209_600.0),
        (Settings.INDEX_RETENTION, "86400", 86_400.0),
        (Settings.INDEX_RETENTION, "86400 s", 86_400.0),
        (Settings.QUERY_TIMEOUT, "2", 2.0),
        (Settings.LEASE, "4.5", 4.5),
        (Settings.DEAD_LETTER_RATIO, "0", 0.0),
        (Settings.DEAD_LETTER_RUN, "7", 7),
        (Settings.SERIES_TTL, "3600", 3_600),
        (Settings.ELEVATION_MAX, "60", 60),
        (Settings.MAX_SERIES, "5", 5),
        (Settings.RING_LABELS, "session_id", ("session_id",)),
        (Settings.RING_LABELS, " Session_ID , event_type,session_id", ("event_type", "session_id")),
        (Settings.AGENT_TTL, "1.5", 1.5),
        (Settings.GOVERNANCE_LABELS, "tool_name, Agent_ID", ("agent_id", "tool_name")),
        (Settings.LOG_LEVEL, "Debug", "debug"),
        (Settings.KAFKA, "docker", "docker"),
        (Settings.TEST_BOOTSTRAP_SERVERS, "h:1,h:2", "h:1,h:2"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_texts_are_read_as_what_they_mean(setting, text, value):
    assert setting.of({setting.name: text}) == value
    assert type(setting.of({setting.name: text})) is type(value)


@pytest.mark.parametrize(
    ("setting", "text", "sentence"),
    [
        (
            Settings.TOPIC_PREFIX,
            "a b",
            "TELEMETRY_TOPIC_PREFIX can't be 'a b': it must be letters, digits, '.', '_' or '-', "
            "at most 200 of them.",
        ),
        (
            Settings.REPLICATION_FACTOR,
            "many",
            "TELEMETRY_REPLICATION_FACTOR can't be 'many': it must be a number.",
        ),
        (
            Settings.REPLICATION_FACTOR,
            "0",
            "TELEMETRY_REPLICATION_FACTOR can't be '0': it must be between 1 and 32767.",
        ),
        (
            Settings.INDEX_RETENTION,
            "a month",
            "TELEMETRY_INDEX_RETENTION can't be 'a month': it must be seconds, or a number with s, m, h, d or w, "
            "such as 30d.",
        ),
        (
            Settings.INDEX_RETENTION,
            "nand",
            "TELEMETRY_INDEX_RETENTION can't be 'nand': it must be between 60 and 10000000000.",
        ),
        (Settings.MAX_EVENT_BYTES, "1.5", "TELEMETRY_MAX_EVENT_BYTES can't be '1.5': it must be a number."),
        (Settings.FLUSH_TIMEOUT, "nan", "TELEMETRY_FLUSH_TIMEOUT can't be 'nan': it must be between 0 and 3600."),
        (Settings.FLUSH_TIMEOUT, "-1", "TELEMETRY_FLUSH_TIMEOUT can't be '-1': it must be between 0 and 3600."),
        (
            Settings.RING_LABELS,
            "agent_did,ring",
            "TELEMETRY_RING_LABELS can't be 'agent_did,ring': it must be some of these, separated by commas: "
            "event_type, agent_did, session_id.",
        ),
        (
            Settings.GOVERNANCE_LABELS,
            "decision",
            "TELEMETRY_GOVERNANCE_LABELS can't be 'decision': it must be some of these, separated by commas: "
            "agent_id, tool_name.",
        ),
        (Settings.TRACEPARENT, "maybe", "TELEMETRY_TRACEPARENT can't be 'maybe': it must be one of: on, off."),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_text_that_cannot_be_read_is_refused_in_one_sentence_that_names_the_setting(setting, text, sentence):
    with pytest.raises(SettingError) as caught:
        setting.of({setting.name: text})
    assert str(caught.value) == sentence
    assert caught.value.setting == setting.name


def test_a_secret_is_never_shown_when_it_is_refused():
    pin = Setting("TELEMETRY_PIN", 0, int_of_four_digits, "A pin.", secret=True)
    with pytest.raises(SettingError) as caught:
        pin.of({"TELEMETRY_PIN": "hunter2"})
    assert str(caught.value) == "TELEMETRY_PIN can't be this value: it must be four digits."
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def int_of_four_digits(text: str) -> int:
    if not re.fullmatch("[0-9]{4}", text):
        raise ValueError("it must be four digits")
    return int(text)


def test_tokens_and_database_urls_are_secrets():
    assert {setting.name for setting in SETTINGS if setting.secret} >= {
        "TELEMETRY_API_TOKEN",
        "TELEMETRY_DATABASE_URL",
    }
