"""Wheel and sdist: what they hold, what they say of themselves, and that each works on its own."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NEEDED = {"torch", "numpy", "typing-extensions"}
EXTRAS = {"monitor"}
KERNEL = "aida/backends/_step_cpu.so"
COMPILER = shutil.which(os.environ.get("CXX") or "c++")


def uv(*arguments):
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    command = [BIN / "uv", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    uv("build", "--quiet", "--sdist", "--no-build-isolation", "--python", sys.executable, "--out-dir", out)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """Made of the sdist, so that nothing is in it that the sdist lacks."""
    out = tmp_path_factory.mktemp("wheel")
    options = ["--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", out]
    uv("build", "--quiet", *options, sdist)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def in_git():
    """Every file of the repository that is not hidden; links to files and folders as what they lead to."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    files = {f for f in listed if f and (ROOT / f).exists() and not re.search(r"(^|/)\.", f)}
    folders = {f for f in files if (ROOT / f).is_dir()}  # links to those, which builds follow
    behind = {f"{f}/{file.name}" for f in folders for file in (ROOT / f).glob("*.py")}
    return (files - folders) | behind


@pytest.fixture(scope="session")
def said(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_sdist_is_the_repository(sdist, in_git):
    with tarfile.open(sdist) as archive:
        held = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile() or m.issym()}
    assert held == in_git | {"PKG-INFO"}
    assert "tests/packaging/test_distributions.py" in held


def test_the_wheel_is_the_package_and_the_kernel(wheel, in_git):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(*licences) == (ROOT / "LICENSE").read_bytes()
    sources = {name.removeprefix("src/") for name in in_git if name.startswith("src/")}
    assert held == sources | ({KERNEL} if COMPILER else set())


def test_the_metadata_is_whole(said):
    assert said["Name"] == "aida-optim"
    assert f'__version__ = "{said["Version"]}"' in (ROOT / "src/aida/__init__.py").read_text()
    assert said["License-Expression"] == "MIT"
    assert said.get_all("License-File") == ["LICENSE"]
    assert set(said.get_all("Provides-Extra")) == EXTRAS
    needs = [r for r in said.get_all("Requires-Dist") if "extra ==" not in r]
    assert {re.match(r"[\w-]+", r)[0] for r in needs} == NEEDED
    assert all(">=" in r for r in said.get_all("Requires-Dist") if not r.startswith("aida-optim["))
    classifiers = said.get_all("Classifier")
    pythons = [c.rpartition(" ")[2] for c in classifiers if re.search(r":: 3\.\d+$", c)]
    assert said["Requires-Python"] == f">={pythons[0]}"
    assert not any(c.startswith("License") for c in classifiers)  # refused beside License-Expression
    for url in said.get_all("Project-URL"):
        assert re.fullmatch(r"[A-Z]\w*, https://\S+", url)


def test_an_index_can_show_the_description(said):
    """Where it is shown there are no files: pictures and links are absolute, or are not there."""
    text = said.get_payload()
    assert said["Description-Content-Type"] == "text/markdown"
    assert "**`Aida`**" in text
    assert "| `AdamW(params)` |" in text  # tables are kept whole
    targets = re.findall(r"\]\(([^)\s]*)", text) + re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", text)
    assert targets
    assert [t for t in targets if not re.match("https:|data:", t)] == []
    assert "](" not in re.sub(r"\[[^\]]*\]\((https:|data:)[^)]*\)", "", text)


@pytest.fixture(scope="session")
def bench_wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    options = ["--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", out]
    uv("build", "--quiet", *options, "packages/aida-bench")
    (built,) = out.glob("*.whl")
    return built


def test_the_benchs_wheel_is_its_package(bench_wheel, in_git, said):
    with zipfile.ZipFile(bench_wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        of_bench = message_from_bytes(archive.read(name))
    place = "packages/aida-bench/src/"
    assert held == {name.removeprefix(place) for name in in_git if name.startswith(place)}
    assert of_bench["Name"] == "aida-bench"
    assert of_bench["Version"] == said["Version"]
    assert of_bench["Requires-Python"] == said["Requires-Python"]


def test_the_benchs_wheel_brings_the_command(bench_wheel, wheel, tmp_path):
    """Beside this environment's packages, but of the two wheels alone."""
    place = tmp_path / "only"
    uv("pip", "install", "--quiet", "--no-deps", "--target", place, bench_wheel, wheel)
    command = [
        sys.executable,
        "-c",
        "import aida_bench.__main__ as m; print(m.__file__); m.main()",
        "--version",
    ]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(str(place))
    assert done.stdout.splitlines()[1] == f"aida {version('aida-optim')}"


@pytest.fixture(scope="session")
def jax_wheel(tmp_path_factory):
    """Made of the sdist."""
    out = tmp_path_factory.mktemp("jax")
    options = ["--no-build-isolation", "--python", sys.executable, "--out-dir", out]
    uv("build", "--quiet", *options, "packages/aida-jax")
    (built,) = out.glob("*.whl")
    return built


def test_the_jax_wheel_is_its_package_with_what_it_shares(jax_wheel, in_git, said):
    with zipfile.ZipFile(jax_wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        of_jax = message_from_bytes(archive.read(name))
    place = "packages/aida-jax/src/"
    assert held == {name.removeprefix(place) for name in in_git if name.startswith(place)}
    assert of_jax["Name"] == "aida-jax"
    assert of_jax["Version"] == said["Version"]
    assert of_jax["Requires-Python"] == said["Requires-Python"]
    needs = [r for r in of_jax.get_all("Requires-Dist") if "extra ==" not in r]
    assert {re.match(r"[\w-]+", r)[0] for r in needs} == {"jax", "optax", "numpy"}


def test_what_both_wheels_share_is_the_same_bytes(jax_wheel, wheel, tmp_path):
    """As they are installed: one place in the repository, and a copy in each."""
    uv("pip", "install", "--quiet", "--no-deps", "--target", tmp_path, jax_wheel, wheel)
    links = [x for x in (ROOT / "packages/aida-jax/src/aida_jax").rglob("*") if x.is_symlink()]
    names = [x.relative_to(ROOT / "packages/aida-jax/src/aida_jax") for x in links]
    assert Path("family.py") in names
    for name in names:
        one, other = tmp_path / "aida" / name, tmp_path / "aida_jax" / name
        files = [x.relative_to(one) for x in one.rglob("*.py")] if one.is_dir() else [Path()]
        for file in files:
            assert not (other / file).is_symlink()
            assert (one / file).read_bytes() == (other / file).read_bytes(), name / file


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    place = tmp_path_factory.mktemp("empty") / "venv"
    uv("venv", "--quiet", "--python", sys.executable, place)
    return place


def run_there(empty, script, folder, *arguments):
    """What the environment's own Python prints, in a folder of its own and without this checkout."""
    shutil.copy(Path(__file__).with_name(script), folder)
    command = [empty / "bin" / "python", "-I", script, *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIDA_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_beside_torch_alone(kind, empty, said, tmp_path, request):
    built = request.getfixturevalue(kind)
    # This environment's torch; the others, since named, at their floors where UV_RESOLUTION is lowest-direct.
    needed = [f"torch=={version('torch').partition('+')[0]}", *sorted(NEEDED - {"torch"})]
    options = ["--quiet", "--python", empty, "--reinstall-package", "aida-optim"]
    uv("pip", "install", *options, built, *needed)
    arguments = [said["Version"], "kernel" if COMPILER else "none"]
    assert run_there(empty, "installed.py", tmp_path, *arguments) == "works\n"


def test_a_new_user_goes_all_the_way(wheel, empty, said, tmp_path):
    """From an empty environment: install, check, swap one line, watch stepsizes, convert old checkpoints."""
    needed = [f"torch=={version('torch').partition('+')[0]}", *sorted(NEEDED - {"torch"})]
    peer = f"adabelief-pytorch=={version('adabelief-pytorch')}"
    options = ["--quiet", "--python", empty, "--reinstall-package", "aida-optim"]
    uv("pip", "install", *options, wheel, *needed, peer)
    command = [empty / "bin" / "python", "-I", "-m", "aida"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"aida {said['Version']}, " in done.stdout
    assert ("fused (C++, " in done.stdout) == (COMPILER is not None)
    assert run_there(empty, "new_user.py", tmp_path).splitlines()[-1] == "works"


def test_uv_installs_what_pip_installs():
    """A source of the workspace would be linked to, not copied, where it does not say otherwise."""
    for file in (ROOT / "pyproject.toml", ROOT / "packages/aida-bench/pyproject.toml"):
        sources = tomllib.loads(file.read_text())["tool"]["uv"]["sources"]
        assert sources
        assert all(source == {"workspace": True, "editable": False} for source in sources.values())
