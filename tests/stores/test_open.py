"""Opening a store: which URLs there are, and what is never shown."""

from __future__ import annotations

import pytest

from anypod.errors import ConfigurationError
from anypod.stores import DRIVERS, open_store, redact

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host/0", "redis://host/0"),
        ("redis://:hidden@host/0", "redis://:***@host/0"),
        ("redis://user:hidden@host", "redis://user:***@host"),
        ("redis://user@host", "redis://user@host"),
        ("redis://user:hi@dd:en@host", "redis://user:***@host"),
        ("redis://user:hid/den@host/1", "redis://user:***@host/1"),
        ("redis://user:hid?den@host/1", "redis://user:***@host/1"),
        ("redis://user:hid#den@host/1", "redis://user:***@host/1"),
        (
            "redis+sentinel://u:hidden@a:1,b:2/m?sentinel_password=hidden&timeout=1",
            "redis+sentinel://u:***@a:1,b:2/m?sentinel_password=***&timeout=1",
        ),
        (
            "postgresql://u@h/d?password=hidden&listen_url=postgresql://u:hidden@h2/d",
            "postgresql://u@h/d?password=***&listen_url=postgresql://u:***@h2/d",
        ),
        ("sqlite:////home/a@b/x.db", "sqlite:////home/a@b/x.db"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert "hidden" not in redact(url)


@pytest.mark.parametrize("scheme", sorted(DRIVERS))
def test_a_scheme_with_a_typo_names_the_nearest(scheme: str) -> None:
    typo = scheme[:-1]
    if typo in DRIVERS:
        return
    with pytest.raises(ConfigurationError, match="did you mean"):
        open_store(f"{typo}://host/0")


@pytest.mark.parametrize(
    "url", ["", "host:6379", "/tmp/file.db", "http://host", "mysql://u:pw@host/d"]
)
def test_what_is_no_store(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no store") as caught:
        open_store(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("password", ["hid/den", "hid?den", "hid#den"])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "postgresql"])
def test_a_password_that_is_not_encoded_is_not_shown_in_part(scheme: str, password: str) -> None:
    with pytest.raises(ConfigurationError, match="%2F") as caught:
        open_store(f"{scheme}://user:{password}@host/1")
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize("namespace", ["with space", "a:b", "ä", "x" * 65, "{slot}"])
def test_a_namespace_that_could_be_misread(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        open_store("memory://", namespace=namespace)


def test_the_namespace_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("memory://")
    monkeypatch.setenv("ANYPOD_NAMESPACE", "late")
    assert store.prefix("counter", "c") == "ap:late:counter:c:"
    with pytest.raises(ConfigurationError, match="belongs into the key"):
        store.prefix("counter", "user:1")
