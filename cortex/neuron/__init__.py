"""The neuron role."""
