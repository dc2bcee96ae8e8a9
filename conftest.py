"""Names that the examples in docstrings use without importing them."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _names_of_examples(doctest_namespace):
    import scgpcl

    doctest_namespace["scgpcl"] = scgpcl
