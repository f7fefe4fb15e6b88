"""Pure verdicts about nodes: which are well, suspect, lost or held back, from what probes, routers and engine say."""
