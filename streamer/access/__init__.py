"""Who may do what: bearer tokens, their scopes, and files that are read again when they change. Pure, no HTTP.

scope   what a caller may do, to which stores and names     token   a token as the file keeps it, made and recognised
secret  files that nobody else may read                      watch   what was made of files, made again when they change
"""
