"""A metrics page read back: its samples by name and labels."""

from collections.abc import Callable

import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.fake_neuron import Open


class Page:
    """The samples of a metrics page, by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples called so whose labels are these, among others."""
        named = (each for each in self.samples if each.name == f"cortex_{name}")
        found = [each.value for each in named if labels.items() <= each.labels.items()]
        assert found, f"{name} with {labels} is not on the page"
        return sum(found)

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """Every sample called so that is not zero, by its labels' names and values."""
        return {
            tuple(part for pair in sorted(each.labels.items()) for part in pair): each.value
            for each in self.samples
            if each.name == f"cortex_{name}" and each.value
        }

    def labels(self, label: str) -> set[str]:
        """Every value of a label."""
        return {each.labels[label] for each in self.samples if label in each.labels}


async def page_of(gateway: Open) -> Page:
    return Page(await gateway.page())


async def later(gateway: Open, holds: Callable[[Page], bool]) -> Page:
    """The first page of which it holds: one is kept for a second."""
    while not holds(page := await page_of(gateway)):  # noqa: ASYNC110 - asked over HTTP
        await trio.sleep(0.02)
    return page
