"""Any OpenAI-compatible engine elsewhere, as an engine of this neuron.

`exchange` is one request over HTTP, `listing` what an upstream has, `engine` one model of
it as a resident, `loading` the harness. Nothing outside this folder speaks to an upstream.
What is said to it and heard from it is the translators' business.
"""

from cortex.harness.upstream.exchange import Endpoint
from cortex.harness.upstream.listing import Told, listed_by
from cortex.harness.upstream.loading import NAME, UpstreamHarness, missing

__all__ = ["NAME", "Endpoint", "Told", "UpstreamHarness", "listed_by", "missing"]
