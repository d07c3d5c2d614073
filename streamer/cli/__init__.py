"""The command line: it works on the stores themselves, no server needs to run.

entry      where a process begins               main       commands by name, options before them, how failures end
help       what `--help` shows beside the signatures
build, config, context, copy, doctor, export, listing, serve, store, sum, token      the commands
options, export_options                         what they take
archive, building, downloading, importing, removing, uploading      their work
running    settings, service and signals around a command
writing, output, source                         objects, files, pipes and terminals that archives go to and come from
table, emit, progress, complain, exit           what people and scripts see
"""
