"""The gauges of a gateway that nobody's deed sets: looked up every few seconds and told.

A scrape reads them from a thread, where nothing else may be touched: so they are put in the
books here, on the loop.
"""

from typing import Final

import trio

from cortex.gateway.report import Report
from cortex.keys import Accounts
from cortex.metrics import Metrics

# As often as Prometheus could want to know.
TELL_S: Final = 2.0


async def tell(metrics: Metrics, report: Report, accounts: Accounts) -> None:
    """Keep the gauges fresh until cancelled."""
    while True:
        metrics.unservable(len(report.unservable()))
        metrics.refused_files(len(report.faults))
        metrics.keys_are(accounts.names())
        metrics.key_days(accounts.days())
        await trio.sleep(TELL_S)
