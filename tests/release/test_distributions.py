"""The wheel and the source distribution: what they hold, and that they work once installed.

Without the network: the packages that they need are those of the environment that runs the tests.
`build` makes the wheel of the source distribution, so that the one that is tried here stands for
both; `make dist` installs each.
"""

import sys
import sysconfig
from pathlib import Path

import pytest

from tests.release import distributions

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (distributions.ROOT / ".git").exists(), reason="git tells which files there are"
    ),
]
OFFLINE = ("--no-index", "--no-deps", "--ignore-installed")
CODE = ("lobes/", "pretrained/", "recipes/")  # of the wheel
PAGE = ("recipes/common/report/page.css", "recipes/common/report/page.html.j2")
GENERATED = ("PKG-INFO", "setup.cfg", "learn2diss.egg-info/")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folder of both, built by the setuptools of this environment."""
    pytest.importorskip("build", reason="build comes with the extra dev")
    folder = tmp_path_factory.mktemp("packages")
    distributions.build(folder, ["--no-isolation"])
    return folder


def installed(package, folder):
    """Install a package beside this environment's packages; return the Python that finds both."""
    python = distributions.new_environment(folder)
    places = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", places))
    beside = [place for place in sys.path if "site-packages" in place]
    (packages / "beside.pth").write_text("\n".join(beside), encoding="utf-8")
    distributions.install(python, package, OFFLINE)
    return python


def test_both_hold_what_they_should(packages):
    tracked = distributions.tracked_files()
    found = distributions.files_of(packages / distributions.WHEEL)
    code = {path for path in tracked if path.startswith(CODE) and path.endswith(".py")}
    assert {path for path in found if ".dist-info/" not in path} == code | set(PAGE)
    assert f"{distributions.NAME}.dist-info/licenses/LICENSE" in found
    found = distributions.files_of(packages / distributions.SOURCE)
    assert [path for path in found if not path.startswith(GENERATED)] == tracked


def test_the_wheel_of_the_source_distribution_works_where_it_is_installed(packages, tmp_path):
    python = installed(packages / distributions.WHEEL, tmp_path / "environment")
    assert distributions.use(python, tmp_path).startswith("learn2diss ")
