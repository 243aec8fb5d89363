"""One test a case of this folder's cases_*.py; the chosen ones run in one launch."""

from pathlib import Path

import pytest

from helpers.sharding.launch import case_names, launch

NAMES = [name for file in sorted(Path(__file__).parent.glob("cases_*.py")) for name in case_names(file)]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def outcomes(request, tmp_path_factory):
    chosen = [item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)]
    return launch(chosen, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", NAMES)
def test_on_ranks(name, outcomes):
    if outcomes[name]:
        pytest.fail(outcomes[name], pytrace=False)
