"""The command line: it works on the stores themselves, no server needs to run.

main       the entry; commands by name, options before them, one line and an exit code for every failure
help       what `--help` shows beside the signatures
listing, export, store, serve, doctor      the commands
options    what several of them share           running   settings, service and signals around a command
output, source                                  files, pipes and terminals that archives go to and come from
table, emit, progress, complain, exit           what people and scripts see
"""
