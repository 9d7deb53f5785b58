"""The neuron role: one host, its devices, the models that live there."""

from cortex.neuron.service import run

__all__ = ["run"]
