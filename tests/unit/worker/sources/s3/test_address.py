"""Names of checkpoints in buckets."""

import pytest

from neuronmodel_worker.sources.s3.address import S3Address


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://models", "models", ""),
        ("s3://models/", "models", ""),
        ("s3://models/llama/8b", "models", "llama/8b"),
        ("s3://models/llama/8b/", "models", "llama/8b"),
        ("s3://my.bucket-1/a b/ü=%20", "my.bucket-1", "a b/ü=%20"),
        ("s3://models--use1-az4--x-s3/llama", "models--use1-az4--x-s3", "llama"),
    ],
)
def test_a_bucket_and_a_prefix(text: str, bucket: str, prefix: str) -> None:
    address = S3Address.parse(text)
    assert (address.bucket, address.prefix) == (bucket, prefix)
    assert S3Address.parse(str(address)) == address
    assert address.key("config.json") == (f"{prefix}/config.json" if prefix else "config.json")


@pytest.mark.parametrize(
    "text",
    [
        "models/llama",
        "https://models/llama",
        "s3://",
        "s3:///llama",
        "s3://ab",
        "s3://Models/llama",
        "s3://a_b/llama",
        "s3://-ab/llama",
        "s3://a..b/llama",
        "s3://models//llama",
        "s3://models/a//b",
        "s3://models/../other",
        "s3://models/a/./b",
        "s3://models/a\nb",
        "s3://models/" + "a" * 901,
        "S3://models/llama",
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"Write it as s3://BUCKET/PREFIX\.$"):
        S3Address.parse(text)


@pytest.mark.parametrize("text", ["s3://key:sesame@models/llama", "s3://sesame@models"])
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="without a user and a password") as refused:
        S3Address.parse(text)
    assert "sesame" not in str(refused.value)
