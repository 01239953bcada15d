"""What pyproject.toml cannot say: a wheel holds expected_results/, which a checkout has at its top, in the package."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXPECTED = "expected_results"
PATTERNS = ("*.toml", "reference/*/*.json", "reference/*/weights/*.safetensors")


class WithExpectedResults(build_py):
    """Copies the expected results too, unless the install is editable: that one reads the checkout's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._expected().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._expected()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        expected = [] if self.editable_mode else self._expected().values()
        return [*super().get_outputs(include_bytecode), *expected]

    def _expected(self) -> dict[str, str]:
        """Each file, and where it goes."""
        files = sorted(path for pattern in PATTERNS for path in Path(EXPECTED).glob(pattern))
        return {str(path): str(Path(self.build_lib, "softadv", path)) for path in files}


setup(cmdclass={"build_py": WithExpectedResults})
