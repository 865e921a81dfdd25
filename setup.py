"""What pyproject.toml cannot say: a wheel holds the shipped weights inside the package.

`baselines/` itself, with its recipes, is no package of a wheel: its data go to `cm3leon/shipped/`,
where `cm3leon.files.shipped_folder` finds them.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = "cm3leon/shipped"


def shipped() -> list[Path]:
    """The files of `baselines/` that a wheel holds, whatever models stand there."""
    home = ROOT / "baselines"
    return [home / "published.json", *sorted(p for p in home.glob("scenes/*/*") if p.is_file())]


class WithWeights(build_py):
    """Copies the package, then the weights."""

    def run(self):
        if self.editable_mode:  # the checkout's own baselines/ are used
            return super().run()
        shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier build left
        super().run()
        for path in shipped():
            target = self._place(path)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        found = super().get_outputs(include_bytecode)
        return found if self.editable_mode else [*found, *(str(self._place(p)) for p in shipped())]

    def _place(self, path: Path) -> Path:
        return Path(self.build_lib) / SHIPPED / path.relative_to(ROOT / "baselines")


setup(cmdclass={"build_py": WithWeights})
