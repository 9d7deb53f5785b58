"""Files to frozen structs: cortex.toml, neuron.toml, models.toml."""
