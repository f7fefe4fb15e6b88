"""Moving an app's traffic from one release to the next: pure decisions, no I/O."""
