"""Which packages there are; everything else is in setup.cfg, which cannot say that `dataset_builders/` and `scripts/` go into the
package."""

from setuptools import find_packages, setup


setup(
    packages=[
        *find_packages(include=["cmssl_hf*"]),
        "cmssl_hf.scripts",
        *(f"cmssl_hf.{name}" for name in find_packages(include=["dataset_builders*"])),
    ]
)
