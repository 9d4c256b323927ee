"""Self-improvement of vision-language models from their own reasoning.

Importing this package is cheap on purpose: nothing here imports torch (see tests/test_light_imports.py).
"""

__version__ = "0.1.0"
