"""Several processes that serve as one: a supervisor, and its workers.

The supervisor opens the listeners and serves nothing itself. All workers accept from the one socket that
they inherit, rather than each from its own (SO_REUSEPORT): what waits in the backlog of a process that
dies or hangs would be lost or stuck with it, and so the next worker takes it. `crowd` makes up for what the
kernel does not do then, which is to spread connections evenly.

`spawn` begins a worker, `supervisor` keeps them alive, `exchange` passes words between them, `pages` adds
up what they count, and `crew` is what a worker has of all this. What they serve is not known here.
"""
