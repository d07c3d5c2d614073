"""Tar bytes. `entry` is a member as a value; `header` and `writer` make archives of members in either profile;
`source`, `fields`, `pax`, `sparse` and `reader` take in what comes from anywhere, strictly; `split` takes an archive
apart, `join` puts it together again, `headers` tells its members from that; a `region` is a part of a file that need
not be read to be sent; `compression` tells and undoes what an archive is wrapped in.
"""
