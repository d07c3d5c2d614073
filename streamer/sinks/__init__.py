"""Where exports are kept: object storage, or a file. What is visible there is complete and right.

address         where an export goes, as a URI
base            plain data, and what every storage can do
delivery        one export into one storage: parts, ranges in parallel, the digest of the whole
cutting, sizes  a stream into parts; how long they are
s3, multipart   S3 and compatible: calls with retries; an upload in parts
object_storage  Google Cloud Storage, Azure Blob, memory
file            a file that appears when it is complete
storages        addresses to storages; owns their connections
"""
