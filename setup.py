"""What pyproject.toml cannot say: a wheel carries configs/ and models/ inside the package (selftrain/shipped.py)."""

from setuptools import find_packages, setup

SHIPPED = {f"selftrain.shipped.{folder}": folder for folder in ("configs", "models")}

setup(
    packages=[*find_packages(include=["selftrain*", "data_process*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        **{package: ["**/*"] for package in SHIPPED},
        "selftrain.report": ["templates/*"],
        "selftrain.export": ["templates/*"],
        "data_process": ["*.toml"],
    },
)
