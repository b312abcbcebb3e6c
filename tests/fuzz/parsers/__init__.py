"""Every parser of data that comes from outside, as a function of bytes.

What a parser may raise are our own errors, or what its own docstring says; anything else is a finding. Both drivers
take this table: `tests/fuzz/test_parsers.py` for the gate, and `make fuzz` for millions of inputs.
"""

from tests.fuzz.parsers import documents, model_files, services, texts
from tests.fuzz.parsers.table import Parser

PARSERS: dict[str, Parser] = {
    **documents.PARSERS,
    **model_files.PARSERS,
    **services.PARSERS,
    **texts.PARSERS,
}
"""By name."""
