"""Whole commands as functions: what chains data, training, evaluation and distillation.

A workflow takes its options as a dataclass, resumes what an earlier call began, and tells a ``Reporter`` how
far it is. ``cli`` only reads options and prints results.
"""
