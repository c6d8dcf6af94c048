"""What the openssl command says and makes, without a file."""

from __future__ import annotations

import re
import subprocess

import pytest

from iotd.host import openssl
from tests.certificates import Certificates


@pytest.mark.parametrize("kind, word", [("ec-p256", "prime256v1"), ("rsa-2048", "(2048 bit")])
def test_a_key_its_request_and_its_public_half(kind: str, word: str) -> None:
    key = openssl.new_key(kind)
    request = openssl.request(key, "a/CN=b\nc")
    said = subprocess.run(["openssl", "req", "-noout", "-verify", "-text", "-pubkey"], input=request,
                          capture_output=True, text=True, check=True).stdout
    assert openssl.public_key(key) in said and word in said and re.search("Subject: CN ?= ?a_CN_b_c", said)


def test_what_a_certificate_says(certificates: Certificates) -> None:
    leaf = openssl.certificate(certificates.client.cert.read_text())
    root = openssl.certificate(certificates.ca.read_text())
    assert (leaf.name, leaf.issuer, leaf.is_authority) == ("test-thing", root.subject, False)
    assert root.is_authority and root.subject == root.issuer
    assert 30 * 86400 <= leaf.ends_at - leaf.begins_at <= 32 * 86400
    assert leaf.public_key == openssl.public_key(certificates.client.key.read_text())


def test_a_name_with_signs_in_it_is_the_name(certificates: Certificates) -> None:
    named = certificates.authority.issue("a,b CA:TRUE")
    found = openssl.certificate(named.cert.read_text())
    assert (found.name, found.is_authority) == ("a,b CA:TRUE", False)


@pytest.mark.parametrize("ask", [openssl.certificate, openssl.public_key])
@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_and_no_key_is_an_error(ask: object, text: str) -> None:
    assert callable(ask)
    with pytest.raises(ValueError, match="exit status 1"):
        ask(text)
