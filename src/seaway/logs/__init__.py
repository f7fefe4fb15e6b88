"""Output of instances as labelled JSON lines: written once, bounded on disk, readable afterwards."""
