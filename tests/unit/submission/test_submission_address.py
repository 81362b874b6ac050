from __future__ import annotations

import pytest

from raykd.errors import SubmissionError
from raykd.submission.address import resolve, shows_token_in_clear


def test_what_is_given_goes_before_variables() -> None:
    environment = {"RAY_ADDRESS": "http://c:3", "RAY_API_SERVER_ADDRESS": "http://b:2"}
    assert resolve("http://a:1/", environment) == "http://a:1"
    assert resolve(None, environment) == "http://b:2"
    assert resolve(None, {"RAY_ADDRESS": "https://c"}) == "https://c"
    assert resolve(None, {}) == "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "auto", "head:6379", "http://", "http://h:99999", "h", ""]
)
def test_what_is_no_url_of_a_job_api(address: str) -> None:
    if address == "":
        assert resolve(address, {}) == "http://127.0.0.1:8265"
        return
    with pytest.raises(SubmissionError, match="is not the URL of a job API; give the URL"):
        resolve(address, {})
    with pytest.raises(SubmissionError, match=r"^RAY_ADDRESS: "):
        resolve(None, {"RAY_ADDRESS": address})


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SubmissionError) as refused:
        resolve("http://me:hunter2@head:8265", {})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "shows"),
    [
        ("http://127.0.0.1:8265", False),
        ("http://localhost:8265", False),
        ("http://[::1]:8265", False),
        ("https://head", False),
        ("http://10.0.0.3:8265", True),
        ("http://head-svc:8265", True),
    ],
)
def test_where_a_token_can_be_read_on_the_way(address: str, shows: bool) -> None:
    assert shows_token_in_clear(address) is shows
