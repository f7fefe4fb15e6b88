"""The control loop: loads facts, asks the decisions, applies the plan."""
