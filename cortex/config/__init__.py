"""Files to frozen values: cortex.toml, neuron.toml, models.toml.

`tables` lists every key there is; `lines`, `kinds`, `reading` and `overrides` are the
mechanism that checks a file against it and says what is wrong, all at once; `gateway`,
`neuron` and `models` hold the values with their defaults; `whole` reads a role's file
with its catalogue; `files` finds and checks.
"""
