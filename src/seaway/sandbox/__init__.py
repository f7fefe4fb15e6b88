"""Commands of apps under user ids of their own, in a view of the machine that holds nothing of others."""
