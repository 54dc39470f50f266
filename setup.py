"""Builds the compiled decoding step also without OpenMP, which Apple's compiler lacks; else see pyproject.toml."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

OPENMP = "-fopenmp"


class BuildStep(build_ext):
    """With OpenMP, or else with threads of our own (`native/pool.h`)."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:  # the compiler's errors have classes that differ by version
            if OPENMP not in ext.extra_compile_args:
                raise
            print(f"without OpenMP: {error}")
            ext.extra_compile_args = [flag for flag in ext.extra_compile_args if flag != OPENMP]
            ext.extra_link_args = [*(flag for flag in ext.extra_link_args if flag != OPENMP), "-pthread"]
            super().build_extension(ext)


setup(cmdclass={"build_ext": BuildStep})
