"""Exports: what is decided (`plan`), how its bytes are made (one module per kind) and how they are handed out.

plan_*(catalog, …) -> ExportPlan      everything that can fail with a status fails here; nothing is opened
Exporter.open(plan)                   the only way to obtain bytes: an async context manager around a stream
pipe                                  between the export's thread and its reader; an error crosses it, never a silence
"""
