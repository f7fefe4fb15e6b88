"""What the lab raises."""


class LabError(Exception):
    """The test cluster cannot do what was asked; the text says what to do next."""
