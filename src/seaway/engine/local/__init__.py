"""The local engine: supervised processes on this machine, owned by the node agent."""
