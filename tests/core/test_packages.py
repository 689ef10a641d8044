import numpy

from hemseg_cli.core.packages import package_version


def test_version_is_the_installed_one() -> None:
    assert package_version("numpy") == numpy.__version__
    assert package_version("no-such-package-at-all") is None
