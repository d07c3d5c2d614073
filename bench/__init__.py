"""Side by side with the peers: one command (`make bench`), the same tree, the same run, interleaved.

run         the command line: which works, how often, where trees live
works/      one module for each work: what is measured against what, and which bars that decides
measure     a round of every subject, warm or cold; what one measurement says
peers       subjects: a request to a server, a pipeline of programs, several of either at once
server      streamer and nginx as processes of their own        client     curl, and sockets where curl says too little
engines     Docker, Podman and streamer's own store, filled by the benchmark
trees       what they are filled with                           namespace  private mounts, cold page cache
processes   daemons that end with the benchmark; CPU time and memory of a process and its children
stats       median, spread, ratio      bars  what has to be reached
results     what was measured, as JSON and as RESULTS.md        table      for the terminal and for Markdown
machine     what it was measured on                             probe      a tiny request every few milliseconds
"""
