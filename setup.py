"""What pyproject.toml cannot say: in the wheel, the folder configs/ lies inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["probegen_jax*"]), "probegen_jax.configs"],
    package_dir={"probegen_jax.configs": "configs"},
)
