"""Prints, as JSON, the calls of the AWS CLI by service: each call's options, and those that it does not do without.

Run by the Python of `script/bootstrap aws`, which has botocore: of its models the CLI makes its calls.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import botocore.session
from botocore import xform_name

session = botocore.session.get_session()
calls: dict[str, Any] = {}
for service in sys.argv[1:]:
    model = session.get_service_model(service)
    calls[service] = {}
    for name in model.operation_names:
        shape = model.operation_model(name).input_shape
        members, required = (shape.members, shape.required_members) if shape else ({}, [])
        calls[service][xform_name(name, "-")] = [[xform_name(member, "-") for member in members],
                                                 [xform_name(member, "-") for member in required]]
print(json.dumps(calls))
