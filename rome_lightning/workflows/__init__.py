"""Whole commands as functions: they chain data, training, evaluation and distillation.

A workflow takes its options as a dataclass, resumes an interrupted call, and reports progress to a
``Reporter``. ``cli`` only reads options and prints results.
"""
