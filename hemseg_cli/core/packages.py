"""Which version of a package is installed."""

from importlib import metadata


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
