"""What may be printed of messages that have URLs and tokens in them."""

import pytest

from neuronmodel_worker.sources.remote.redaction import MAX_CHARACTERS, host_of, without_secrets

SECRET = "Planted0Secret1Value2"

TEXTS = {
    "cloudfront": f"GET https://cdn.example/?Expires=1&Policy={SECRET}&Signature={SECRET}&Key-Pair-Id={SECRET} in 1 ms",
    "amazon": f"https://b.s3.amazonaws.com/k?X-Amz-Credential={SECRET}%2Fus&X-Amz-Expires=3600&X-Amz-Signature={SECRET}",
    "google": f"https://storage.example/k?X-Goog-Credential={SECRET}&X-Goog-Signature={SECRET}",
    "azure": f"https://a.blob.example/c/k?sv=2024-01-01&se=2026&sig={SECRET}",
    "azure_without_a_host": f"error for /c/k?sv=2024-01-01&sr=b&sig={SECRET} (403)",
    "signature_without_a_host": f"URL can't contain control characters. '/x y?Policy={SECRET}&Signature={SECRET}'",
    "unquoted_name": f'https://cdn.example/k?disposition=inline; filename="m";&Expires=1&Signature={SECRET}',
    "user": f"https://somebody:{SECRET}@hub.example/org/name",
    "user_alone": f"https://{SECRET}@hub.example/org/name",
    "user_at_an_address": f"http://somebody:{SECRET}@[fd00::1]:8080/org/name",
    "ipv6": f"GET http://[fd00::1]:8080/k?x=1&Signature={SECRET} failed",
    "bearer": f"header Authorization: Bearer {SECRET}, and more",
    "basic": f"Proxy-Authorization: basic {SECRET}==",
    "token": f"'hf_{SECRET}' is unknown",
    "debug": f'refused\n\nDebug source:\nGeneric {{ uri: Some(\n https://cdn.example/k?x="{SECRET} }}',
    "upper_case": f"HTTPS://CDN.EXAMPLE/k?SIGNATURE={SECRET}",
    "fragment": f"https://hub.example/k#access_token={SECRET}",
    "two": f"https://a.example/k?token={SECRET} redirects to https://b.example/k?token={SECRET}",
}


@pytest.mark.parametrize("what", TEXTS)
def test_secrets_are_left_out(what: str) -> None:
    shown = without_secrets(TEXTS[what])
    assert SECRET not in shown
    assert shown.strip()


@pytest.mark.parametrize(
    "text",
    [
        "Connection refused (os error 111)",
        "GET https://cdn.example:8443/repos/ab/cd answers 503",
        "http://[fd00::1]:8080/org/name answers 503",
        "the file model-00001-of-00002.safetensors has 12 of 30 bytes; is that 40 %? yes & no",
        "org/hf_model is missing",
        "C://drive and //host/path and a@b",
        "",
    ],
)
def test_text_without_secrets_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_what_is_around_a_url_stays() -> None:
    shown = without_secrets("GET (https://cdn.example/k?Signature=abc) in 1 ms, after 2 retries")
    assert shown == "GET (https://cdn.example/k) in 1 ms, after 2 retries"


def test_a_message_is_one_line_of_bounded_length() -> None:
    shown = without_secrets("word\n\t " * 1000)
    assert len(shown) == MAX_CHARACTERS
    assert "\n" not in shown
    assert shown.endswith("…")


@pytest.mark.parametrize("text", ["?" + "&a=" * 50_000, "https://" + "@" * 50_000, "bearer " * 10_000, "a." * 50_000])
def test_long_texts_of_others_are_no_trouble(text: str) -> None:
    assert len(without_secrets(text)) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hub.example/org/name?x=1", "https://hub.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://user:word@hub.example:1/x", "https://hub.example:1"),
        ("http://[fd00::1]:8080/x", "http://[fd00::1]:8080"),
        ("hub.example", "an unnamed host"),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host
