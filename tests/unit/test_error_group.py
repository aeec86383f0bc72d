"""Which errors count as the same one."""

from __future__ import annotations

import time

import pytest

from werk.store.error_group import filter_of, group_of, is_like


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: order 99", "ValueError: order 7"),
        ("ValueError: order 404", "ValueError: order 500"),
        ("E: <Socket at 0x7f3a>", "E: <Socket at 0xFFE1>"),
        (
            "E: no job 9f2c41d8-7b1e-4a55-9c0b-2f6a1d3c8e77",
            "E: no job 0f2c41d8-7b1e-4a55-9c0b-2f6a1d3c8e70",
        ),
        ("E: http://127.0.0.1:500 refused", "E: http://127.0.0.2:501 refused"),
        ("E: https://500.example/404", "E: https://400.example/403"),
        ("E: HTTPConnectionPool(host='a', port=443)", "E: HTTPConnectionPool(host='a', port=444)"),
        ("E: status 2001 of order 5", "E: status 3001 of order 6"),
        ("E: the code 200-123", "E: the code 300-456"),
        ("E: status of order 123", "E: status of order 321"),
        ("E: 404 files are missing", "E: 500 files are missing"),
    ],
)
def test_numbers_that_vary_make_no_difference(one: str, other: str) -> None:
    assert group_of(one) == group_of(other)


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: status {}",
        "ValueError: got status code {} from billing",
        "ApiError: status_code={}, body=''",
        "ApiError: {{'statusCode': {}}}",
        "ApiError: Error code: {} - quota exceeded",
        "E: HTTP {}",
        'E: "HTTP/1.1 {}"',
        "urllib.error.HTTPError: HTTP Error {}: Not Found",
        "requests.exceptions.HTTPError: {} Client Error: Not Found for url: https://a.example/",
        "httpx.HTTPStatusError: Client error '{} Not Found' for url 'https://a.example/'",
        "aiohttp.ClientResponseError: {}, message='Not Found', url='https://a.example/'",
        "E: upstream answered <{} Service Unavailable>",
    ],
)
def test_the_code_of_an_http_response_does(error: str) -> None:
    assert group_of(error.format(404)) != group_of(error.format(503))
    numbered = error.replace("E:", "E: order 12,")
    assert group_of(numbered.format(404)) == group_of(numbered.format(404).replace("12", "9"))


def test_other_numbers_beside_a_code_vary() -> None:
    one = "HTTPError: 404 Client Error: Not Found for url: https://a.example/orders/{}"
    assert group_of(one.format(7)) == group_of(one.format(404))
    assert "404 Client" in group_of(one)


@pytest.mark.parametrize("error", ["order 99", "HTTP 503 of order 7", "0x1f 404 Not Found"])
def test_the_group_of_a_group_is_the_same(error: str) -> None:
    assert group_of(group_of(error)) == group_of(error)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("error", ["no *", "no \\*", "no \\\\*", "*", "\\*", "no", "no \\", ""])
def test_the_filter_of_an_error_matches_it_alone(error: str, exact: bool) -> None:
    others = {error + "*", error + "\\*", error + "x", error[:-1], f"{error[:-1]}\\{error[-1:]}"}
    assert is_like(error, filter_of(error), exact)
    assert [own for own in others - {error} if is_like(own, filter_of(error), exact)] == []


def test_a_hostile_error_takes_no_time() -> None:
    begun = time.process_time()
    for text in ("status" * 5000, "code:" * 5000, "http/" * 5000, "1" * 30000, "0x" * 10000):
        group_of(text)
    assert time.process_time() - begun < 1
