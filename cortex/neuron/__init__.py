"""The neuron role: one host, its devices, the models that live there."""

from cortex.neuron.service import Process, run

__all__ = ["Process", "run"]
