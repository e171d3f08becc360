"""Checks an OpenAPI document, of whatever version it says that it is, against that version's schema."""

import json
import sys

from openapi_spec_validator import validate

with open(sys.argv[1], encoding="utf-8") as file:
    validate(json.load(file))
