"""Hooks for setuptools (setup.cfg, cmdclass): compile the C parts, and tag the wheel accordingly.

Only the package's own build imports this module and setuptools.
"""

from __future__ import annotations

import os
import sys

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# The source tree is not on the path of a build back end (PEP 517, "Source trees").
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from dumm_tools.agent import HERE, INITRD, JAIL, PRELOAD, build


class BuildPy(build_py):
    """Compile into the build tree or, for an editable install, into the source tree."""

    def run(self) -> None:
        """Copy the modules, then compile."""
        super().run()
        target = HERE if self.editable_mode else os.path.join(self.build_lib, "dumm_tools", "agent")
        try:
            build.build(target)
        except build.BuildError as e:
            # Not an ordinary exception: an editable install reports those as mere warnings.
            raise SystemExit(str(e)) from None

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The modules and the compiled files."""
        made = [os.path.basename(path) for path in (INITRD, JAIL, PRELOAD)]
        target = os.path.join(self.build_lib, "dumm_tools", "agent")
        return [*super().get_outputs(include_bytecode), *(os.path.join(target, n) for n in made)]


class Wheel(bdist_wheel):
    """A wheel for any Python on this kind of machine: the C parts use neither Python nor a
    certain libc."""

    def finalize_options(self) -> None:
        """Declare that there is machine code before the location of the modules is decided."""
        self.distribution.has_ext_modules = lambda: True  # type: ignore[method-assign]
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none, and the oldest platform for which PyPI's rules have a plain name (PEP 600).

        The compiled programs are static, and preload.so fits any C library; PyPI does not accept
        `linux_x86_64`, the default tag of the platform.
        """
        platform = super().get_tag()[2]
        kind, _, machine = platform.partition("_")
        if kind == "linux":
            platform = f"manylinux2014_{machine}.manylinux_2_17_{machine}"
        return "py3", "none", platform
