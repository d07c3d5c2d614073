"""Durable export jobs: exports into object storage or files that survive the process.

job       plain data: what is wanted, how far it is, how it ended
planning  names to a plan
schema    the tables; ledger: reading and writing them
fairness  which queued job is next
attempt   one job, run once
jobs      the queue: submit, cancel, follow, drain
"""
