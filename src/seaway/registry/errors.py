"""What can be wrong with a registry or an image in it; each message says what to do."""

from __future__ import annotations


class RegistryError(Exception):
    """The registry did not do what was asked; the message is for users."""


class BadReference(RegistryError):
    """A text is not the name of an image."""


class Unreachable(RegistryError):
    """The registry does not answer, or not in HTTP, or not yet again after several tries."""


class Unauthorised(RegistryError):
    """The registry wants other credentials, or those given may not do this."""


class NotThere(RegistryError):
    """There is no such repository, tag, manifest or blob."""


class NotAnImage(RegistryError):
    """What is there is not a container image that Seaway can use."""


class TooLarge(RegistryError):
    """A manifest or configuration is bigger than any image's is."""


class Damaged(RegistryError):
    """What came is not what its digest says."""


class Unsupported(RegistryError):
    """The registry does not do this at all (deleting, for example)."""
