"""Order of the tests of published models."""

import pathlib


def pytest_collection_modifyitems(items):
    """The tests of a model one behind the other: what they share is compiled once, before it has to be dropped."""
    places = [place for place, item in enumerate(items) if item.path.name == "test_families.py" and _name(item)]
    for place, item in zip(places, sorted((items[place] for place in places), key=_name)):
        items[place] = item


def _name(item) -> str:
    spec = getattr(item, "callspec", None)
    return str(spec.params.get("name", "")) if spec and item.path.parent == pathlib.Path(__file__).parent else ""
