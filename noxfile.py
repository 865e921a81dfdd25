"""Sessions: `nox -l` lists them; each installs the tested set of versions from constraints.txt.

uv makes the environments (seconds, once packages are cached). Arguments after `--` go to the
command.
"""

import os
import pathlib

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests"]

CONSTRAINTS = ("--constraint", "constraints.txt")
BENCHES = (
    "fid_coco",
    "ablate_retrieval",
    "ablate_pretraining",
    "ablate_positions",
    "ablate_decoding",
    "choose_decoding",
    "equal_compute",
    "scaling",
    "latency",
    "rfid",
    "verify_fid",
    "train_speed",
    "bank_speed",
    "mutants",
    "faults",
    "tasks",
    "outputs",
)
TYPED = (
    "cm3leon/__init__.py", "cm3leon/config.py", "cm3leon/data/npz.py", "cm3leon/cli/reports.py",
    "cm3leon/cli/score.py", "cm3leon/decoding/config.py", "cm3leon/errors.py",
    "cm3leon/evaluation/pictures.py", "cm3leon/evaluation/score.py", "cm3leon/loading.py",
    "cm3leon/pipeline.py", "cm3leon/reports/compare.py", "cm3leon/retrieval/retriever.py",
)  # fmt: skip
SPEED = ("bank_speed", "latency", "train_speed")  # they lie in benchmarks/speed


def install(session: nox.Session, extras: str) -> None:
    """The package itself, editable, with the tested versions of what it needs."""
    session.install(*CONSTRAINTS, "-e", f".[{extras}]")


def quiet() -> dict[str, str]:
    """No network at run time; the plots need no display."""
    return {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Pyright's rules over what `import cm3leon` offers; basedpyright is pyright as a wheel."""
    install(session, "bench,report")
    session.install("basedpyright==1.40.2")
    session.run("basedpyright", *TYPED)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite; `-- -k name` for a part."""
    install(session, "bench,report,dev")
    # One thread: the tests' products are small, and a busy second core stalls a pair of threads.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # Half of the tests each, in order, then of what is left: `-- -n 0` is one process.
    workers = ("-n", str(min(4, os.cpu_count() or 1)), "--dist", "worksteal")
    session.run("pytest", *workers, *session.posargs, env=quiet() | threads)


def module_of(name: str) -> str:
    """The module that a benchmark is."""
    return f"benchmarks.speed.{name}" if name in SPEED else f"benchmarks.{name}"


def bench(name: str) -> None:
    """One session per benchmark, of the same name."""

    @nox.session(name=name, tags=["bench"])
    def run(session: nox.Session) -> None:
        install(session, "bench,report")
        if name == "mutants":  # it runs the tests
            install(session, "dev")
        if "--peers" in session.posargs:
            session.install(*CONSTRAINTS, "transformers")
        session.run("python", "-m", module_of(name), *session.posargs, env=quiet())

    run.func.__doc__ = f"The benchmark {module_of(name)}."


for _name in BENCHES:
    bench(_name)


@nox.session
def train_baselines(session: nox.Session) -> None:
    """Retrain what lies under baselines/scenes/ (hours on a CPU); continues where it stopped."""
    install(session, "bench,report")
    session.run("python", "-m", "baselines.train", *session.posargs, env=quiet())


@nox.session
def gallery(session: nox.Session) -> None:
    """docs/gallery.md: what each shipped model draws, by the commands that the page prints."""
    install(session, "bench,report")
    session.run("python", "-m", "baselines.gallery", *session.posargs, env=quiet())


@nox.session
def frechet_speed(session: nox.Session) -> None:
    """Our Fréchet distance timed against other packages' on the same inputs."""
    install(session, "bench,report")
    session.install(*CONSTRAINTS, "torch-fidelity")
    session.run("python", "-m", "benchmarks.speed.frechet_speed", *session.posargs, env=quiet())


@nox.session
def codes(session: nox.Session) -> None:
    """What the image tokenizer's codes tell and lose: entropies, and objects read back right."""
    install(session, "bench,report")
    session.run("python", "-m", "benchmarks.evaluate.codes", *session.posargs, env=quiet())


@nox.session
def perf(session: nox.Session) -> None:
    """Time the hot functions by pytest-benchmark (`-- -k name` for a part)."""
    install(session, "bench,report,dev")
    session.run("pytest", "perf", *session.posargs, env=quiet() | {"OMP_NUM_THREADS": "1"})


@nox.session
def compare(session: nox.Session) -> None:
    """Two runs side by side: `-- RUN_A RUN_B`, each a record's path or bench/system."""
    install(session, "report")
    session.run("python", "-m", "cm3leon.reports.compare", *session.posargs, env=quiet())


@nox.session
def regress(session: nox.Session) -> None:
    """Is this revision worse? `-- --base REV`; timings by benchmarks.speed.interleave first."""
    install(session, "report")
    session.run("python", "-m", "cm3leon.reports.regress", *session.posargs, env=quiet())


@nox.session
def dashboard(session: nox.Session) -> None:
    """One page of all records, reports/out/dashboard/index.html; `-- --picture` for a PNG too."""
    install(session, "report")
    session.run("python", "-m", "cm3leon.reports.dashboard.page", *session.posargs, env=quiet())


@nox.session
def report(session: nox.Session) -> None:
    """The paper-style report of all results: PDF, HTML, and JSON that traces every number."""
    install(session, "report")
    session.run("python", "-m", "cm3leon.reports.paper.main", *session.posargs, env=quiet())


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as pages in site/, warnings as errors; opens from a disk."""
    install(session, "dev")
    session.run("mkdocs", "build", *session.posargs, env=quiet() | {"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def notebooks(session: nox.Session) -> None:
    """Run docs/notebooks/ by Jupyter and keep what they give; a test runs them without it."""
    install(session, "bench,report")
    session.install("nbclient", "ipykernel")
    found = sorted(map(str, pathlib.Path("docs/notebooks").glob("*.ipynb")))
    noise = {"PYTHONWARNINGS": "ignore:IProgress not found"}  # of tqdm, which finds no widgets
    session.run("jupyter-execute", "--inplace", *found, env=quiet() | noise)


@nox.session(venv_backend="none")
def house(session: nox.Session) -> None:
    """Count the house (modules, functions, lines, files to touch), draw docs/house.svg."""
    session.run("python", "-m", "tests.house.house", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """Write constraints.txt anew: names and versions only."""
    session.install("uv")
    session.run(
        "uv", "pip", "compile", "pyproject.toml", "--all-extras", "--python-version", "3.11",
        "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
        "--output-file", "constraints.txt", *session.posargs,
        env={"UV_PYTHON_PREFERENCE": os.environ.get("UV_PYTHON_PREFERENCE", "system")},
    )  # fmt: skip
