"""cortex: a few unlike GPU boxes as one OpenAI-compatible LLM service.

The floors, from the ground up; imports go down only, and a test holds it.

0. Words: `errors`, `events`, `ask`, `places`, `catalogue`, `units`. What can be said.
1. Shapes: `config` (files to frozen values), `wire` (bodies and frames to values and back).
2. Judgement: `router`, `evictor`, `translator`, `text`. Pure: no IO, no clock, no log.
3. Books: `ledger` (who lives and sits where), `metrics`, `logs`. Synchronous, so atomic under trio.
4. Machinery: `dispatch`, `harness`, `web`, `weights`, `workers`. What touches threads, processes and files.
5. Roles: `gateway`, `neuron`, `status`. Wiring, and the routes. `connect`: settings of clients.
6. Door: `cli`.

`router`, `evictor`, `translator`, `ledger` and `dispatch` serve both roles: in the
gateway a place is a neuron, in a neuron a place is a device.
"""

__version__ = "0.1.0"
