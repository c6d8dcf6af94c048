"""`iotd policy`: what the broker has to allow this configuration, as a policy of AWS or an access list of mosquitto."""

from __future__ import annotations

import json
import os
from typing import Any

from iotd.cli import output
from iotd.cli.load import read
from iotd.config import parse, policy
from iotd.errors import EXIT_CONFIG, EXIT_FAULT


def run(options: Any) -> int:
    """Print it, and what it is wider than on stderr. Exit status 78 where the configuration does not say enough."""
    settings = read(options.file, os.getcwd(), policy.ANY_HOST, policy.THING).parsed.settings
    uses, where = parse.uses(settings), policy.Where(options.region, options.account)
    if options.claim:
        claim = parse.claim(settings)
        if claim is None:
            output.complain(f"{options.file}: has no section provision, so nothing asks for a certificate with a claim")
            return EXIT_CONFIG
        documents = policy.for_claim(claim, where)
    else:
        for warning in policy.wider(settings, uses):
            output.complain(f"{options.file}: warning: {warning}")
        if options.mosquitto:
            return 0 if output.say("\n".join(policy.for_mosquitto(settings, uses))) else EXIT_FAULT
        documents = policy.for_device(settings, uses, where)
    if len(documents) > policy.MAX_POLICIES:
        output.complain(f"{options.file}: warning: these are {len(documents)} policies, and a certificate has at most "
                        f"{policy.MAX_POLICIES}; give topics a common beginning, and subscribe one wildcard")
    text = json.dumps(documents[0] if len(documents) == 1 else documents, ensure_ascii=False, indent=2)
    return 0 if output.say_json(text) else EXIT_FAULT
