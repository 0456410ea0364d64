"""Where the journal is kept: the contract, and the backends that pass it."""
