"""What everyone gets wrong in YAML is named where it is, with what was meant."""

from __future__ import annotations

import pytest

from iotd.config.parse import Loaded, parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity

IDENTITY = Identity("pi-7", "0123")
PAYLOAD = "mqtt: {host: b}\npublish:\n  - topic: a\n    every: 30s\n    payload:\n      "


def loaded(text: str) -> Loaded:
    return parse(text, "f", IDENTITY)


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(text)
    [line] = error.value.lines()
    return line.removeprefix("f:")


@pytest.mark.parametrize("text, found", [
    (PAYLOAD + "at: {timestamp}\n", '6: publish[0].payload.at: expected what JSON can say, found {timestamp} without '
     'quotes, which YAML reads as a mapping; write "{timestamp}"'),
    (PAYLOAD + "at: [{uptime}]\n", "6: publish[0].payload.at[0]: expected what JSON can say, found {uptime} without"),
    (PAYLOAD + "at: {a: 1}\n    qso: 1\n", "7: publish[0].qso: unknown key; did you mean qos?"),
    ("mqtt: {host: b}\nthing: {hostname}\n", "2: thing: expected text, found {hostname} without quotes"),
    ("mqtt: {host: b}\nsubscribe: [{topic: {thing}}]\n", "2: subscribe[0].topic: expected text, found {thing} without"),
])
def test_a_placeholder_without_quotes(text: str, found: str) -> None:
    assert problem(text).startswith(found)


@pytest.mark.parametrize("written, sent", [
    ("off", "false"), ("NO", "false"), ("yes", "true"), ("1.10", "1.1"), ("01234", "668"), ("12:30", "750"),
    ("0x10", "16"), ("1_000", "1000"),
])
def test_what_yaml_1_1_makes_of_a_payload_is_a_warning(written: str, sent: str) -> None:
    [warning] = loaded(f"{PAYLOAD}a: {written}\n").warnings
    assert (warning.line, warning.key) == (6, "publish[0].payload.a")
    assert warning.text.startswith(f"'{written}', which YAML reads as {sent}, is sent as {sent};")
    assert warning.render("f", "warning: ").startswith("f:6: warning: publish[0].payload.a: ")


@pytest.mark.parametrize("written", [
    "true", "false", "5", "-5", "1.5", "1.0", "'off'", "null", "~", "", "text", "1e3x"])
def test_what_is_sent_as_it_is_written_is_none(written: str) -> None:
    assert loaded(f"{PAYLOAD}a: {written}\n").warnings == ()


@pytest.mark.parametrize("text, found", [
    ('mqtt: {host: b}\nthing: "abc\nlog: {level: info}\n', "2: is no YAML: 'thing: \"abc': the quote that is opened"),
    ("mqtt: {host: b}\nthing: 'abc\nlog: {level: info}\n", "2: is no YAML: \"thing: 'abc\": the quote that is opened"),
    ("mqtt: {host: b\nthing: abc\nlog: info\n", "1: is no YAML: 'mqtt: {host: b': the bracket that is opened here"),
    ("mqtt: {host: b}\nsubscribe: [{topic: a}\nthing: abc\n", "2: is no YAML: 'subscribe: [{topic: a}': the bracket"),
    ("mqtt: [\n", "1: is no YAML: 'mqtt: [': the bracket"), ("mqtt: {\n\n\n", "1: is no YAML: 'mqtt: {': the bracket"),
    ("mqtt:\n  host:broker\n  port: 1883\n", "2: is no YAML: 'host:broker': a blank is missing behind the colon; write "
     "host: broker"),
    ("mqtt:\n  host: broker\n  port:1883\n", "3: is no YAML: 'port:1883': a blank is missing behind the colon"),
    ("mqtt:\n  host:broker\n", "1: mqtt: expected a mapping of keys, found text 'host:broker'; write host: broker"),
    ("mqtt:\n  host: broker\n    port: 1883\n", "3: is no YAML: 'port: 1883': its indentation is another than"),
    ("mqtt:\n  host: broker\n port: 1883\n", "3: is no YAML: 'port: 1883': its indentation is another than"),
    ("\t\nmqtt:\n  host: broker\n", "1: is no YAML: '': it has a tab; indent with spaces"),
    ("mqtt:\n  host: broker\n\tport: 1\n", "3: is no YAML: 'port: 1': it has a tab; indent with spaces"),
])
def test_a_mistake_is_named_in_the_line_where_it_begins(text: str, found: str) -> None:
    assert problem(text).startswith(found)


@pytest.mark.parametrize("written, line, found", [
    ("port 8883", 3, "'port 8883': the colon is missing behind port; write port: 8883"),
    ("port 8883   # or 443: that passes", 3, "'port 8883': the colon is missing behind port; write port: 8883"),
    ("port = 8883", 3, "'port = 8883': the colon is missing behind port; write port: 8883"),
    ("port\u00a0: 8883", 3, None), ("port:\u00a08883", 3, "'port:\\xa08883': it has a blank that is none to YAML"),
    ("\u3000port 8883", 3, "'\\u3000port 8883': it has a blank that is none to YAML"),
    ("port\uff1a8883", 3, "'port\uff1a8883': its colon is another character; write port: 8883"),
    ("tls {ca: system, cert: none}", 3, "'tls {ca: system, cert: none}': the colon is missing behind tls; write tls:"),
    ('"port: 8883"', 3, "'\"port: 8883\"': no colon and blank stand behind its key; write key: value"),
    ("username: @home", 3, "'username: @home': a text that begins with @ has to stand in quotes"),
    ("username: *home", 3, "'username: *home': a text that begins with * has to stand in quotes"),
    ("username: %h", 3, "'username: %h': a text that begins with % has to stand in quotes"),
    ("username: `hostname`", 3, "'username: `hostname`': a text that begins with ` has to stand in quotes"),
    ("username: {thing}/a", 3, "'username: {thing}/a': a text that begins with {thing} has to stand in quotes: \""),
    ("username: it is: good", 3, "'username: it is: good': a text with a colon and a blank in it has to stand in quot"),
    ('username: "C:\\certs"', 3, "'username: \"C:\\\\certs\"': a backslash in double quotes begins an escape"),
    ("tls: {ca: “{a}”}", 3, "'tls: {ca: “{a}”}': its quotes are those of a document; YAML knows"),
    ("<<<<<<< HEAD", 3, "'<<<<<<< HEAD': a merge was left half done here; keep one side of it"),
    ("password hunter2", 3, "'password …': the colon is missing behind password; write password: …"),
    ("password hunter2", 3, None),
])
def test_a_slip_is_named_where_it_is_and_not_where_the_parser_stumbled(
    written: str, line: int, found: str | None
) -> None:
    said = problem(f"mqtt:\n  host: b\n  {written}\n  keepalive: 60s\nsubscribe:\n  - topic: a\n".replace(
        "\n  <", "\n<"))
    assert said.startswith(f"{line}: is no YAML: {found}" if found else f"{line}: ")
    assert "hunter2" not in said and "#" not in said


@pytest.mark.parametrize("text, found", [
    ("thing pi\nmqtt: {host: b}\n", "1: is no YAML: 'thing pi': the colon is missing behind thing; write thing: pi"),
    (" thing: pi\nmqtt: {host: b}\n", "2: is no YAML: 'mqtt: {host: b}': its indentation is another than that of its"),
    ("mqtt:\n  host: 'b\n" + "  # a comment\n" * 20 + "# that's it\nlog: {}\n",
     "2: is no YAML: \"host: 'b\": the quote that is opened here is never closed"),
])
def test_a_slip_that_shows_far_behind_it_is_named_where_it_is(text: str, found: str) -> None:
    assert problem(text).startswith(found)


@pytest.mark.parametrize("item, line, found", [
    ('  - topic "a/{thing}"\n    qos: 1\n', 3, "the colon is missing behind topic; write topic: \"a/{thing}\""),
    ("  -topic: a\n    qos: 1\n", 3, "a blank is missing behind the dash; write - topic: a"),
    ('  - run: [{at:"{topic}", up:"{payload}"}]\n', 3, "a blank is missing behind the colon of at"),
    ("  — topic: a\n    qos: 1\n", 3, "its dash is another character; an item of a list begins with - and a blank"),
    ('  - topic: "a\n    qos: 1\n  - topic: "b"\n', 3, "the quote that is opened here is never closed"),
    ("  - topic: a\n  qos: 1\n", 4, "an item of a list stands before it and it is none; take the dash"),
    ("  - topic: a\n     qos: 1\n", 4,
     "its indentation is another than that of its neighbours (5 blanks, after 4 in line 3); begin it in the same"),
])
def test_a_slip_in_a_list_too(item: str, line: int, found: str) -> None:
    said = problem(f"mqtt: {{host: b}}\nsubscribe:\n{item}".replace("\n", "\r\n"))
    assert said.startswith(f"{line}: is no YAML: ") and f": {found}" in said


@pytest.mark.parametrize("text, found", [
    ("mqtt: {host: b}\nlog:\n  level info\n",
     "2: log: expected a mapping of keys, found text 'level info'; write level: info"),
    ("mqtt:\n  password hunter2\n", "1: mqtt: expected a mapping of keys, found text 'password …'"),
    ("mqtt: {host: b, tls: {ca:system, cert: none}}\n", "1: mqtt.tls.ca:system: unknown key; write ca: system, with a"),
    ("mqtt:\n  host: b\n  tls:\n  ca: system\n", "4: mqtt.ca: unknown key; did you mean ca under mqtt.tls?"),
    ("mqtt: {host: b}\nPublish: []\n", "2: Publish: unknown key; did you mean publish?"),
    ("mqtt: {host: b}\nLOG: {}\n", "2: LOG: unknown key; did you mean log?"),
    ("mqtt: {host: b, port: '8883'}\n",
     "1: mqtt.port: expected a whole number from 1 to 65535, found text '8883'; write 8883"),
    ("mqtt: {host: b, port: 1e3}\n", "1: mqtt.port: expected a whole number from 1 to 65535, found text '1e3'"),
    ("mqtt: {host: b}\nsubscribe:\n  - topic: #\n",
     "3: subscribe[0].topic: expected text, found nothing; one that begins with # or & has to stand in quotes"),
])
def test_what_is_yaml_and_not_meant_says_what_to_write(text: str, found: str) -> None:
    assert problem(text).startswith(found) and "hunter2" not in problem(text)


@pytest.mark.parametrize("written, says", [
    ("“warm”", "“ is no quote in YAML but a part of the text"), ("„warm“", "„ is no quote"),
    ("warm\u200b", "U+200B is no blank in YAML but a part of the text"), ("\u00a0warm", "U+00A0 is no blank"),
    ("1e3", "'1e3', which YAML reads as text, is sent as text; write 1000 to send the number"),
    ("08", "'08', which YAML reads as text, is sent as text; write 8 to send the number"),
])
def test_what_is_sent_as_another_text_than_is_seen_is_a_warning(written: str, says: str) -> None:
    [warning] = loaded(f"{PAYLOAD}a: {written}\n").warnings
    assert (warning.line, warning.key) == (6, "publish[0].payload.a") and warning.text.startswith(says)
    assert loaded(f'{PAYLOAD}a: "{written}"\n').warnings == ()


@pytest.mark.parametrize("text, meant", [
    ("mqtt: {host: b, clientid: x}\n", "thing at the top of the file"), ("mqtt: {broker: b, host: b}\n", "host"),
    ("mqtt: {host: b}\nbroker: b\n", "host under mqtt"), ("mqtt: {host: b}\nclient_id: x\n", "thing"),
    ("mqtt: {host: b}\nwifi: {ssid: [x]}\n", "essid"),
    ("mqtt: {host: b}\npublish: [{topic: a, every: 1s, payload: {}, interval: 5s}]\n", "every"),
    ("mqtt: {host: b}\nshadows: [{checks: [{service: ssh}]}]\n", "unit"),
])
def test_what_others_call_it_is_known(text: str, meant: str) -> None:
    assert problem(text).endswith(f"unknown key; did you mean {meant}?")


@pytest.mark.parametrize("text, key, written", [
    ("mqtt: {host: b, tls: {ca: ~/ca.pem}}\n", "mqtt.tls.ca", "~/ca.pem"),
    ("mqtt: {host: b, tls: {cert: ~pi/c.pem, key: /k}}\n", "mqtt.tls.cert", "~pi/c.pem"),
    ("mqtt: {host: b, tls: {cert: /c, key: $HOME/k.pem}}\n", "mqtt.tls.key", "$HOME/k.pem"),
    ("mqtt: {host: b}\nprovision: {template: t, claim: {key: ~/k.pem}}\n", "provision.claim.key", "~/k.pem"),
    ("mqtt: {host: b}\nvalues: {a: {file: ~/level}}\n", "values.a.file", "~/level"),
    ("mqtt: {host: b}\nvalues: {a: {command: [~/bin/level]}}\n", "values.a.command[0]", "~/bin/level"),
    ("mqtt: {host: b}\nvalues: {a: {command: ['${HOME}/level']}}\n", "values.a.command", "${HOME}/level"),
    ("mqtt: {host: b}\nsubscribe: [{topic: a, run: [sh, ~/horn]}]\n", "subscribe[0].run[1]", "~/horn"),
    ("mqtt: {host: b}\nshadows: [{checks: [{file: ~/alive, max_age: 1m}]}]\n", "shadows[0].checks[0].file", "~/alive"),
    ("mqtt: {host: b}\nshadows: [{checks: [{disk: ~/, min_free: 1MB}]}]\n", "shadows[0].checks[0].disk", "~/"),
])
def test_a_path_that_only_a_shell_would_find_is_to_be_written_whole(text: str, key: str, written: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(text)
    assert f"{key}: expected a path from /, found {written!r}; there is no shell that would expand {written[0]}" \
        in " ".join(error.value.lines())


@pytest.mark.parametrize("text", [
    "subscribe: [{topic: a, run: [echo, '$5', '~x y/z']}]\n", "mqtt: {host: b, tls: {ca: a~b/c.pem}}\n"])
def test_what_is_no_such_path_is_none(text: str) -> None:
    assert loaded(text if "mqtt" in text else "mqtt: {host: b}\n" + text)
